"""Freshness: whether a model's answer at a point depends on the points that were visited before.

Layers may keep what they made of their weights (a merged matrix, an expanded filter, class
embeddings of the first call). What can be given back between points is; what cannot is
refused by name.
"""

from __future__ import annotations

import contextlib
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.correction import Correction
from ravine.objective.forward import Forward
from ravine.objective.replica import Replica, memories, memory_of
from ravine.objective.tuning import SAME_TWICE, Trial, agree
from ravine.points.params import is_float

_SMALL: Final = 256 << 20  # bytes of a model of which a second copy is no matter


def require_fresh(trial: Trial, model: nn.Module) -> None:
    """Look, on a few examples, for state that a model derives from its weights.

    Args:
        trial: of a split, after the test of determinism.
        model: the caller's.

    Raises:
        InputError: the value at a point is not the point's own.
    """
    forward, batch = trial.forward, trial.first
    if batch is None:
        return
    replica = forward.replica
    _require_unmerged(replica, model)
    if forward.policies.dropout == "resample" or forward.policies.stateful:
        return
    start, far = 0, _farthest(forward)
    before = _loss(trial, start) if start not in trial.known else _known(trial, start)
    replica.resets = replica.resets or bool(replica.attributes.changed())
    _require_still(trial, start)
    _require_own_state(trial, start, before)
    if replica.resets:
        _require_own_batch(trial, start, before)
    _require_nothing_left(trial, start, far)
    if far == start:
        return
    there = _loss(trial, far)
    again = _loss(trial, start)
    if not agree(again, before, SAME_TWICE):
        raise _stale(forward, start, before, again)
    if _is_plain(model) or sum(p.nbytes for p in replica.params.values()) > _SMALL:
        return
    fresh = _of_a_fresh_copy(trial, model, far)
    if fresh is not None and not agree(there, fresh, SAME_TWICE):
        raise _stale(forward, far, fresh, there)


def _farthest(forward: Forward) -> int:
    """The point that is farthest from the first."""
    coefficients = np.array(forward.points.coefficients)
    return int(np.abs(coefficients - coefficients[0]).sum(1).argmax())


def _loss(trial: Trial, point: int) -> Tensor:
    assert trial.first is not None  # an empty split is not run
    trial.forward.stand_at(point)
    found = trial.forward.quantities(trial.first, point)
    trial.known[point] = {name: values.clone() for name, values in found.items()}
    return _known(trial, point)


def _known(trial: Trial, point: int) -> Tensor:
    return trial.known[point]["loss"].reshape(-1)


def _is_plain(model: nn.Module) -> bool:
    """Whether every module is PyTorch's own: those keep nothing of their weights."""
    return all(
        type(module).__module__.startswith("torch.nn.modules.") for module in model.modules()
    )


def _of_a_fresh_copy(trial: Trial, model: nn.Module, point: int) -> Tensor | None:
    """The losses of a model's copy that has been at one point only; None if it cannot be made."""
    assert trial.first is not None
    forward = trial.forward
    policies = forward.policies
    other = Replica(model, policies.dtype, policies.device)
    if forward.replica.is_corrected:
        Correction(other)
    other.span(forward.replica.corners)
    other.set_modes(policies.dropout)
    there = Forward(other, forward.per_example, policies, forward.split, forward.points)
    there.copies = forward.copies
    there.stand_at(point)
    return there.loss(trial.first, point)


def _require_unmerged(replica: Replica, model: nn.Module) -> None:
    """Where evaluation mode changes parameters, a state dict says something else in each mode."""
    changed = [] if model.training else _merged(replica)
    if changed:
        msg = (
            f"evaluation mode changes the model's parameters ({_few(changed)}), as layers do that "
            "merge an update into their weights, so a state dict means something else in each "
            "mode. Give the model in training mode, model.train(), and checkpoints that were "
            "saved in training mode; ravine goes to evaluation mode at every point."
        )
        raise InputError(msg)


def _require_own_state(trial: Trial, point: int, before: Tensor) -> None:
    """Look for what training mode computes and evaluation mode reads: of other weights, perhaps."""
    assert trial.first is not None
    forward, replica = trial.forward, trial.forward.replica
    hidden = _hidden(replica)
    if not hidden:
        return
    held = {name: tensor.clone() for name, tensor in hidden.items()}
    kept = [(buffer, buffer.clone()) for buffer in replica.buffers.values()]
    forward.stand_at(point)
    replica.module.train()
    with contextlib.suppress(Exception):  # whatever training mode lacks, it is not what is measured
        forward.quantities(trial.first, point)
    replica.enter_modes()
    now = _hidden(replica)
    other = [name for name, tensor in held.items() if not _is_same(now.get(name), tensor)]
    saved = _saved(replica)
    for buffer, value in kept:
        if any(buffer is one for one in saved):
            buffer.copy_(value)
    if other:
        _require_unread(trial, point, before, other)
    for buffer, value in kept:
        buffer.copy_(value)
    for name, tensor in hidden.items():
        if not _is_same(tensor, held[name]):
            tensor.copy_(held[name])
    replica.attributes.restore()
    forward.forget(point)


def _require_unread(trial: Trial, point: int, before: Tensor, names: list[str]) -> None:
    assert trial.first is not None
    forward = trial.forward
    forward.resets_buffers = False
    found = forward.loss(trial.first, point)
    forward.resets_buffers = not forward.policies.stateful
    if agree(found, before, SAME_TWICE):
        return
    msg = (
        f"the model keeps {_few(names)}, which training mode computes anew, evaluation mode only "
        "reads, and no checkpoint holds: at other weights it would be out of date. Give a model "
        "that has not been run yet, compute it in forward, or save it as a buffer."
    )
    raise InputError(msg)


def _require_still(trial: Trial, point: int) -> None:
    """After a pass: one that changes the weights must leave those that it would make anew."""
    assert trial.first is not None
    forward = trial.forward
    left = _sums(forward.replica)
    forward.stand_at(point)
    if _sums(forward.replica) == left:
        return
    one = forward.loss(trial.first, point).clone()
    again = forward.loss(trial.first, point).clone()
    forward.stand_at(point)
    if agree(again, one, SAME_TWICE):
        return
    msg = (
        "the model's parameters change while it runs, and the loss with them: it is "
        f"{float(one.nanmean()):.6g} at first, and {float(again.nanmean()):.6g} for the same batch "
        "again. Measure a function that leaves its weights as they are."
    )
    raise InputError(msg)


def _sums(replica: Replica) -> list[float]:
    """One number for each parameter, which is another where something was written to it."""
    sums = [torch.linalg.vector_norm(p, 1) for p in replica.params.values() if is_float(p)]
    return torch.stack([one.double() for one in sums]).tolist()


def _require_own_batch(trial: Trial, point: int, before: Tensor) -> None:
    """What one batch leaves in plain attributes must not matter to the next."""
    forward, batch = trial.forward, trial.first
    assert batch is not None  # an empty split is not run
    forward.stand_at(point)
    try:
        forward.quantities(batch.first(max(batch.size // 2, 1)), point)
        found = forward.loss(batch, point)
    except Exception:  # a function need not take a part of a batch
        return
    names = forward.replica.attributes.changed()
    forward.stand_at(point)
    if agree(found, before, SAME_TWICE):
        return
    msg = (
        f"the model keeps {_few(names)} from batch to batch: the loss of one batch is "
        f"{float(before.nanmean()):.6g} by itself, and {float(found.nanmean()):.6g} after another. "
        "Compute it in forward, save it as a buffer, or carry it by a @ravine.stateful function."
    )
    raise InputError(msg)


def _require_nothing_left(trial: Trial, start: int, far: int) -> None:
    """Look for what an earlier use of the model left in plain attributes.

    What a pass does not make again where it is lacking is a constant of the model. What it makes
    again, and otherwise at other weights, is out of date where a pass lets it stand.
    """
    forward, replica = trial.forward, trial.forward.replica
    # a view of a parameter is at the point where the parameter is
    own = memories([*replica.params.values(), *replica.buffers.values()])
    names = [name for name, tensor in replica.attributes.tensors() if memory_of(tensor) not in own]
    for key in sorted({name.rpartition(".")[2] for name in names}):
        forward.stand_at(start)
        replica.attributes.restore()
        before = replica.attributes.held(key)
        plain = _loss(trial, start)
        stands = any(one is other for one in replica.attributes.held(key) for other in before)
        if stands and _is_out_of_date(trial, key, plain, (start, far)):
            raise _left_behind([name for name in names if name.rpartition(".")[2] == key])
    replica.attributes.restore()


def _is_out_of_date(trial: Trial, key: str, plain: Tensor, points: tuple[int, int]) -> bool:
    """Whether what is held under a name is not what passes at some points would make."""
    start, far = points
    for as_none in (False, True):
        made = [_made(trial, point, key, as_none=as_none) for point in (start, start, far)]
        trial.forward.stand_at(start)
        trial.forward.replica.attributes.restore()
        one, again, there = made
        if one is None or again is None or there is None or not _agree(one, again):
            continue  # a constant that passes need, or made at random
        if not agree(one[0], plain, SAME_TWICE) or not _agree(one[1:], there[1:]):
            return True
    return False


def _made(trial: Trial, point: int, key: str, *, as_none: bool) -> list[Tensor] | None:
    """The losses of a pass that lacks an attribute, and what it made; None if it made nothing."""
    assert trial.first is not None
    attributes = trial.forward.replica.attributes
    trial.forward.stand_at(point)
    attributes.restore()
    attributes.forget(key, as_none=as_none)
    try:
        found = trial.forward.loss(trial.first, point)
    except Exception:  # it is a constant that the pass needs
        return None
    made = attributes.held(key)
    return [found.clone(), *(tensor.clone() for tensor in made)] if made else None


def _agree(some: list[Tensor], others: list[Tensor]) -> bool:
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(
        agree(_dense(one), _dense(other), SAME_TWICE) for one, other in pairs
    )


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _left_behind(names: list[str]) -> InputError:
    return InputError(
        f"the model keeps {_few(names)}, which an earlier use of it made of other weights, and no "
        "checkpoint holds. Give a model that has not been run yet, or compute it in forward."
    )


def _merged(replica: Replica) -> list[str]:
    """The parameters that evaluation mode changes."""
    if not replica.toggles:
        return []
    first, *others = replica.corners
    replica.move_to((1.0, *[0.0] * len(others)))
    return [
        name
        for name, parameter in replica.params.items()
        if name in first and not torch.equal(parameter, first[name].to(parameter))
    ]


def _hidden(replica: Replica) -> dict[str, Tensor]:
    """What no checkpoint holds: tensors in plain attributes, and buffers that are not saved."""
    saved = {id(buffer) for buffer in _saved(replica)}
    found = {
        name: buffer
        for name, buffer in replica.module.named_buffers()
        if id(buffer) not in saved and buffer.is_floating_point()
    }
    return found | dict(replica.attributes.tensors())


def _saved(replica: Replica) -> list[Tensor]:
    """The buffers that a state dict has."""
    return [
        buffer
        for module in replica.module.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    ]


def _is_same(now: Tensor | None, before: Tensor) -> bool:
    if now is None or now.shape != before.shape:
        return False
    return torch.equal(_dense(now), _dense(before))


def _stale(forward: Forward, point: int, own: Tensor, found: Tensor) -> InputError:
    names = forward.replica.attributes.changed()
    kept = f" It changes {_few(names)} while it runs." if names else ""
    return InputError(
        f"the model's loss at {forward.points.labels[point]} is {float(own.nanmean()):.6g} by "
        f"itself, and {float(found.nanmean()):.6g} "
        f"after a visit to another point: it keeps something that it made of other weights.{kept} "
        "Compute it in forward, or reset it where parameters are loaded."
    )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
