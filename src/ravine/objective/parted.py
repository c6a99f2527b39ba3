"""Parted: a model that several processes share, measured in place, each with its own part.

No process could hold a private copy, so the caller's own model is moved from point to point and is
given its values back afterwards, also after an exception. Every process runs the same batches,
takes the same decisions, and gets the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.buffers import spanning
from ravine.objective.data import Split
from ravine.objective.engine import measure_split
from ravine.objective.forward import Forward, Policies
from ravine.objective.measurement import Asked, Measured, Setup, nothing_yet, undisturbed
from ravine.objective.probes import DRAWS, noise_floors
from ravine.objective.replica import Replica
from ravine.objective.tuning import DEFAULT_BATCH, SAME_TWICE, Plan, Trial, agree
from ravine.points.checkpoint import Checkpoint
from ravine.points.params import Params, all_finite, version_of
from ravine.points.parts import is_sharded, local
from ravine.points.sharded import copied, cut, gather, held_by, narrowest_of, require_shards, settle

_LOOKS = 2  # passes over the first examples: is J determined?
_WITHIN = 1e-3  # relative; further apart, two processes have not computed the same


class InPlace(Replica):
    """The caller's own model where a replica would stand, as this process holds it.

    Its parameters are this process's parts, plain tensors in the model's memory: whoever writes to
    them moves the model.

    Args:
        model: sharded.
        dtype: of its parameters.
        device: where it computes.

    Raises:
        InputError: modules of it write to their weights when their mode changes.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        gather(model)
        before = _versions(model)
        super().__init__(model, dtype, device)
        model.eval()
        if _versions(model) != before:
            msg = (
                f"modules of {type(model).__name__} write to their weights in train() or eval(): "
                "such a model is measured on one process only"
            )
            raise InputError(msg)
        self.toggles = False  # what a module does there beside is no matter
        held = dict(model.named_parameters())
        self.params = {name: local(p.detach()) for name, p in held.items()}
        self._in_parts = [self.params[name] for name, p in held.items() if is_sharded(p)]

    def _copy_of(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
        return model

    def move_to(self, coefficients: tuple[float, ...]) -> None:
        """As a replica; what a forward pass left whole is parted first, or it would not move."""
        gather(self.module)
        super().move_to(coefficients)

    def perturb(self, generator: torch.Generator, within: torch.dtype | None = None) -> None:
        """As a replica: other noise on every part, the same on what every process holds whole."""
        import torch.distributed as dist

        gather(self.module)
        every, parts = self.params, {id(part) for part in self._in_parts}
        common, own = (int(torch.randint(1 << 62, (), generator=generator)) for _ in range(2))
        drawn = ((False, common), (True, own + dist.get_rank()))
        try:
            for in_parts, seed in drawn:
                self.params = {n: t for n, t in every.items() if (id(t) in parts) == in_parts}
                super().perturb(torch.Generator().manual_seed(seed), within)
        finally:
            self.params = every


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (id(p), version_of(p)) for name, p in model.named_parameters()}


def measure_parted(setup: Setup, asked: Asked) -> Measured:
    """``measurement.measure`` of a model that several processes share; each of them has to call it.

    Args:
        setup: of the objective.
        asked: the points; the corners may be whole or in parts.

    Returns:
        The same in every process.

    Raises:
        InputError: a policy needs a copy of the model, a corner does not fit or is not finite, the
            processes were given different examples, or they computed different numbers.
    """
    require_measurable(setup)
    model = setup.model
    require_shards(model)
    own = held_by(model)
    fitted = [cut(own, corner) for corner in asked.corners]
    _require_finite(own, fitted)
    params = [corner.taken(own.params) for corner in fitted]
    dtype = _dtype_of(setup, own)
    policies = Policies(setup.dropout, setup.seed, setup.is_stateful, dtype, setup.device)
    points, tick, earlier = asked.points, asked.tick, asked.earlier
    found = nothing_yet(asked, fitted, params, dtype)
    size = setup.batch_size or DEFAULT_BATCH
    plan = Plan(batch_size=size, threads=torch.get_num_threads())
    with undisturbed(setup), _given_back(model):
        for split in setup.splits if setup.check_data and earlier is None else ():
            split.require_repeatable(size, tick)
            _require_same_examples(split, size)
        replica = InPlace(model, dtype, setup.device)
        spans = spanning(model, own, fitted, setup.buffers)
        replica.span([_own_parts(corner) for corner in spans])
        replica.set_modes(setup.dropout)
        for split in setup.splits:
            forward = Forward(replica, setup.per_example, policies, split.name, points)
            found.plans[split.name], found.floors[split.name] = plan, {}
            if earlier is None:
                trial = Trial(forward, split, size, _LOOKS + (DRAWS + 1) * len(asked.probes))
                _require_determined(trial, narrowest_of(model))
                found.floors[split.name] = noise_floors(trial, asked.probes)
            sums = measure_split(
                forward, split, plan, setup.grouping, tick, check_data=setup.check_data
            )
            split.require_same(
                None if earlier is None else earlier.fingerprints[split.name], sums.fingerprint
            )
            found.moments[split.name], found.units[split.name] = sums.moments, sums.units
            found.fingerprints[split.name] = sums.fingerprint
            found.batches[split.name] = size if split.makes_batches else sums.batch
    return _the_same(found)


def _own_parts(corner: Params) -> Params:
    """What this process holds of each tensor."""
    return {name: local(tensor) for name, tensor in corner.items()}


def require_measurable(setup: Setup) -> None:
    """Refuse the policies that a sharded model is not measured with.

    Raises:
        InputError: naming the policy, and what to do.
    """
    refused = {
        f"dropout={setup.dropout!r}": setup.dropout != "off",
        "a stateful per_example": setup.is_stateful,
        "buffers='recompute'": setup.buffers == "recompute",
        "correction='repair'": setup.correction is not None,
    }
    for what, is_asked in refused.items():
        if is_asked:
            msg = (
                f"a sharded model is not measured with {what}: choose another policy, or measure "
                "the model on one process"
            )
            raise InputError(msg)


def _dtype_of(setup: Setup, own: Checkpoint) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in own.params.values()}
    if len(dtypes) > 1 or (setup.dtype is not None and {setup.dtype} != dtypes):
        held = ", ".join(sorted(map(str, dtypes)))
        msg = (
            f"a sharded model is measured in place, in the type that it is held in ({held}); got "
            f"dtype={setup.dtype}. Convert it, model.to(dtype), before fully_shard."
        )
        raise InputError(msg)
    return dtypes.pop()


@contextmanager
def _given_back(model: nn.Module) -> Iterator[None]:
    """Give the model its values, buffers and modes back, whatever happens."""
    before = copied(held_by(model))
    modes = [(module, module.training) for module in model.modules()]
    places = [
        (owner, name, buffer)
        for owner in model.modules()
        for name, buffer in owner._buffers.items()
    ]
    try:
        yield
    finally:
        settle(model)
        for owner, name, buffer in places:
            owner._buffers[name] = buffer
        now = held_by(model)
        for name, tensor in now.tensors.items():
            if name not in now.ties:
                local(tensor).copy_(local(before.tensors[name]))
        for module, training in modes:
            module.training = training


def _require_determined(trial: Trial, narrowest: torch.dtype | None) -> None:
    if trial.first is None:
        return  # an empty split has its own error
    found: list[Tensor] = []
    for _ in range(_LOOKS):
        trial.forward.stand_at(0)
        found.append(trial.forward.loss(trial.first, 0).clone())
    if not all(_everywhere(agree(*found, within=SAME_TWICE))):
        msg = (
            "the loss at one point is random, or depends on what was computed before: two passes "
            "over one batch gave different values"
        )
        raise InputError(msg)
    trial.learn(found[0], seconds=0.0, copies=False, narrowest=narrowest)


def _require_finite(own: Checkpoint, fitted: Sequence[Checkpoint]) -> None:
    for corner in fitted:
        broken = [n for n in own.params if not all_finite(local(corner.tensors[n]))]
        everywhere = {name for names in _everywhere(broken) for name in names}
        if everywhere:
            listed = ", ".join(map(repr, sorted(everywhere)[:5]))
            msg = f"{corner.label} holds NaN or infinity in {listed}"
            raise InputError(msg)


def _require_same_examples(split: Split, size: int) -> None:
    """Every process has to compute the same batches: they share each forward pass."""
    batches, seen = split.read(size)
    for _ in batches:
        pass
    if len(set(_everywhere((seen.count, seen.in_order)))) > 1:
        msg = (
            f"the processes were given different examples of split {split.name!r}; expected the "
            "same in every one, in the same order. A DistributedSampler deals them out: leave it "
            "away."
        )
        raise InputError(msg)


def _the_same(found: Measured) -> Measured:
    """The first process's numbers, in every process.

    They may differ by rounding; by more, something is wrong.
    """
    means = {
        (split, name): torch.as_tensor(of.mean)
        for split, moments in found.moments.items()
        for name, of in moments.items()
    }
    for others in _everywhere(means):
        for (split, name), mean in means.items():
            if (split, name) not in others or not agree(mean, others[split, name], _WITHIN):
                msg = (
                    f"the processes computed different values of {name!r} on split {split!r}; does "
                    "per_example use the rank of its process?"
                )
                raise InputError(msg)
    moments, floors = _from_first((found.moments, found.floors))
    return replace(found, moments=moments, floors=floors)


def _everywhere(value: Any) -> list[Any]:
    """What each process has, in the order of their ranks."""
    import torch.distributed as dist

    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, value)
    return held


def _from_first(value: Any) -> Any:
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]
