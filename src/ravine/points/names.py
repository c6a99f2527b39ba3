"""Names: what wrappers add to a parameter's name, and two sets of names made to agree.

DDP, FSDP, ``torch.compile``, activation checkpointing, averaging, Lightning and Fabric each put a
name of their own into the names of what they wrap: in front, or in the middle where they wrap a
part. Nothing is stripped unless that makes two sets of names agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

#: No module of an architecture bears these; the wrappers' own ``state_dict()`` leaves most of
#: them out.
PRIVATE: Final = frozenset(
    {
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_fpw_module",
        "_forward_module",
        "_dmp_wrapped_module",
    }
)
#: Wrappers' names that an architecture may have of its own, too.
COMMON: Final = frozenset({"module", "model", "ema_model", "averaged_model"})

#: What may be taken out of a name, the least first.
LEVELS: Final = (frozenset[str](), PRIVATE, PRIVATE | COMMON)


def stripped(name: str, wrappers: Collection[str]) -> str:
    """The name without its wrappers' parts, wherever they stand.

    Examples:
        >>> stripped("module.encoder._orig_mod.weight", LEVELS[2])
        'encoder.weight'
    """
    return ".".join(part for part in name.split(".") if part not in wrappers)


def plain(name: str) -> str:
    """The name as the wrapped module itself has it: without what no architecture bears.

    Examples:
        >>> plain("0._checkpoint_wrapped_module.0.weight")
        '0.0.weight'
    """
    return stripped(name, PRIVATE)


def by_plain_name(names: Iterable[str], wrappers: Collection[str]) -> dict[str, str] | None:
    """Stripped → full name; None where two names become one."""
    found = {stripped(name, wrappers): name for name in names}
    return found if len(found) == len(list(names)) else None


def wrapper_of(names: Collection[str]) -> str:
    """The wrappers that stand in front of every name, with the dot behind them; "" without.

    Examples:
        >>> wrapper_of(["module.model.a.weight", "module.model.b.bias"])
        'module.model.'
    """
    front = ""
    while names:
        part = next(iter(names)).removeprefix(front).partition(".")[0]
        longer = f"{front}{part}."
        if part not in LEVELS[-1] or not all(name.startswith(longer) for name in names):
            break
        front = longer
    return front


def copies(wanted: Collection[str], names: Collection[str]) -> Iterator[str]:
    """Every prefix under which all of the wanted names are to be found.

    Examples:
        >>> list(copies(["a", "b.c"], ["net.a", "net.b.c", "ema.a", "ema.b.c", "head"]))
        ['net.', 'ema.']
    """
    held = set(names)
    longest = max(wanted, key=len, default=None)
    if longest is None:
        return
    for name in names:
        if name == longest or name.endswith(f".{longest}"):
            front = name.removesuffix(longest)
            if all(front + other in held for other in wanted):
                yield front
