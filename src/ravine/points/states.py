"""States: which of the mappings inside a checkpoint is the model's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

from ravine.errors import InputError
from ravine.points.params import is_float

#: What training keeps beside the model, by how a word of its key begins: their tensors are
#: no model's.
_BESIDE: Final = re.compile(
    r"(?:^|[^a-z])"
    r"(?:optim(?:i[sz]er|s?(?:$|[^a-z]))|sched|scaler|rng|random|callback|loop|hyper|args)"
)

_DEEPEST: Final = 4  # mappings one inside the other
_MOST: Final = 64  # entries of a list that are looked into
_SHOWN: Final = 8


def chosen(held: Mapping[Any, Any], label: str, wanted: str = "") -> Mapping[Any, Any]:
    """The state dict in what a file or a caller holds.

    Args:
        held: a state dict, or a mapping that has some inside, as training scripts save them.
        label: where it came from, for messages.
        wanted: which one: its key, keys joined by dots where it lies deeper, or the common
            beginning of its names in a flat one. "" where there is one only.

    Returns:
        Names and tensors; entries that say nothing of parameters (``_extra_state``) are left out.

    Raises:
        InputError: there is none, several and no word which, or none of that name.

    Examples:
        >>> import torch
        >>> chosen({"model": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}}, "a.pt", "ema")
        {'w': tensor([1.])}
    """
    walked = list(_containers(held))
    found = {place: _tensors(here) for place, here in walked if _is_state(here)}
    if wanted:
        return _named(found, label, wanted)
    if "" in found:
        return found[""]
    distinct = _distinct(_substantial(found))
    if distinct:
        _require_none_beside(walked, label, next(iter(distinct)))
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if distinct:
        first = next(iter(distinct))
        msg = (
            f"{label} holds {len(distinct)} state dicts: {_few(distinct)}. Name one: as a path "
            f"'FILE::{first}', as a mapping [{first!r}]."
        )
        raise InputError(msg)
    raise _none(held, label)


def _containers(held: Any) -> Iterator[tuple[str, Any]]:
    """Every state dict and what may hold one, by its place.

    Each is looked into once, also one that holds itself.
    """
    waiting, seen = [("", held, 0)], set[int]()
    while waiting:
        place, here, depth = waiting.pop(0)
        here = here.state_dict() if isinstance(here, nn.Module) else here
        yield place, here
        if not _is_state(here) and depth < _DEEPEST and id(here) not in seen:
            seen.add(id(here))
            front = f"{place}." if place else ""
            waiting.extend((front + key, value, depth + 1) for key, value in _entries(here))


def _require_none_beside(walked: list[tuple[str, Any]], label: str, first: str) -> None:
    """Refuse to choose a state dict inside a mapping that has weights of its own.

    Raises:
        InputError: naming one of those.
    """
    for _, here in walked:
        entries = () if _is_state(here) else _entries(here)
        beside = [key for key, value in entries if isinstance(value, Tensor) and _is_weight(value)]
        if beside:
            msg = (
                f"{label} holds tensors ({beside[0]!r}, {len(beside)} in all) beside the state "
                f"dict {first!r}. If that is the one, name it: as a path 'FILE::{first}', as a "
                f"mapping [{first!r}]."
            )
            raise InputError(msg)


def _is_weight(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and is_float(tensor)


def _entries(held: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(held, Mapping):
        if "param_groups" in held:
            return  # an optimiser's
        for key, value in held.items():
            if isinstance(key, str) and not _BESIDE.search(key.lower()):
                yield key, value
    elif isinstance(held, list | tuple) and len(held) <= _MOST:
        for number, value in enumerate(held):
            yield str(number), value


def _is_state(held: Any) -> bool:
    if not isinstance(held, Mapping):
        return False
    inside = _tensors(held)
    return bool(inside) and all(isinstance(value, Tensor) for value in inside.values())


def _tensors(held: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in held.items() if not str(name).endswith("_extra_state")}


def _substantial(found: dict[str, Any]) -> dict[str, Any]:
    """Those with more than single numbers (counts and metrics), where there are such."""
    large = {place: state for place, state in found.items() if any(map(_is_weight, state.values()))}
    return large or found


def _under(front: str, state: dict[Any, Any]) -> dict[Any, Any]:
    """The entries whose names begin so, without that beginning."""
    return {
        name.removeprefix(front): of for name, of in state.items() if str(name).startswith(front)
    }


def _distinct(found: dict[str, Any]) -> dict[str, Any]:
    """Without those that are another one under a second key."""
    kept: dict[tuple[Any, ...], str] = {}
    for place, state in found.items():
        kept.setdefault(tuple((name, id(tensor)) for name, tensor in state.items()), place)
    return {place: found[place] for place in kept.values()}


def _named(found: dict[str, Any], label: str, wanted: str) -> Mapping[Any, Any]:
    if wanted in found and wanted:
        return found[wanted]
    below = [place for place in found if place.startswith(f"{wanted}.")]
    if len(below) == 1:
        return found[below[0]]
    if below:
        msg = f"{label} holds {len(below)} state dicts under {wanted!r}: {_few(below)}. Name one."
        raise InputError(msg)
    front = f"{wanted}."
    parts = {place: _under(front, state) for place, state in _distinct(found).items()}
    held = {place: part for place, part in parts.items() if part}
    if len(held) == 1:
        return next(iter(held.values()))
    if held:
        msg = f"{label} has names that begin with {front!r} in {_few(held)}. Name one of them."
        raise InputError(msg)
    named = _few([place for place in found if place])
    there = f"there are {named}" if named else "there is one, without a name"
    msg = f"{label} holds no state dict {wanted!r} and no name that begins with {front!r}; {there}"
    raise InputError(msg)


def _none(held: Mapping[Any, Any], label: str) -> InputError:
    inside = _tensors(held)
    strange = [
        f"{k!r} ({type(v).__name__})" for k, v in inside.items() if not isinstance(v, Tensor)
    ]
    what = f"found {', '.join(strange[:5])}{' …' if len(strange) > 5 else ''}"
    return InputError(
        f"{label} is not a mapping of names to tensors: {what if strange else 'it is empty'}. "
        "Expected a state dict, or a dict that holds one under a key such as 'state_dict' or "
        "'model'."
    )


def _few(places: Any) -> str:
    listed = [repr(place) for place in places]
    more = f", … ({len(listed)})" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
