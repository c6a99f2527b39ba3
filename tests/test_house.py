"""The house keeps its shape: few modules at the root, no large class, lines of one idea."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import house
import ravine

ROOT = Path(__file__).parent.parent


def test_the_root_holds_the_face_and_little_else():
    assert house.root_modules() == [
        "__init__.py",
        "__main__.py",
        "cli.py",
        "demo.py",
        "errors.py",
        "files.py",
    ]


def test_no_class_is_large():
    largest = house.classes()[0]
    assert largest.lines < 200, largest


def test_no_line_is_long():
    assert house.long_lines() == []


def test_a_line_holds_one_idea():
    per_100 = 100 / house.statements()
    assert per_100 * len(house.nested_comprehensions()) <= 0.08, house.nested_comprehensions()
    assert per_100 * len(house.double_ternaries()) <= 0.06, house.double_ternaries()


def test_lines_are_counted_without_docstrings():
    import ast

    tree = ast.parse(
        'class A:\n    """One.\n\n    Two.\n    """\n\n'
        '    def f(self):\n        """Three."""\n        return 1\n'
    )
    assert house._lines(tree.body[0]) == 3


def test_the_version_is_the_same_everywhere():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert cited is not None
    assert newest is not None
    assert cited[1] == newest[1] == declared


def test_the_package_says_its_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ravine.__version__)
    with pytest.raises(AttributeError, match="no_such_name"):
        ravine.no_such_name  # noqa: B018
