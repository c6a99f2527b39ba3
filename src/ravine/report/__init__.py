"""One page that says what was measured, how, and what came out; needs no torch and no network to be read."""

from ravine.report.document import write_report

__all__ = ["write_report"]
