"""A run: what a training left in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

import ravine
from ravine.paper.recipe import Recipe
from ravine.paper.training.history import read


@dataclass(frozen=True)
class Run:
    """What a training left in its folder.

    Attributes:
        recipe: what was done.
        folder: where its files are: ``recipe.json``, ``trajectory/`` (phase 1, one snapshot per
            epoch, or those that the phase's ``snapshots`` ask for, and one before the first),
            ``solution.safetensors`` (what phase 1 ends with), ``final.safetensors`` (after phase 2,
            where there is one), ``history.nc`` and ``state.safetensors``.
    """

    recipe: Recipe
    folder: Path

    @property
    def there(self) -> bool:
        """Whether there is something to measure: trained to its end, or stopped by its budget."""
        return (self.folder / "history.nc").exists()

    @property
    def done(self) -> bool:
        """Whether it was trained to its end."""
        return self.there and not self.stopped

    @property
    def stopped(self) -> str:
        """Why it is not at its end, in words; "" where it is.

        Examples:
            ``the budget of 9 minutes was spent after 312 epochs of phase 1``
        """
        return str(self.history.attrs.get("stopped", ""))

    @property
    def solved(self) -> bool:
        """Whether phase 1 is at its end: then the solution is the recipe's, come what may."""
        return self.done or bool((self.history["phase"].values > 1).any())

    @property
    def device(self) -> str:
        """What it was trained on, in words."""
        return str(self.history.attrs.get("device", "the CPU"))

    @property
    def device_type(self) -> str:
        """The kind of that device, as --device takes it."""
        return str(self.history.attrs.get("device_type", "cpu"))

    @property
    def precision(self) -> str:
        """What its products were computed in, and what that changes of J; "" for float32."""
        attrs = self.history.attrs
        if "precision" not in attrs:
            return ""
        trained, exact = np.asarray(attrs["precision_loss"], float)
        return (
            f"{attrs['precision']}, by which the validation examples' J at the solution is "
            f"{trained:.7g}; it is {exact:.7g} in float32"
        )

    @property
    def identity(self) -> str:
        """What tells its outcome from others: the recipe's hash, and where it was stopped."""
        if not self.stopped:
            return self.recipe.hash
        last = self.history.isel(record=-1)
        return f"{self.recipe.hash} stopped in phase {int(last['phase'])} at {int(last['step'])}"

    @property
    def trajectory(self) -> ravine.Trajectory:
        """The parameters before training and while it went on, in phase 1."""
        return ravine.Trajectory.open(self.folder / "trajectory")

    def after(self, step: int) -> ravine.Params:
        """The parameters after so many updates of phase 1.

        Args:
            step: of which a snapshot was kept.

        Returns:
            The parameters.

        Raises:
            ravine.InputError: there is no such snapshot.
        """
        if not (self.folder / "trajectory").is_dir():
            msg = (
                f"{str(self.folder)!r} has no snapshots, and one after {step} updates is needed: "
                f"train {self.recipe.name} into that folder first"
            )
            raise ravine.InputError(msg)
        return self.trajectory.at(step=step)

    @property
    def start(self) -> Path:
        """The initial parameters, θ_i."""
        return self.folder / "trajectory" / "step-000000000.safetensors"

    @property
    def solution(self) -> Path:
        """The parameters that phase 1 ends with, θ_f: its best epoch's or its last, as asked."""
        return self.folder / "solution.safetensors"

    @property
    def final(self) -> Path:
        """The parameters after phase 2."""
        return self.folder / "final.safetensors"

    @property
    def best_step(self) -> int:
        """After how many updates of phase 1 the solution was found."""
        return int(self.history.attrs["best_step"])

    @property
    def test_errors(self) -> tuple[int, ...]:
        """How many test examples the solution gets wrong, and how many the network of phase 2."""
        return tuple(int(count) for count in self.test["errors"])

    @property
    def test(self) -> dict[str, tuple[float, ...]]:
        """What the test part said: quantity → its value for the solution, and for phase 2's end."""
        attrs = self.history.attrs
        return {
            name.removeprefix("test_"): tuple(np.atleast_1d(values).tolist())
            for name, values in attrs.items()
            if name.startswith("test_")
        }

    @property
    def tested(self) -> str:
        """The same in words.

        Examples:
            ``errors on the test part 94 and after phase 2 90``
        """
        said = []
        for name, values in self.test.items():
            numbers = [f"{value:.6g}" for value in values]
            said.append(f"{name} on the test part {' and after phase 2 '.join(numbers)}")
        return "; ".join(said)

    def moment(self, step: int) -> str:
        """An update of phase 1 in words: the epoch that it ends, or its number.

        Args:
            step: updates so far.

        Returns:
            Such as "epoch 3" or "update 47".
        """
        first = self.history.isel(record=np.flatnonzero(self.history["phase"].values == 1))
        found = np.flatnonzero(first["step"].values == step)
        if found.size:
            return f"epoch {int(first['epoch'].values[found[0]])}"
        return f"update {step:,}"

    @cached_property
    def history(self) -> xr.Dataset:
        """What was monitored before each phase and after its every epoch, dims ("record", "split").

        ``objective`` is what was trained, with fresh dropout masks where there are any; ``loss``
        and what else the task watches (``error`` for a classifier) are without masks. NaN where the
        training examples were not watched. Coordinates along ``record``: ``phase``, ``epoch`` and
        ``step`` in it, the last ``rate`` and ``momentum``, ``seconds``. Attributes: ``best_step``
        (of phase 1, where the solution is), ``test_…`` (of the solution, then after phase 2), the
        recipe, the ``device``, ``stopped`` where a budget ended it, and for other products than
        float32's ``precision`` and what it changes of J at the solution.
        """
        return read(self.folder / "history.nc")
