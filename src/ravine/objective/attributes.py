"""Attributes: what modules keep beside parameters and buffers, and how to give it back.

A layer may keep what it made of its weights: a merged matrix, an expanded filter, class
embeddings of the first call. The next point has other weights, so what a forward pass left
behind is taken away.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType, SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.objective.trees import flatten
from ravine.points.params import version_of

#: what every module has
_OWN: Final = frozenset(vars(nn.Module()))
_CONTAINERS: Final = dict | list | set | deque
_HOLDERS: Final = _CONTAINERS | tuple | MethodType | functools.partial
#: where a module keeps parameters, buffers and modules
_REGISTERED: Final = frozenset(["_parameters", "_buffers", "_modules"])
_FILLED: Final = (dict, list, set, deque)
_DEPTH: Final = 2  # of objects in objects that are looked into


@dataclass(frozen=True)
class _Held:
    """An attribute as it was: the object, what it contained, how often it was written to.

    Attributes:
        value: the object.
        contents: containers in it, itself included, each with what it contained.
        version: of a tensor.
    """

    value: Any
    contents: tuple[tuple[Any, Any], ...] = ()
    version: int = 0


class Attributes:
    """The plain attributes of all modules of a model, and of helper objects there, as they are now.

    Args:
        model: whose.

    Examples:
        >>> layer = nn.Linear(1, 1)
        >>> held = Attributes(layer)
        >>> layer.kept = 2 * layer.weight
        >>> held.changed()
        ['kept']
        >>> held.restore()
        >>> hasattr(layer, "kept")
        False
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners = [(name, owner, _all_held(owner)) for name, owner in _owners(model)]

    def changed(self) -> list[str]:
        """The names of attributes that are not as they were."""
        found = []
        for name, owner, before in self._owners:
            now = dict(_plain(owner))
            keys = [
                key for key in now if key not in before or not _is_as_held(before[key], now[key])
            ]
            keys += [key for key in before if key not in now]
            found += [f"{name}.{key}" if name else key for key in keys]
        return sorted(found)

    def restore(self) -> None:
        """Put every attribute back; tensors that were written to stay as they are."""
        for _, owner, before in self._owners:
            own = vars(owner)
            for key in [key for key, _ in _plain(owner) if key not in before]:
                del own[key]
            for key, held in before.items():
                own[key] = held.value
                for container, content in held.contents:
                    _refill(container, content)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The floating-point tensors that are held now, by attribute."""
        for name, owner, _ in self._owners:
            for key, value in _plain(owner):
                for leaf in _floats_in(value):
                    yield f"{name}.{key}" if name else key, leaf

    def forget(self, key: str, *, as_none: bool = False) -> None:
        """Take away what is held under a name: a container's content, or the attribute.

        Args:
            key: of the attribute, in whatever module or object.
            as_none: leave None in a tensor's place, also in containers within containers.
        """
        for _, owner, _ in self._owners:
            value = vars(owner).get(key)
            if isinstance(value, _CONTAINERS):
                nested = list(_containers_in(value, set()))
                if not as_none or len(nested) == 1:
                    value.clear()
                    continue
                for container in nested:
                    _empty(container)
            elif value is not None and as_none:
                vars(owner)[key] = None
            elif value is not None:
                del vars(owner)[key]

    def held(self, key: str) -> list[Tensor]:
        """The floating-point tensors that are held now under a name."""
        values = [vars(owner).get(key) for _, owner, _ in self._owners]
        return [leaf for value in values for leaf in _floats_in(value)]


def _owners(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What has attributes: modules, and objects that they keep, by name."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        yield name, module
        for key, value in vars(module).items():
            if key not in _REGISTERED:
                place = f"{name}.{key}" if name else key
                for owner in _objects_in(value, seen):
                    yield place, owner


def _objects_in(value: Any, seen: set[int], depth: int = _DEPTH) -> Iterator[Any]:
    """The helper objects that an attribute holds, in containers too, and those that they hold."""
    if id(value) in seen or not depth:
        return
    if isinstance(value, _HOLDERS):
        seen.add(id(value))
        for part in _parts_of(value):
            yield from _objects_in(part, seen, depth)
    elif _is_helper(value):
        seen.add(id(value))
        yield value
        for part in vars(value).values():
            yield from _objects_in(part, seen, depth - 1)


def held_tensors(module: nn.Module, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module keeps beside parameters and buffers, by attribute.

    Args:
        module: without those in it.
        seen: ids of what was looked at before.
    """
    for key, value in vars(module).items():
        if key not in _REGISTERED:
            for tensor in _tensors_in(value, seen):
                yield key, tensor


def _tensors_in(value: Any, seen: set[int], depth: int = _DEPTH) -> Iterator[Tensor]:
    """The tensors that an attribute holds: itself, or those in containers and helper objects."""
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in seen:
        return
    if isinstance(value, _HOLDERS):
        seen.add(id(value))
        for part in _parts_of(value):
            yield from _tensors_in(part, seen, depth)
    elif depth and _is_helper(value):
        seen.add(id(value))
        for part in vars(value).values():
            yield from _tensors_in(part, seen, depth - 1)


def _parts_of(holder: Any) -> list[Any]:
    """What a container holds, or a function that was given some of its arguments before."""
    if isinstance(holder, MethodType):
        return [holder.__self__]
    if isinstance(holder, functools.partial):
        return [holder.func, *holder.args, *holder.keywords.values()]
    return list(holder.values() if isinstance(holder, dict) else holder)


def _is_helper(value: Any) -> bool:
    """Whether it is an object of somebody's own class, which may keep tensors in its attributes."""
    if isinstance(value, nn.Module | Tensor | type) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, SimpleNamespace):
        return True
    # loggers, locks, functions: one for the whole process, or nothing to look into
    return type(value).__module__.partition(".")[0] not in sys.stdlib_module_names


def _plain(owner: Any) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in vars(owner).items() if key not in _OWN]


def _floats_in(value: Any) -> list[Tensor]:
    if value is None or isinstance(value, bool | int | float | str):
        return []
    leaves = flatten(value)[0] if isinstance(value, _CONTAINERS) else [value]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _all_held(owner: Any) -> dict[str, _Held]:
    return {key: _held(value) for key, value in _plain(owner)}


def _held(value: Any) -> _Held:
    if isinstance(value, Tensor):
        return _Held(value, version=version_of(value))
    return _Held(value, contents=tuple((one, one.copy()) for one in _containers_in(value, set())))


def _containers_in(value: Any, seen: set[int]) -> Iterator[Any]:
    """The containers in a value that can be filled again, the value itself first."""
    if not isinstance(value, _CONTAINERS | tuple) or id(value) in seen:
        return
    seen.add(id(value))
    if type(value) in _FILLED:
        yield value
    for part in _parts_of(value):
        yield from _containers_in(part, seen)


def _is_as_held(held: _Held, now: Any) -> bool:
    if now is not held.value:
        return False
    if isinstance(now, Tensor):
        return version_of(now) == held.version
    return all(_is_filled_as(content, container) for container, content in held.contents)


def _is_filled_as(content: Any, container: Any) -> bool:
    before, after = _listed(content), _listed(container)
    return len(before) == len(after) and all(
        one is other for one, other in zip(before, after, strict=True)
    )


def _listed(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [part for entry in container.items() for part in entry]
    return list(container)


def _empty(container: Any) -> None:
    """Leave None in the place of every tensor."""
    if isinstance(container, dict | list | deque):
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, part in list(pairs):
            if isinstance(part, Tensor):
                container[key] = None


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(content)
    else:
        container.update(content)


def moves_on_mode(model: nn.Module) -> list[str]:
    """The modules that do something of their own in ``train()`` or ``eval()``, by name."""
    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if type(module).train is not nn.Module.train
        or type(module).eval is not nn.Module.eval
        or "train" in vars(module)
    ]
