"""Updates of a card: a CUDA graph each, since a small network's time goes into launching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.paper.device import Precision, computing, random_state, set_random_state
from ravine.paper.tasks.task import Independent

#: Makes one launch of a computation that has no arguments and returns nothing.
Capture = Callable[[Callable[[], None]], Callable[[], None]]

#: An update is tried so often before it is captured: libraries choose their kernels at first use.
_TRIED: Final = 3


def as_graph(compute: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of a computation.

    What is drawn in it comes from the card's generator at every launch.

    Args:
        compute: reads and writes the same tensors at every call, and never waits for the card. It
            is called several times here.

    Returns:
        Launches it.

    References:
        PyTorch's documentation, "CUDA Graphs": whole-network capture.
    """
    aside: Any = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_TRIED):
            compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay


class Updates:
    """SGD's updates by fixed tensors: v ← momentum · v − rate · scale · g, θ ← θ + v.

    Then the constraints.

    As ``Training.step`` takes them, but for the order in which numbers are rounded: rate and
    momentum are float32 here.

    Args:
        params: by name, changed in place.
        velocity: by name, changed in place.
        scales: name → factor of the learning rate.
        objective: of the numbers of a minibatch's examples; a scalar.
        constrain: puts the parameters back, in place, to where they may be.
        precision: of the forward pass.
        capture: makes a graph of the first batch's shape; batches of other shapes are computed as
            they are. None captures nothing.

    Attributes:
        trouble: why there is no graph although one was to be, in words; "" where none is needed.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        velocity: Mapping[str, Tensor],
        scales: Mapping[str, float],
        objective: Callable[[Tensor], Tensor],
        constrain: Callable[[], Any],
        precision: Precision,
        capture: Capture | None = as_graph,
    ) -> None:
        self.params = list(params.values())
        self.velocity = [velocity[name] for name in params]
        self.device = self.params[0].device
        self.objective = objective
        self.constrain = constrain
        self.precision: Precision = precision
        self.capture = capture
        self.trouble = ""
        self._downhill = [-scales.get(name, 1.0) for name in params]
        self._rate = torch.zeros((), device=self.device)
        self._momentum = torch.zeros((), device=self.device)
        self._examples = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._launch: Callable[[], None] | None = None

    @classmethod
    def of(
        cls,
        task: Independent,
        model: nn.Module,
        velocity: Mapping[str, Tensor],
        phase: int,
        precision: Precision,
        capture: Capture | None = as_graph,
    ) -> Updates:
        """The updates of one model in one phase of its task."""
        params = dict(model.named_parameters())
        return cls(
            params,
            velocity,
            task.rate_scales,
            lambda examples: task.minibatch(model, phase, examples),
            lambda: task.constrain(params),
            precision,
            capture,
        )

    def take(self, examples: Tensor, rate: float, momentum: float) -> None:
        """One update.

        Args:
            examples: the numbers of the minibatch's examples.
            rate: the learning rate.
            momentum: the momentum.
        """
        self._rate.fill_(rate)
        self._momentum.fill_(momentum)
        if self._launch is None and self.capture is not None:
            self._captured(examples, self.capture)
        if self._launch is None or examples.shape != self._examples.shape:
            self._compute(examples)
            return
        self._examples.copy_(examples)
        self._launch()

    def _captured(self, examples: Tensor, capture: Capture) -> None:
        """Capture the update of these examples; afterwards everything is as it was."""
        moved = [*self.params, *self.velocity]
        before = [tensor.detach().clone() for tensor in moved]
        drawn = random_state(self.device)
        self._examples = examples.clone()
        try:
            self._launch = capture(lambda: self._compute(self._examples))
        except RuntimeError as problem:  # a library that cannot be captured: slower, and as right
            self.trouble = str(problem).splitlines()[0]
            self.capture = None
        with torch.no_grad():
            for tensor, values in zip(moved, before, strict=True):
                tensor.copy_(values)
        set_random_state(self.device, drawn)

    def _compute(self, examples: Tensor) -> None:
        with computing(self.precision, self.device):
            objective = self.objective(examples)
        gradient = torch.autograd.grad(objective, self.params)
        with torch.no_grad():
            lists: Any = torch  # its operations on lists of tensors have no types
            steps = lists._foreach_mul(lists._foreach_mul(gradient, self._downhill), self._rate)
            lists._foreach_mul_(self.velocity, self._momentum)
            lists._foreach_add_(self.velocity, steps)
            lists._foreach_add_(self.params, self.velocity)
            self.constrain()
