"""Loading: an objective from a function that builds it, so that others can build the same."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravine.errors import InputError
from ravine.objective.objective import Objective


@dataclass(frozen=True)
class Origin:
    """Where an objective came from.

    Attributes:
        factory: ``file.py:function`` or ``package.module:function``, or the function itself.
        folder: where the name is looked up.
    """

    factory: str | Callable[[], Objective]
    folder: str

    def load(self) -> Objective:
        """Build the objective again.

        Raises:
            InputError: as ``load_objective``.
        """
        factory = self.factory
        if isinstance(factory, str):
            factory = named(factory, Path(self.folder))
        return _built(factory, self)


def load_objective(factory: str | Callable[[], Objective]) -> Objective:
    """Call the function that builds an objective; workers of ``executor=`` will call it too.

    Args:
        factory: ``file.py:function`` or ``package.module:function``, or the function
            itself, without arguments.

    Returns:
        The objective, which remembers where it came from.

    Raises:
        InputError: there is no such file, module or function, it fails, or it returns
            something else.

    Examples:
        >>> import ravine, torch
        >>> def make():
        ...     data = (torch.ones(1, 1), torch.zeros(1, 1))
        ...     loss = ravine.supervised(torch.nn.functional.mse_loss)
        ...     return ravine.Objective(torch.nn.Linear(1, 1), loss, data)
        >>> load_objective(make)
        Objective(Linear, examples: {'data': 1})
    """
    if not isinstance(factory, str) and not callable(factory):
        msg = (
            "expected file.py:function, package.module:function or a function that returns a "
            f"ravine.Objective; got {type(factory).__name__}"
        )
        raise InputError(msg)
    return Origin(factory, os.getcwd()).load()


def named(name: str, folder: Path, what: str = "OBJECTIVE") -> Any:
    """What ``file.py:function`` or ``package.module:function`` names.

    Args:
        name: of the function.
        folder: where a file is looked up, and a module beside those that are installed.
        what: it is for, in messages.

    Raises:
        InputError: there is no such file, module or function.
    """
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        msg = f"{what} must be file.py:function or package.module:function; got {name!r}"
        raise InputError(msg)
    module = _import(place, folder)
    found = getattr(module, function, None)
    if not callable(found):
        own = [
            n
            for n, v in vars(module).items()
            if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        known = ", ".join(own)
        msg = f"{place!r} has no function {function!r}; it has {known or 'none'}"
        raise InputError(msg)
    return found


def _built(make: Callable[[], Any], origin: Origin) -> Objective:
    name = origin.factory if isinstance(origin.factory, str) else _name_of(origin.factory)
    try:
        made = make if isinstance(make, Objective) else make()  # the file may build it itself
    except InputError:
        raise
    except (Exception, SystemExit) as problem:
        msg = f"{name!r} failed: {type(problem).__name__}: {problem}. RAVINE_DEBUG=1 shows where."
        raise InputError(msg) from problem
    if not isinstance(made, Objective):
        msg = f"{name!r} must return a ravine.Objective; it returned {type(made).__name__}"
        raise InputError(msg)
    return made.from_(origin)


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))


def _import(place: str, folder: Path) -> Any:
    try:
        if not place.endswith(".py"):
            sys.path.append(str(folder))  # so that a module beside the caller is found
            return importlib.import_module(place)
        path = folder / place
        if not path.is_file():
            msg = f"there is no file {place!r}"
            raise InputError(msg)
        # not the file's own name, which may be another module's
        name = f"_ravine_objective_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # a path that ends in .py always has one
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.append(str(path.resolve().parent))  # so that it can import its neighbours
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as problem:
        msg = f"{place!r} cannot be imported: {type(problem).__name__}: {problem}"
        raise InputError(msg) from problem
    return module
