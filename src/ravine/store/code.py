"""Code: a hash of what a function or object does: its bytecode and all that it refers to."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from sysconfig import get_paths
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.batches import dense_parts
from ravine.points.params import bytes_of

_DEEPEST: Final = 64
_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), range, slice)
_TOKENS: Final = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_INSTALLED: Final = tuple(
    {Path(place).resolve() for name, place in get_paths().items() if name.endswith("lib")}
    | {Path(get_paths()["stdlib"]).resolve()}
)

#: Of a module: what the corners or the policies say, or what torch keeps for itself.
_NOT_OF_THE_MODULE: Final = ("training", "_parameters", "_modules", "_buffers")


def code_hash(*things: Any) -> str:
    """A hash of functions, classes and objects by what they do and hold.

    Functions count with their bytecode, constants, defaults, closures and the globals that they
    name, as far as these lie in modules of the user's own; what an installed library provides
    counts with its name and the library's version. Modules count with their classes, their
    attributes and their buffers; their parameters do not count, but for names, shapes and types.

    Args:
        things: in order.

    Returns:
        32 hexadecimal digits.

    Raises:
        InputError: something cannot be read, such as an object of a compiled library.

    Examples:
        >>> def scaled(factor):
        ...     return lambda x: factor * x
        >>> double = code_hash(scaled(2))
        >>> double == code_hash(scaled(2)), double == code_hash(scaled(3))
        (True, False)
    """
    reading = _Reading()
    for thing in things:
        reading.take(thing)
    return reading.digest.hexdigest()


class _Reading:
    """One walk over everything that something refers to."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no number of an object is given twice
        self._searched: set[tuple[str, tuple[str, ...]]] = set()  # modules, and for what names
        self._depth = 0

    def take(self, thing: Any) -> None:
        self._depth += 1
        try:
            if self._depth > _DEEPEST:
                raise RecursionError
            self._take(thing)
        finally:
            self._depth -= 1

    def _say(self, *words: Any) -> None:
        self.digest.update(repr(words).encode())

    def _take(self, thing: Any) -> None:
        if isinstance(thing, (*_PLAIN, *_TOKENS)):
            self._say(type(thing).__name__, thing)
            return
        if isinstance(thing, tuple | types.CodeType):  # which of these are one object is chance
            pass
        elif id(thing) in self._met:
            self._say("again", self._met[id(thing)])
            return
        else:
            self._met[id(thing)] = len(self._met)
            self._alive.append(thing)
        if isinstance(thing, Tensor):
            self._tensor(thing)
        elif isinstance(thing, np.ndarray) and thing.dtype != object:
            self._say("array", str(thing.dtype), thing.shape)
            self.digest.update(np.ascontiguousarray(thing).tobytes())
        elif isinstance(thing, np.generic | np.dtype | enum.Enum):
            self._say(type(thing).__qualname__, str(thing))
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, types.ModuleType):
            self._say("module", thing.__name__, _release(thing.__name__))
        elif isinstance(thing, nn.Module):
            self._module(thing)
        elif isinstance(thing, types.CodeType):
            self._code(thing)
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif callable(thing) and self._wrapped(thing):
            pass
        elif isinstance(thing, Mapping):
            self._beside(thing)
            self._say("mapping", type(thing).__qualname__, len(thing))
            self._several(part for pair in thing.items() for part in pair)
        elif isinstance(thing, Set):
            self._say("set", sorted(code_hash(part) for part in thing))
        elif isinstance(thing, list | tuple):
            self._beside(thing)
            self._say(type(thing).__qualname__, len(thing))
            self._several(thing)
        else:
            self._object(thing)

    def _beside(self, thing: Any) -> None:
        """What a container of a class of the user's own holds in attributes."""
        if _is_own(type(thing).__module__) and getattr(thing, "__dict__", None):
            self.take(dict(vars(thing)))

    def _several(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self.take(part)

    def _tensor(self, tensor: Tensor) -> None:
        self._say("tensor", str(tensor.dtype), tuple(tensor.shape), str(tensor.layout))
        if tensor.device.type == "meta":
            return
        for part in dense_parts(tensor):
            self.digest.update(bytes_of(part))  # pyright: ignore[reportArgumentType]

    def _wrapped(self, thing: Any) -> bool:
        """A callable that is made of others; False of any other."""
        if isinstance(thing, functools.partial):
            self._several(("partial", thing.func, thing.args, thing.keywords))
        elif isinstance(thing, types.MethodType):
            self._several(("method", thing.__func__, thing.__self__))
        elif isinstance(thing, types.BuiltinFunctionType | types.MethodDescriptorType):
            name = f"{thing.__module__ if hasattr(thing, '__module__') else ''}"
            self._say("builtin", name, thing.__qualname__, _release(name))
        elif isinstance(thing, types.WrapperDescriptorType | types.GetSetDescriptorType):
            self._say("builtin", thing.__qualname__)
        else:
            return False
        return True

    def _function(self, function: types.FunctionType) -> None:
        module = function.__module__ or ""
        self._say("function", function.__qualname__)
        cells = [_content(cell) for cell in function.__closure__ or ()]
        if not _is_own(module):
            self._say(module, _release(module))
            self._several(cells)
            return
        self._several([function.__code__, function.__defaults__, function.__kwdefaults__, *cells])
        if vars(function):  # a function may keep its settings on itself
            self.take(dict(vars(function)))
        self._globals(function.__globals__, _names(function.__code__))

    def _globals(self, known: Mapping[str, Any], names: Sequence[str]) -> None:
        """What some names mean, and of the user's own modules what is taken from them."""
        for name in names:
            if name not in known:
                continue
            self._say("global", name)
            value = known[name]
            self.take(value)
            if not isinstance(value, types.ModuleType) or not _is_own(value.__name__):
                continue
            search = (value.__name__, tuple(names))
            if search not in self._searched:
                self._searched.add(search)
                self._globals(vars(value), names)

    def _code(self, code: types.CodeType) -> None:
        self._say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        self._several(code.co_consts)

    def _class(self, kind: type) -> None:
        self._say("class", kind.__module__, kind.__qualname__, _release(kind.__module__))
        if not _is_own(kind.__module__):
            return
        self._several(kind.__bases__)
        for name, value in sorted(vars(kind).items()):
            if name in ("__dict__", "__weakref__", "__module__", "__firstlineno__", "__doc__"):
                continue
            self._say("attribute", name)
            self.take(_inside(value))

    def _module(self, module: nn.Module) -> None:
        self.take(type(module))
        for name, parameter in module.named_parameters(recurse=False):
            self._say("parameter", name, str(parameter.dtype), tuple(parameter.shape))
        self.take(dict(module.named_buffers(recurse=False)))
        own = {name: of for name, of in vars(module).items() if name not in _NOT_OF_THE_MODULE}
        self.take(own)
        for name, child in module.named_children():
            self._say("child", name)
            self.take(child)

    def _object(self, thing: Any) -> None:
        """An object of some class: by its attributes, or by what ``pickle`` would keep."""
        kind = type(thing)
        self.take(kind)
        if hasattr(thing, "__dict__") and not hasattr(kind, "__reduce_cython__"):
            self.take(dict(vars(thing)))
            if kind.__flags__ & (1 << 9) and not hasattr(kind, "__slots__"):  # defined in Python
                return
        try:
            kept = thing.__reduce_ex__(2)
        except Exception as problem:
            where = f"{kind.__module__}.{kind.__qualname__}"
            msg = (
                f"the loss or the model refers to an object of type {where}, whose content cannot "
                f"be read ({type(problem).__name__}), so a store cannot tell whether it has "
                "changed. Give Objective(..., version='1'), and another version whenever the code "
                "changes; or use no store."
            )
            raise InputError(msg) from problem
        self._several(kept if isinstance(kept, tuple) else (kept,))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _inside(value: Any) -> Any:
    """What a descriptor of a class holds."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return (value.fget, value.fset)
    if isinstance(value, functools.cached_property):
        return value.func
    if inspect.ismemberdescriptor(value):
        return value.__qualname__
    return value


def _names(code: types.CodeType) -> list[str]:
    """The global names that a function and those inside it mention."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.extend(_names(constant))
    return list(dict.fromkeys(names))


@functools.cache
def _is_own(name: str) -> bool:
    """Whether a module is the user's own: a file that lies in no folder of installed packages."""
    if name.partition(".")[0] in sys.stdlib_module_names and name != "__main__":
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return name == "__main__" or name not in sys.modules
    if name.partition(".")[0] == "ravine":
        return False
    return not any(Path(file).resolve().is_relative_to(place) for place in _INSTALLED)


@functools.cache
def _release(name: str) -> str:
    """The version of the package that a module belongs to; "" of the user's own."""
    if not name or _is_own(name):
        return ""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return sys.version.partition(" ")[0]
    own = vars(sys.modules[top]).get("__version__") if top in sys.modules else None
    if own is not None:
        return str(own)
    for name in _names_of_distribution(top):
        with suppress(PackageNotFoundError):
            return version(name)
    return ""


def _names_of_distribution(top: str) -> Iterator[str]:
    """What the package of a module may be called; to look through all packages takes long."""
    yield top
    yield from packages_distributions().get(top, ())
