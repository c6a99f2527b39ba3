"""The one exception that bad input raises."""

from __future__ import annotations


class InputError(ValueError):
    """What the caller gave cannot be used: what was expected, what came, and what to do.

    The command line turns it into one sentence and exit code 2. Nothing has been written or changed
    when it is raised.
    """
