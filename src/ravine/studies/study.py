"""Study: pairs of networks from different seeds, and their barrier: raw, aligned, repaired."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

import ravine
from ravine.paper import data as sets
from ravine.studies.networks import cnn, mlp, trained

Profile = Literal["quick", "desk"]
Splits = dict[str, tuple[Tensor, Tensor]]

STAGES: Final = ("raw", "aligned", "aligned and repaired")


@dataclass(frozen=True)
class Arm:
    """One kind of network, and what was published of it.

    Attributes:
        name: what it is called.
        make: builds it.
        published: stage → the published number, as it was given; {} where nothing was.
        differs: what is otherwise there.
    """

    name: str
    make: Callable[[], nn.Module]
    published: dict[str, str] = field(default_factory=dict)
    differs: str = ""


@dataclass(frozen=True)
class Row:
    """What was found for one kind of network at one stage.

    Attributes:
        arm: the kind.
        stage: one of ``STAGES``.
        loss: test loss at α = ½ less the mean of the ends', mean over pairs, in nats.
        loss_stderr: over pairs; NaN of one pair.
        accuracy: at α = ½, in per cent, mean over pairs.
        decisions: of each pair, whether a barrier above 0.02 nats in the test loss is shown.
        published: the published number.
        differs: what is otherwise there.
    """

    arm: str
    stage: str
    loss: float
    loss_stderr: float
    accuracy: float
    decisions: tuple[str, ...]
    published: str
    differs: str


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        arms: the kinds of network.
        data: the data set's name.
        pairs: how many pairs of seeds.
        epochs: of training.
        examples: of the training part; None for all.
    """

    arms: tuple[Arm, ...]
    data: str
    pairs: int
    epochs: int
    examples: int | None = None


def plan_of(name: str, profile: str) -> Plan:
    """The plan of a study.

    Args:
        name: "rebasin" (MLPs: weight matching, and the trend with width) or "repair"
            (a BatchNorm network).
        profile: "quick" (digits of 8 × 8, a minute) or "desk" (MNIST or CIFAR-10, within an hour).

    Raises:
        ravine.InputError: there is no such study or profile.
    """
    makers = {"rebasin": _rebasin, "repair": _repair}
    for what, given, known in (("study", name, makers), ("profile", profile, ("quick", "desk"))):
        if given not in known:
            msg = f"there is no {what} {given!r}; there are {', '.join(known)}"
            raise ravine.InputError(msg)
    return makers[name](profile == "quick")


def _rebasin(is_quick: bool) -> Plan:
    inputs = 64 if is_quick else 784
    widths = (16, 64) if is_quick else (64, 128, 256)
    adam = "Adam with a cosine, 12 epochs; the published trainings are longer"
    plain = {"aligned": "zero barrier (Git Re-Basin, 2209.04836)"}
    normed = {"raw": "0.188 ± 0.12", "aligned": "−0.006 (Lim et al., 2405.20231)"}
    large = 128 if is_quick else 512
    arms = [Arm(f"MLP 3×{width}", lambda w=width: mlp(inputs, w, 3)) for width in widths]
    arms.append(Arm(f"MLP 3×{large}", lambda: mlp(inputs, large, 3), plain, adam))
    arms.append(
        Arm(f"MLP 4×{large}, LayerNorm", lambda: mlp(inputs, large, 4, norm=True), normed, adam)
    )
    if is_quick:
        return Plan(_unpublished(arms), "digits", pairs=1, epochs=30)
    return Plan(tuple(arms), "mnist", pairs=3, epochs=12)


def _repair(is_quick: bool) -> Plan:
    side, channels = (8, 1) if is_quick else (32, 3)
    widths = (8,) if is_quick else (16, 32)
    published = {
        "raw": "accuracy 10.0 %",
        "aligned": "58.4 %",
        "aligned and repaired": "90.7 % (VGG-11-BN 2×, REPAIR, 2211.08403)",
    }
    differs = (
        "three convolutions for eleven layers, 10,000 whitened images, 8 epochs, no augmentation"
    )
    arms = [
        Arm(f"CNN {width}", lambda w=width: cnn(side, channels, w), published, differs)
        for width in widths
    ]
    if is_quick:
        return Plan(_unpublished(arms), "digits", pairs=1, epochs=20)
    return Plan(tuple(arms), "cifar10", pairs=3, epochs=8, examples=10_000)


def _unpublished(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Without the published numbers, which are of other data."""
    return tuple(Arm(arm.name, arm.make) for arm in arms)


def measured(plan: Plan, out: Path, folder: Path | None, say: Callable[[str], None]) -> list[Row]:
    """Train what is not trained yet, align and measure every pair, and keep the results.

    Args:
        plan: how much.
        out: where networks, results and the table go.
        folder: of the data.
        say: told of progress.
    """
    splits: Any = sets.load(plan.data, folder)
    splits["train"] = tuple(part[: plan.examples] for part in splits["train"])
    rows: list[Row] = []
    for arm in plan.arms:
        found = [_pair(arm, number, plan, splits, out, say) for number in range(plan.pairs)]
        rows += _rows(arm, found)
        for row in rows[-len(STAGES) :]:
            say(f"{row.arm}, {row.stage}: {row.loss:.4f} ± {row.loss_stderr:.2g}")
    table = out / "table.csv"
    table.write_text(_as_csv(rows), encoding="utf-8")
    return rows


def _pair(
    arm: Arm, number: int, plan: Plan, splits: Splits, out: Path, say: Callable[[str], None]
) -> xr.Dataset:
    """The lines between two networks of one kind."""
    short = arm.name.replace(", ", "-").replace(" ", "-").replace("×", "x")
    kept = out / f"{short}-pair{number}.nc"
    if kept.is_file():
        return ravine.open_result(kept)
    files = []
    for seed in (2 * number, 2 * number + 1):
        say(f"{arm.name}: network of seed {seed}")
        file = out / "networks" / f"{short}-{seed}.safetensors"
        files.append(trained(arm.make(), splits["train"], seed, plan.epochs, file))
    model = arm.make()
    has_statistics = any(name.endswith("running_mean") for name, _ in model.named_buffers())
    x, y = splits["train"]
    few = {"train": (x[:5_000], y[:5_000]), "test": splits["test"]}
    objective = ravine.Objective(
        model,
        ravine.supervised(F.cross_entropy),
        few,
        buffers="interpolate" if has_statistics else None,
        batch_size=500 if has_statistics else None,
    )
    points: dict[str, Any] = dict(zip(("a", "b"), files, strict=True))
    found = ravine.compare_alignment(
        objective, points, np.linspace(0, 1, 13), title=f"{arm.name}, pair {number}", progress=False
    )
    ravine.save_result(found, kept)
    return found


def _rows(arm: Arm, found: Sequence[xr.Dataset]) -> list[Row]:
    rows: list[Row] = []
    for place, stage in enumerate(STAGES):
        lines = [one.isel(line=place).sel(split="test") for one in found]
        over = np.array([_over(line["loss"]) for line in lines])
        error = np.array([float(line["error"].sel(alpha=0.5)) for line in lines])
        stderr = float(over.std(ddof=1) / np.sqrt(len(over))) if len(over) > 1 else float("nan")
        answers = [_answer(one, place) for one in found]
        rows.append(
            Row(
                arm=arm.name,
                stage=stage,
                loss=float(over.mean()),
                loss_stderr=stderr,
                accuracy=100 * (1 - float(error.mean())),
                decisions=tuple(answers),
                published=arm.published.get(stage, ""),
                differs=arm.differs if stage in arm.published else "",
            )
        )
    return rows


def _over(loss: xr.DataArray) -> float:
    """The loss at α = ½ less the mean of the ends'."""
    ends = 0.5 * (float(loss.sel(alpha=0.0)) + float(loss.sel(alpha=1.0)))
    return float(loss.sel(alpha=0.5)) - ends


def _answer(found: xr.Dataset, place: int) -> str:
    decided: Any = ravine.metrics.decide(found, "barrier", above=0.02, split="test")
    return list(decided.values())[place].answer


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(Row.__dataclass_fields__))
    for row in rows:
        values = [getattr(row, name) for name in Row.__dataclass_fields__]
        writer.writerow([", ".join(v) if isinstance(v, tuple) else v for v in values])
    return text.getvalue()
