"""Learned weights: the mixture of points with the least loss on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.objective.forward import as_quantities
from ravine.objective.objective import Objective
from ravine.objective.randomness import preserved_rng
from ravine.objective.replica import Replica
from ravine.objective.tuning import DEFAULT_BATCH
from ravine.points.checkpoint import Checkpoint
from ravine.points.params import is_float

_PASSES: Final = 5  # over the split, at least
_STEPS: Final = 200  # at least, however few the batches
_RATE: Final = 0.1  # of Adam, on the logits of the weights


class _Asked(nn.Module):
    """A model and the question put to it, so that its parameters can be exchanged for a mixture."""

    def __init__(self, model: nn.Module, per_example: Any) -> None:
        super().__init__()
        self.model = model
        self.per_example = per_example

    def forward(self, content: Any) -> Any:
        return self.per_example(self.model, content)


def learned_weights(
    objective: Objective, members: Sequence[Checkpoint], select: str, quantity: str, seed: int
) -> list[float]:
    """Positive weights that sum to 1, by Adam on the loss of the mixture; the start is the mean.

    Args:
        objective: what is minimised.
        members: under the model's names.
        select: the split.
        quantity: of what the per-example function gives; it has to have a gradient.
        seed: of what is random in the model.

    Returns:
        One weight a member.
    """
    split = next(one for one in objective.splits if one.name == select)
    model = Replica(
        objective.model, objective.dtype or torch.float32, objective.device
    ).module.eval()
    asked = _Asked(model, objective.per_example)
    names = [name for name, held in model.named_parameters() if is_float(held)]
    logits = torch.zeros(len(members), requires_grad=True, device=objective.device)
    optimizer = torch.optim.Adam([logits], lr=_RATE)
    with preserved_rng([]):
        torch.manual_seed(seed)
        passes = steps = 0
        while passes < _PASSES or steps < _STEPS:
            passes += 1
            for batch in split.batches(objective.batch_size or DEFAULT_BATCH):
                steps += 1
                optimizer.zero_grad()
                mixed = _mixed(model, members, names, logits.softmax(0))
                answer = torch.func.functional_call(asked, mixed, (_placed(batch, model),))
                _mean_of(answer, batch, quantity).backward()
                optimizer.step()
    found = logits.detach().double().softmax(0)
    # the sum of the softmax is 1 up to rounding only
    return (found / found.sum()).tolist()


def _mixed(
    model: nn.Module, members: Sequence[Checkpoint], names: Sequence[str], weights: Tensor
) -> dict[str, Tensor]:
    held = dict(model.named_parameters())
    mixed: dict[str, Tensor] = {}
    for name in names:
        target = held[name]
        stacked = torch.stack([member.tensors[name].to(target) for member in members])
        mixed[f"model.{name}"] = torch.tensordot(weights.to(target.dtype), stacked, 1)
    return mixed


def _placed(batch: Any, model: nn.Module) -> Any:
    like = next(p for p in model.parameters() if is_float(p))

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)

    return batch.mapped(place).content


def _mean_of(answer: Any, batch: Any, quantity: str) -> Tensor:
    as_quantities(answer, batch)  # says what is wrong with it
    values = answer[quantity] if isinstance(answer, Mapping) else answer
    return values[~values.isnan()].mean()
