"""For the whole suite: the long files first, and no garbage collection while tests are collected.

So no worker is left with a long file when the others are done.
"""

from __future__ import annotations

import gc

import pytest

#: Longest first; pytest-xdist gives files out in this order with ``--no-loadscope-reorder``.
LONGEST = (
    "test_cli.py",
    "test_docs.py",
    "test_align.py",
    "test_report.py",
    "test_report_browser.py",
    "test_executors.py",
    "test_paper_figures.py",
    "test_paper_recipes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the long files to the front; the order is otherwise kept."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


def pytest_sessionstart() -> None:
    """Collecting imports everything, and makes no garbage worth a fifth of its time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on what was imported is not looked through again."""
    gc.freeze()
    gc.enable()
