"""Attributes: what modules keep beside parameters and buffers, and how to give it back.

A layer may keep what it made of its weights: a merged matrix, an expanded filter, class
embeddings of the first call. The next point has other weights, so what a forward pass left
behind is taken away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.objective.trees import flatten
from ravine.points.params import version_of

#: what every module has
_OWN: Final = frozenset(vars(nn.Module()))
_CONTAINERS: Final = (dict, list, set, deque)


@dataclass(frozen=True)
class _Held:
    """An attribute as it was: the object, what it contained, how often it was written to."""

    value: Any
    content: Any = None
    version: int = 0


class Attributes:
    """The plain attributes of all modules of a model, as they are now.

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
        self._modules = [
            (name, module, _all_held(module))
            for name, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]

    def changed(self) -> list[str]:
        """The names of attributes that are not as they were."""
        found = []
        for name, module, before in self._modules:
            now = dict(_plain(module))
            keys = [
                key for key in now if key not in before or not _is_as_held(before[key], now[key])
            ]
            keys += [key for key in before if key not in now]
            found += [f"{name}.{key}" if name else key for key in keys]
        return sorted(found)

    def restore(self) -> None:
        """Put every attribute back; tensors that were written to stay as they are."""
        for _, module, before in self._modules:
            own = vars(module)
            for key in [key for key, _ in _plain(module) if key not in before]:
                del own[key]
            for key, held in before.items():
                own[key] = held.value
                if held.content is not None:
                    _refill(held.value, held.content)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The floating-point tensors that are held now, by attribute."""
        for name, module, _ in self._modules:
            for key, value in _plain(module):
                for leaf in _floats_in(value):
                    yield f"{name}.{key}" if name else key, leaf

    def forget(self, key: str, *, as_none: bool = False) -> None:
        """Take away what modules hold under a name: a container's content, or the attribute.

        Args:
            key: of the attribute, in whatever module.
            as_none: leave None in a tensor's place.
        """
        for _, module, _ in self._modules:
            value = vars(module).get(key)
            if isinstance(value, _CONTAINERS):
                value.clear()
            elif value is not None and as_none:
                setattr(module, key, None)
            elif value is not None:
                del vars(module)[key]

    def held(self, key: str) -> list[Tensor]:
        """The floating-point tensors that modules hold now under a name."""
        values = [vars(module).get(key) for _, module, _ in self._modules]
        return [leaf for value in values for leaf in _floats_in(value)]


def _plain(module: nn.Module) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in vars(module).items() if key not in _OWN]


def _floats_in(value: Any) -> list[Tensor]:
    if value is None or isinstance(value, bool | int | float | str):
        return []
    leaves = flatten(value)[0] if isinstance(value, _CONTAINERS) else [value]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _all_held(module: nn.Module) -> dict[str, _Held]:
    return {key: _held(value) for key, value in _plain(module)}


def _held(value: Any) -> _Held:
    if isinstance(value, Tensor):
        return _Held(value, version=version_of(value))
    if type(value) in _CONTAINERS:
        return _Held(value, content=value.copy())
    return _Held(value)


def _is_as_held(held: _Held, now: Any) -> bool:
    if now is not held.value:
        return False
    if isinstance(now, Tensor):
        return version_of(now) == held.version
    if held.content is None:
        return True
    before, after = _listed(held.content), _listed(now)
    return len(before) == len(after) and all(
        one is other for one, other in zip(before, after, strict=True)
    )


def _listed(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [part for entry in container.items() for part in entry]
    return list(container)


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
