"""Work in a child process that is killed at a chosen moment."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable

SIGNALS = (signal.SIGKILL, signal.SIGINT)


def in_a_child(
    work: Callable[[], object],
    *,
    killed_after: Callable[[float], bool] | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> int:
    """Do something in a forked process, until ``killed_after`` says so of its seconds.

    Returns:
        Its exit code, negative for a signal.
    """
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open("said", "a") as said:
            sys.stdout = sys.stderr = said
            code = 1
            try:
                code = int(work() or 0)
            finally:
                said.flush()
                os._exit(code)
    if killed_after is not None:
        began = time.monotonic()
        while not killed_after(time.monotonic() - began):
            time.sleep(0.01)
        os.kill(child, by)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_until_done(work: Callable[[], object], seconds: float, drawn: random.Random) -> int:
    """Do something that is killed up to four times at random moments, and then in peace.

    Args:
        work: what is to go on where it was.
        seconds: about how long it takes in one go.
        drawn: where the moments come from.

    Returns:
        How many times it was killed.
    """
    for kills in range(4):
        moment = drawn.uniform(0, 0.6 * seconds)
        if not in_a_child(work, killed_after=moment.__lt__, by=drawn.choice(SIGNALS)):
            return kills
    assert in_a_child(work) == 0
    return 4
