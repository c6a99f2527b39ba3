"""The structure of the code in numbers: ``python tests/house.py``. The tests hold some of them."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "ravine"

#: Nodes that hold a docstring.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Size:
    """How long something is, in lines without docstrings."""

    name: str
    lines: int


def root_modules() -> list[str]:
    """Modules at the root of the package."""
    return sorted(path.name for path in SOURCE.glob("*.py"))


def classes() -> list[Size]:
    """Every class, the largest first."""
    found = (
        Size(f"{path.relative_to(SOURCE)}: {node.name}", _lines(node))
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    return sorted(found, key=lambda size: -size.lines)


def functions() -> list[Size]:
    """Every function, the largest first."""
    found = (
        Size(f"{path.relative_to(SOURCE)}: {node.name}", _lines(node))
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return sorted(found, key=lambda size: -size.lines)


def statements() -> int:
    """How many statements there are."""
    return sum(isinstance(node, ast.stmt) for _, tree in _trees() for node in ast.walk(tree))


def nested_comprehensions() -> list[str]:
    """Where a comprehension stands inside another one."""
    return [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, _COMPREHENSIONS) and _holds(node, _COMPREHENSIONS)
    ]


def double_ternaries() -> list[str]:
    """Statements with two conditional expressions or more."""
    return [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return | ast.Expr)
        and sum(isinstance(part, ast.IfExp) for part in ast.walk(node)) > 1
    ]


def long_lines(most: int = 100) -> list[str]:
    """Lines over so many characters."""
    return [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > most
    ]


@functools.cache
def _trees() -> tuple[tuple[Path, ast.Module], ...]:
    """Every module's tree; parsing is most of the work."""
    files = sorted(SOURCE.rglob("*.py"))
    return tuple((path, ast.parse(path.read_text(encoding="utf-8"))) for path in files)


def _lines(node: ast.AST) -> int:
    """Lines of a definition, those of docstrings and blank ones not counted."""
    kept: set[int] = set()
    left_out: set[int] = set()
    for part in ast.walk(node):
        first, last = getattr(part, "lineno", None), getattr(part, "end_lineno", None)
        if first is not None and last is not None:
            kept |= set(range(first, last + 1)) if not isinstance(part, _DOCUMENTED) else {first}
        if isinstance(part, _DOCUMENTED) and ast.get_docstring(part) is not None:
            text = part.body[0]
            left_out |= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return len(kept - left_out)


def _holds(node: ast.AST, kinds: tuple[type[ast.AST], ...]) -> bool:
    return any(isinstance(part, kinds) for part in ast.walk(node) if part is not node)


def main() -> None:
    """Print the numbers."""
    sizes, bodies, total = classes(), functions(), statements()
    share = 100 / total
    print(f"modules at the root: {len(root_modules())}: {', '.join(root_modules())}")
    print(f"classes: {len(sizes)}; the largest: {[f'{s.name} {s.lines}' for s in sizes[:5]]}")
    print(f"functions: {len(bodies)}; the largest: {[f'{s.name} {s.lines}' for s in bodies[:5]]}")
    print(f"statements: {total}")
    print(f"nested comprehensions per 100: {share * len(nested_comprehensions()):.2f}")
    print(f"statements with two ternaries per 100: {share * len(double_ternaries()):.2f}")
    print(f"lines over 100 characters: {len(long_lines())}")


if __name__ == "__main__":
    main()
