"""Running statistics estimated anew at every point, for buffers="recompute"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from ravine.errors import InputError
from ravine.objective.batches import count_examples
from ravine.objective.engine import Pass


def recomputed_statistics(one_pass: Pass, tick: Callable[[int], None]) -> list[dict[str, Tensor]]:
    """Running statistics at every point, by one pass in training mode, batches weighted by size.

    The average of the batches' means and variances, from nothing, as
    ``torch.optim.swa_utils.update_bn`` takes it, but a short last batch counts by its size (and one
    of a single example, which has no variance, not at all). Because a layer is normalised by its
    own batch while the next is estimated, the outcome depends on the batch size; that is the nature
    of the method.

    Args:
        one_pass: over the split to estimate from.
        tick: as in ``Pass.run``.

    Returns:
        For every point, the statistics by buffer name.

    Raises:
        InputError: a module has running statistics that are not PyTorch's own, so how to estimate
            them is unknown.
    """
    replica, norms = one_pass.replica, one_pass.replica.norms()
    strange = [
        f"{n!r} ({type(m).__name__})" for n, m in norms.items() if not isinstance(m, _NormBase)
    ]
    if strange:
        msg = (
            f"buffers='recompute' knows PyTorch's normalisation layers; {', '.join(strange)} keeps "
            "running statistics "
            "of its own. Choose 'start', 'end' or 'interpolate'."
        )
        raise InputError(msg)
    names = [name for name in replica.buffers if name.rpartition(".")[0] in norms]
    kept: list[dict[str, Tensor]] = [{} for _ in one_pass.coefficients]
    seen: list[dict[int, int]] = [
        dict.fromkeys(map(id, norms.values()), 0) for _ in one_pass.coefficients
    ]
    counts: dict[int, int] = {}

    def weigh(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        """A layer that is used twice in a forward pass takes in two batches."""
        counts[id(norm)] += len(inputs[0])
        norm.momentum = len(inputs[0]) / counts[id(norm)]

    hooks = [norm.register_forward_pre_hook(weigh) for norm in norms.values()]
    one_pass.resets_buffers = False
    for norm in norms.values():
        norm.train()
    try:
        for block in one_pass.blocks():
            held = [(number, one_pass.place(batch)) for number, batch in block]
            for point, coefficients in enumerate(one_pass.coefficients):
                replica.move_to(coefficients)
                for name, value in kept[point].items():
                    replica.buffers[name].copy_(value)
                counts = seen[point]
                for number, batch in held:
                    if count_examples(batch) > 1:
                        one_pass.losses(number, batch, point)
                kept[point] = {name: replica.buffers[name].clone() for name in names}
                tick(sum(count_examples(batch) for _, batch in held))
    finally:
        for hook in hooks:
            hook.remove()
        replica.set_modes(one_pass.policies.dropout)
    return kept
