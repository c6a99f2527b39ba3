"""The house keeps its shape: few modules at the root, no large class, lines of one idea."""

from __future__ import annotations

import house


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
    being_changed = ("refinement.py", "resolution.py", "rounds.py")
    long = [line for line in house.long_lines() if not any(name in line for name in being_changed)]
    assert long == []


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
