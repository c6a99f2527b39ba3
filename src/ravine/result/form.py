"""Form: whether what a file holds has the parts of a result, each of its shape and kind.

A file from a stranger, or from a disk that failed, can be sound as netCDF and yet hold anything at
all. What is looked at here is what the sentences, figures and tables take for granted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.result.interpolant import is_resolved, pieces_of
from ravine.result.schema import CORNERS, PROVENANCE, kind_of, quantities

#: Attributes that are numbers.
_NUMBERS: Final = frozenset(
    {
        "allowed_error", "cosine", "curved", "judged_difference", "judged_lower", "judged_stderr",
        "judged_upper", "largest_gap", "length", "length_a", "length_b", "level", "level_share",
        "looks", "resolved", "running_statistics", "seed", "stderr_asked", "stderr_reached",
        "tolerance", "wall_seconds",
    }
)  # fmt: skip
#: Attributes that are texts, beside those of ``PROVENANCE`` and ``CORNERS`` that are no numbers.
_TEXTS: Final = frozenset(
    {
        "corners", "correction", "drive", "file", "judge", "judged_answer", "judged_reason",
        "method", "per_example", "quantity", "reused", "rule", "select", "statistics_from", "title",
    }
)  # fmt: skip
#: Attributes of either kind: a number, or words where each line has its own.
_EITHER: Final = frozenset({"batch_size"})
#: Attributes that are JSON objects.
_OBJECTS: Final = frozenset({"asked", "examples_of"})
#: Attributes of a variable: numbers, and texts.
_OWN_NUMBERS: Final = frozenset({"counted", "resolved", "share"})
_OWN_TEXTS: Final = frozenset({"long_name", "units"})

#: Kind → the dims of its curves, beside ``split``.
_SLICES: Final = {
    "line": ("alpha",),
    "lines": ("line", "alpha"),
    "plane": ("alpha", "beta"),
    "path": ("step",),
}
#: Along a run's steps; and of every walk that it is compared with.
_STEPS: Final = (
    "alpha", "cosine", "displacement", "distance", "path_length", "residual", "step", "step_length",
)  # fmt: skip
_PERHAPS_STEPS: Final = ("beta", "null_alpha", "null_residual", "step_cosine")
_WALKS: Final = ("captured", "captured_squares", "directness", "max_residual")
_TRIES: Final = ("accepted", "difference", "lower", "stderr", "upper", "value")
_SOUP: Final = (
    "judge", "judged_answer", "judged_difference", "judged_lower", "judged_stderr", "judged_upper",
    "method", "quantity", "rule", "select", "tolerance",
)  # fmt: skip
_ANSWERS: Final = ("better", "worse", "tied", "undecided")


def problem_of(result: xr.Dataset) -> str:
    """What keeps a result that was read from being one; "" where nothing does.

    Args:
        result: one that has passed ``validate``.

    Examples:
        >>> problem_of(xr.Dataset({"loss": ("split", [0.5])}, attrs={"schema_version": 2}))
        "the attribute 'created' is missing"
    """
    return next(_problems(result), "")


def _problems(result: xr.Dataset) -> Iterator[str]:
    kind = kind_of(result)
    yield from _of_attributes(result, kind)
    if kind == "soup":
        yield from _of_a_soup(result)
        return
    if kind == "path":
        yield from _of_a_path(result)
    if "loss" in result and (kind != "path" or "split" in result.dims):
        yield from _of_curves(result, kind)


# --- attributes -----------------------------------------------------------------------------------


def _of_attributes(result: xr.Dataset, kind: str) -> Iterator[str]:
    corners = {name for names in CORNERS.values() for name in names}
    texts = (_TEXTS | corners | set(PROVENANCE)) - _NUMBERS - _EITHER
    yield from _strange(result.attrs, _NUMBERS, texts, "the result")
    for name, variable in result.variables.items():
        yield from _strange(variable.attrs, _OWN_NUMBERS, _OWN_TEXTS, repr(name))
    for name in sorted(_OBJECTS & set(result.attrs)):
        if not _is_object(result.attrs[name]):
            yield f"the attribute {name!r} is no JSON object"
    own = _SOUP if kind == "soup" else _corners(result, kind)
    for name in ("created", *own):
        if name not in result.attrs:
            yield f"the attribute {name!r} is missing"


def _corners(result: xr.Dataset, kind: str) -> list[str]:
    if kind in ("line", "plane"):
        resolved = ["tolerance", "resolved", "largest_gap"] if is_resolved(result) else []
        return [*CORNERS[kind], *resolved]
    return ["length"] if kind == "path" else []


def _strange(
    held: Mapping[Any, Any], numbers: Iterable[str], texts: Iterable[str], owner: str
) -> Iterator[str]:
    for name in sorted(set(numbers) & set(held)):
        if np.ndim(held[name]) or np.asarray(held[name]).dtype.kind not in "biuf":
            yield f"{owner} has {name!r} = {str(held[name])[:40]!r}; expected a number"
    for name in sorted(set(texts) & set(held)):
        if not isinstance(held[name], str):
            yield f"{owner} has {name!r} = {str(held[name])[:40]!r}; expected a text"


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError, RecursionError):
        return False


# --- variables ------------------------------------------------------------------------------------


def _of_curves(result: xr.Dataset, kind: str) -> Iterator[str]:
    slices, names = _SLICES[kind], quantities(result)
    if kind != "path":
        for dim in slices:
            yield from _axis(result, dim, "U" if dim == "line" else "fiu")
        away = result.variables["distance"].dims if "distance" in result else slices
        shared = kind == "lines" and "line" not in away  # by lines between the same points
        yield from _shaped(result, ["distance"], ("alpha",) if shared else slices)
    yield from _axis(result, "split", "U")
    for name in names:
        yield from _shaped(
            result, [name, f"{name}_stderr", f"{name}_noise_floor"], (*slices, "split")
        )
        yield from _shaped(result, [f"{name}_replicates"], (*slices, "split", "replicate"))
    counts = [name for name in ("n_examples", "n_units") if name in result]
    yield from _shaped(result, counts, ("split",))
    if any((result[name] < 1).any() for name in counts):
        yield "it counts fewer examples than one"
    if kind == "lines":
        yield from _shaped(result, ["length"], ("line",))
        yield from _shaped(result, ["start", "end", "start_hash", "end_hash"], ("line",), "U")
    if is_resolved(result):
        yield from _of_interpolants(result, kind, names)


def _of_interpolants(result: xr.Dataset, kind: str, names: Sequence[str]) -> Iterator[str]:
    along = "check" if kind == "plane" else "piece"
    parts = ("alpha", "beta") if kind == "plane" else ("low", "high", "degree", "resolved")
    yield from _shaped(result, [f"{along}_{part}" for part in parts], (along,))
    for name in names:
        yield from _shaped(result, [f"{name}_misfit"], (along, "split"))
        yield from _shaped(
            result, [f"{name}_log"], ("split",) if kind == "plane" else (along, "split")
        )
        if kind == "plane":
            yield from _shaped(result, [f"{name}_checked"], (along, "split"))
    if kind == "line":
        yield from _of_pieces(result)


def _of_pieces(result: xr.Dataset) -> Iterator[str]:
    low, high, degree = (result[f"piece_{name}"].values for name in ("low", "high", "degree"))
    apart = len(low) and (low[1:] >= high[:-1]).all() and (low < high).all()
    if not apart or (degree < 1).any() or (degree >= result.sizes["alpha"]).any():
        yield "its pieces are no intervals one after the other, each with a degree"
        return
    alpha = np.sort(result["alpha"].values)
    try:
        for piece in pieces_of(result):
            piece.rows(alpha)
    except InputError as problem:
        yield str(problem)


def _of_a_path(result: xr.Dataset) -> Iterator[str]:
    there = [name for name in _PERHAPS_STEPS if name in result]
    yield from _shaped(result, [*_STEPS, *there], ("step",))
    yield from _axis(result, "walk", "U")
    yield from _shaped(result, _WALKS, ("walk",))
    if not set(map(str, result["walk"].values)) >= {"run"}:
        yield "'walk' lacks the run"


def _of_a_soup(result: xr.Dataset) -> Iterator[str]:
    yield from _shaped(result, _TRIES, ("step",))
    yield from _shaped(result, ["step", "reason"], ("step",), "U")
    yield from _shaped(result, ["member_value", "weight"], ("member",))
    yield from _shaped(result, ["member", "member_hash"], ("member",), "U")
    if result.attrs["judged_answer"] not in _ANSWERS:
        yield (
            f"the answer is {result.attrs['judged_answer'][:40]!r}; expected one of "
            f"{', '.join(_ANSWERS)}"
        )


def _shaped(
    result: xr.Dataset, names: Iterable[str], dims: Sequence[str], kinds: str = "biuf"
) -> Iterator[str]:
    """What is wrong with variables of these dims, in any order, and of these kinds of type."""
    for name in names:
        if name not in result.variables:
            yield f"{name!r} is missing"
            return
        found = result.variables[name]
        if sorted(map(str, found.dims)) != sorted(dims):
            yield (
                f"{name!r} has the dims {', '.join(map(str, found.dims))}; expected "
                f"{', '.join(dims)}"
            )
            return
        if found.dtype.kind not in kinds and not (kinds == "U" and _holds_texts(found.values)):
            yield f"{name!r} is of the type {found.dtype}"


def _holds_texts(values: np.ndarray) -> bool:
    return values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat)


def _axis(result: xr.Dataset, dim: str, kinds: str) -> Iterator[str]:
    """What is wrong with the coordinate of a dim: one value for each place, all different."""
    yield from _shaped(result, [dim], (dim,), kinds)
    values = result[dim].values
    if not len(values) or len(set(values.tolist())) < len(values):
        yield f"{dim!r} is empty, or holds a value twice"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        yield f"{dim!r} is not finite"
