"""One page that says what was measured, how, and what came out; no torch, no network."""

from ravine.report.document import write_report

__all__ = ["write_report"]
