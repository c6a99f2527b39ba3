"""A table of measures as text: LaTeX (booktabs), Markdown, or tab-separated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

_SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}

_SYMBOLS: Final = {
    "α": r"\alpha",
    "β": r"\beta",
    "θ": r"\theta",
    "γ": r"\gamma",
    "Σ": r"\sum",
    "±": r"\pm",
    "−": "-",
    "→": r"\to",
    "≤": r"\le",
    "≥": r"\ge",
    "×": r"\times",
    "·": r"\cdot",
    "∞": r"\infty",
    "‖": r"\|",
    "²": "^2",
    "₀": "_0",
    "₁": "_1",
    "₂": "_2",
}

#: Columns of a split, in a spreadsheet.
_PARTS: Final = ("", " stderr", " lower", " upper", " at")

_NUMBER: Final = r"[−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"

#: A number, with its standard error if it has one, and before it what it is the value of: one
#: formula.
_FORMULA: Final = re.compile(rf"(?<![\w.])(?:[αβ] = )?{_NUMBER}(?: ± {_NUMBER})?(?![\w.])")


@dataclass(frozen=True)
class Cell:
    """A measure on one split.

    Attributes:
        numbers: value, standard error, lower and upper bound in full, each "nan" if there is none.
        text: what is read.
        at: where it was found, "" for nowhere in particular.
        note: what is special about it, "" for nothing.
    """

    numbers: tuple[str, ...]
    text: str
    at: str
    note: str


@dataclass(frozen=True)
class Measure:
    """A row of the table of measures; None where a split has no such measure."""

    name: str
    note: str
    cells: tuple[Cell | None, ...]


def copies(title: str, splits: Sequence[str], measures: Sequence[Measure]) -> dict[str, str]:
    """What each button of a table copies."""
    return {
        "LaTeX": latex(title, splits, measures),
        "Markdown": markdown(title, splits, measures),
        "TSV": separated(splits, measures),
    }


def latex(title: str, splits: Sequence[str], measures: Sequence[Measure]) -> str:
    r"""A ``tabular`` with the rules of the package ``booktabs``.

    Examples:
        >>> cell = Cell(("0.2756",), "0.276 [0.244, 0.31]", "α = 0.49", "")
        >>> rows = [Measure("barrier (end)", "", (cell,))]
        >>> print(latex("loss", ["train"], rows))
        % loss; needs \usepackage{booktabs}
        \begin{tabular}{ll}
          \toprule
          measure & train \\
          \midrule
          barrier (end) & $0.276$ [$0.244$, $0.31$] ($\alpha = 0.49$) \\
          \bottomrule
        \end{tabular}
    """
    head, *rows = (" & ".join(map(in_latex, row)) + r" \\" for row in _rows(splits, measures))
    body = [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join(
        [
            f"% {' '.join(title.split())}; needs \\usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{l{'l' * len(splits)}}}",
            *(f"  {line}" for line in body),
            r"\end{tabular}",
        ]
    )


def markdown(title: str, splits: Sequence[str], measures: Sequence[Measure]) -> str:
    r"""A pipe table.

    Examples:
        >>> print(markdown("loss", ["a|b"], [Measure("plateau", "", (None,))]))
        | loss | a\|b |
        |---|---|
        | plateau | none |
    """
    (_, *names), *rows = _rows(splits, measures)
    head, *body = (f"| {' | '.join(map(_in_markdown, row))} |" for row in [[title, *names], *rows])
    rule = "|---" * (len(splits) + 1) + "|"
    return "\n".join([head, rule, *body])


def separated(splits: Sequence[str], measures: Sequence[Measure]) -> str:
    """Numbers in full, with tabs between: value, standard error, bounds and place by split."""
    head = ["measure", *(f"{split}{part}" for split in splits for part in _PARTS)]
    rows = [[measure.name, *chain(*map(_parts, measure.cells))] for measure in measures]
    return "\n".join("\t".join(map(_on_one_line, row)) for row in [head, *rows])


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def in_latex(text: str) -> str:
    r"""Text that means the same in LaTeX, numbers and Greek letters as formulas.

    Examples:
        >>> print(in_latex("72 % of a_b, −0.5 ± 0.01 at α = 1e-05"))
        $72$ \% of a\_b, $-0.5 \pm 0.01$ at $\alpha = 1 \times 10^{-5}$
    """
    pieces, done = [], 0
    for found in _FORMULA.finditer(text):
        pieces += [_plain(text[done : found.start()]), f"${_formula(found.group())}$"]
        done = found.end()
    return "".join([*pieces, _plain(text[done:])])


def _rows(splits: Sequence[str], measures: Sequence[Measure]) -> list[list[str]]:
    return [
        ["measure", *splits],
        *([measure.name, *map(_shown, measure.cells)] for measure in measures),
    ]


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "none"
    return f"{cell.text} ({cell.at.removeprefix('at ')})" if cell.at else cell.text


def _parts(cell: Cell | None) -> tuple[str, ...]:
    if cell is None:
        return ("",) * len(_PARTS)
    value, *others = cell.numbers
    return (value, *("" if number == "nan" else number for number in others), cell.at)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\|`*_<])", r"\\\1", " ".join(text.split()))


def _plain(text: str) -> str:
    return "".join(
        _SPECIAL.get(letter) or (f"${_SYMBOLS[letter]}$" if letter in _SYMBOLS else letter)
        for letter in text
    )


def _formula(text: str) -> str:
    powers = re.sub(
        r"e([+-]?)0*(\d+)", lambda e: rf" \times 10^{{{e[1].replace('+', '')}{e[2]}}}", text
    )
    thousands = powers.replace(",", "{,}")
    return "".join(_SYMBOLS.get(letter, letter) for letter in thousands)
