"""Steps: the number of updates, read from the names of a run's checkpoints.

A name may hold an epoch, a metric, a seed, the size of the network and a date
beside it. A number counts only where its word or its change from name to name
says that it is the step; what stays ambiguous is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ravine.errors import InputError

Steps = Mapping[str, int] | Callable[[str], int | None]

_NUMBER: Final = re.compile(
    r"(?P<before>[^\W\d_]*)(?:(?P<mark>[_=. ]+|-)(?P<sign>-)?)?"
    r"(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2}(?![0-9A-Za-z]))?)"
    r"(?P<unit>[kKM](?![0-9A-Za-z]))?"
    r"(?=(?P<gap>[-_ ]?)(?P<after>[^\W\d_]*)(?P<next>[-_. ]*[0-9])?)"
)
_MOST: Final = 10**15  # updates; beyond it is another kind of number
_UNITS: Final = {"k": 1_000, "K": 1_000, "M": 1_000_000}

#: Words of a number, in small letters, that say what it is.
_WORDS: Final = {
    "step": {
        "step", "steps", "globalstep", "iter", "iters", "iteration", "iterations", "it", "update",
        "updates",
    },
    "epoch": {"epoch", "epochs", "ep", "e"},
    "other": {
        "acc", "accuracy", "auc", "bleu", "bs", "dim", "err", "error", "f", "fid", "fold", "gpu",
        "layer", "layers", "loss", "lr", "map", "metric", "miou", "node", "of", "part",
        "perplexity", "ppl", "psnr", "rank", "reward", "run", "score", "seed", "shard", "trial",
        "top", "v", "val", "version", "wd", "worker",
    },
    "bare": {
        "", "ckpt", "checkpoint", "model", "net", "network", "params", "snapshot", "state",
        "weights",
    },
}  # fmt: skip

Kind = Literal["step", "epoch", "bare", "other"]
_NAMED: Final[tuple[Kind, ...]] = ("step", "epoch", "other")

#: Words that may stand behind their number: 100_steps.
_AFTER: Final[dict[str, Kind]] = {
    "step": "step", "steps": "step", "iters": "step", "iterations": "step", "updates": "step",
    "epoch": "epoch", "epochs": "epoch",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A number in a name.

    Attributes:
        kind: what its word says.
        key: its word and which of several, to find the same number in other names.
        value: it, units counted.
        text: as it stands there.
    """

    kind: Kind
    key: str
    value: Fraction
    text: str


def steps_of(names: Sequence[str], said: Steps | None = None) -> dict[str, int]:
    """Name → step, for the names that have one.

    Args:
        names: of a run's checkpoints, without their endings.
        said: name → step, or a function from one to the other (None passes a name over), where the
            names do not say it.

    Raises:
        InputError: the names leave open which number is the step, or it is no whole number from 0.

    Examples:
        >>> steps_of(["epoch=1-val_loss=0.31", "epoch=2-val_loss=0.12"])
        {'epoch=1-val_loss=0.31': 1, 'epoch=2-val_loss=0.12': 2}
        >>> steps_of(["model_10k", "model_1M", "best"])
        {'model_10k': 10000, 'model_1M': 1000000}
    """
    if said is not None:
        return _told(names, said)
    readings = {name: _readings(name) for name in names}
    kinds = {r.kind for found in readings.values() for r in found}
    if "step" in kinds:
        _require_steps(readings)
        return _chosen(readings, ["step"])
    return _chosen(readings, ["epoch", "bare"])


def _told(names: Sequence[str], said: Steps) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        step = said(name) if callable(said) else said.get(name)
        if step is None:
            continue
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            msg = f"steps= gives {step!r} for {name!r}; expected a whole number from 0, or None"
            raise InputError(msg)
        found[name] = step
    return found


def _chosen(readings: Mapping[str, list[Reading]], kinds: Sequence[Kind]) -> dict[str, int]:
    """The one number of each name that may be the step."""
    fixed = _fixed(readings)
    found: dict[str, int] = {}
    for name, all_read in readings.items():
        may = [r for r in all_read if r.kind in kinds]
        named = [r for r in may if r.kind != "bare"]
        moving = [r for r in may if r.key not in fixed]
        chosen = may
        if len(moving) == 1:
            chosen = moving
        elif len(named) == 1 and not moving:
            chosen = named
        if len({r.value for r in chosen}) > 1:
            raise _ambiguous(name, may)
        if chosen:
            found[name] = _whole(name, chosen[0])
    if "step" not in kinds:
        _require_alike(found, readings)
    return found


def _fixed(readings: Mapping[str, list[Reading]]) -> set[str]:
    """The numbers that are the same in every one of several names: sizes, dates, versions."""
    values: dict[str, set[Fraction]] = {}
    counts: dict[str, int] = {}
    for found in readings.values():
        for reading in found:
            values.setdefault(reading.key, set()).add(reading.value)
            counts[reading.key] = counts.get(reading.key, 0) + 1
    return {key for key, held in values.items() if len(held) == 1 and counts[key] > 1}


def _require_steps(readings: Mapping[str, list[Reading]]) -> None:
    """Refuse epochs and plain numbers among steps: they may count something else."""
    for name, found in readings.items():
        kinds = {reading.kind for reading in found}
        if "step" not in kinds and kinds & {"epoch", "bare"}:
            other = next(other for other, read in readings.items() if _has_step(read))
            msg = f"{other!r} names its step, and {name!r} has another number. {_SAY}"
            raise InputError(msg)


def _has_step(found: Sequence[Reading]) -> bool:
    return any(reading.kind == "step" for reading in found)


def _require_alike(found: Mapping[str, int], readings: Mapping[str, list[Reading]]) -> None:
    """Refuse epochs among plain numbers."""
    kinds: dict[str, str] = {}
    for name in found:
        words = {reading.kind for reading in readings[name]}
        kinds.setdefault("epoch" if "epoch" in words else "number", name)
    if len(kinds) > 1:
        one, other = kinds.values()
        msg = f"{one!r} and {other!r} count different things, epochs and steps. {_SAY}"
        raise InputError(msg)


_SAY: Final = (
    "Say it: Trajectory.open(folder, steps={'a name without its ending': 100, ...}), or a function "
    "of the name."
)


def _ambiguous(name: str, may: Sequence[Reading]) -> InputError:
    read = ", ".join(f"{r.text!r} ({r.value})" for r in may)
    return InputError(f"which number of {name!r} is the step? There are {read}. {_SAY}")


def _whole(name: str, reading: Reading) -> int:
    if reading.value.denominator != 1 or not 0 <= reading.value <= _MOST:
        msg = (
            f"the step of {name!r} reads as {float(reading.value):g} (from {reading.text!r}); "
            f"expected a whole number from 0. {_SAY}"
        )
        raise InputError(msg)
    return int(reading.value)


def _readings(name: str) -> list[Reading]:
    found: list[Reading] = []
    for number, match in enumerate(_NUMBER.finditer(name)):
        kind = _kind(match)
        value = Fraction(match["number"]) * _UNITS.get(match["unit"], 1)
        key = f"{kind} {match['before'].lower()} {number}"
        found.append(
            Reading(kind, key, -value if match["sign"] else value, match[0].strip("-_=. "))
        )
    return [r for r in found if r.kind != "bare" or r.value.denominator == 1]


def _kind(match: re.Match[str]) -> Kind:
    before, after, mark = match["before"].lower(), match["after"].lower(), match["mark"] or ""
    is_its_own = before in _WORDS["step"] | _WORDS["epoch"] | _WORDS["other"]
    if is_its_own and (before != "e" or mark):
        return next(kind for kind in _NAMED if before in _WORDS[kind])
    if after == "of":  # a part: 00001-of-00004
        return "other"
    is_after = not match["next"] or not match["gap"] or after in ("steps", "iterations")
    if after in _AFTER and is_after:
        return _AFTER[after]
    if match["after"] and not match["gap"]:  # 7b, 70m, 5th: no plain number
        return "other"
    if before in _WORDS["bare"]:
        return "bare"
    # resnet18, v2, gpt2: a part of the word; alpha=5: a quantity with a name, and not the step's
    return "other" if not mark or "=" in mark else "bare"
