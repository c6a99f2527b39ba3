"""Deep linear networks, y = W_d … W_1 x without biases, and what is known of them in closed form.

Their objective is as little convex as a deep network's, and yet it can be written down: what ravine
measures on them is compared with formulas, to rounding. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ravine


def deep_linear(*widths: int) -> nn.Sequential:
    """A deep linear network, all of its parameters zero.

    Args:
        widths: of the input, of each hidden layer, of the output; all 1 for a chain of single
            weights.

    Returns:
        A module from (examples, first width) to (examples, last width), with one matrix a layer.

    Examples:
        >>> deep_linear(3, 2, 1)(torch.ones(4, 3, dtype=torch.float64)).shape
        torch.Size([4, 1])
    """
    model = nn.Sequential()
    for number, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layer = nn.Linear(before, after, bias=False, dtype=torch.float64, device="meta").to_empty(
            device="cpu"
        )
        nn.init.zeros_(layer.weight)
        model.add_module(f"layer{number}", layer)
    return model


def point(*matrices: Any) -> dict[str, Tensor]:
    """A point of a deep linear network's parameter space.

    Args:
        matrices: W_1 … W_d, from the input's side; a single weight may be a number.

    Returns:
        The parameters by name.

    Examples:
        >>> point(2, 0.5)["layer1.weight"]
        tensor([[0.5000]], dtype=torch.float64)
    """
    return {
        f"layer{number}.weight": torch.atleast_2d(torch.as_tensor(matrix, dtype=torch.float64))
        for number, matrix in enumerate(matrices)
    }


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """‖y − ŷ‖², one value an example; unlike torch's, a sum over the outputs."""
    return (outputs - targets).square().sum(1)


def objective(widths: Sequence[int], inputs: Tensor, targets: Tensor) -> ravine.Objective:
    """J: the mean over examples of ‖y − ŷ‖².

    Args:
        widths: of the network.
        inputs: (examples, first width).
        targets: (examples, last width).

    Returns:
        The objective.
    """
    return ravine.Objective(
        deep_linear(*widths), ravine.supervised(squared_error), (inputs, targets)
    )


def chain(depth: int) -> ravine.Objective:
    """J(w) = (w_d … w_1 − 1)²: a chain of single weights that is to pass a 1 on.

    Examples:
        >>> chain(2)(point(2, 1))
        {'data': 1.0}
    """
    one = torch.ones(1, 1, dtype=torch.float64)
    return objective((1,) * (depth + 1), one, one)


def descend(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    rate: float,
    steps: int,
    recorder: ravine.TrajectoryRecorder,
) -> None:
    """Gradient descent on half of J, θ ← θ − rate · ∂(J/2)/∂θ, recorded.

    As rate → 0 it is the flow in time rate · steps.

    Args:
        model: where it starts; moved.
        inputs: (examples, first width).
        targets: (examples, last width).
        rate: the learning rate, which is the flow's time per step.
        steps: how many.
        recorder: keeps the snapshots that it wants.
    """
    parameters = list(model.parameters())
    recorder.record(0, model)
    for step in range(1, steps + 1):
        half = squared_error(model(inputs), targets).mean() / 2
        with torch.no_grad():
            for tensor, slope in zip(
                parameters, torch.autograd.grad(half, parameters), strict=True
            ):
                tensor.sub_(slope, alpha=rate)
        recorder.record(step, model)


# --- closed forms ---------------------------------------------------------------------------------


def two_weights(
    start: tuple[float, float], end: tuple[float, float], alpha: np.ndarray
) -> np.ndarray:
    """J = (w₁w₂ − 1)² along a line: the quartic (p₀ − 1 + p₁α + p₂α²)².

    With d = end − start: p₀ = a₁a₂, p₁ = a₁d₂ + a₂d₁, p₂ = d₁d₂.

    Args:
        start: (a₁, a₂).
        end: where α is 1.
        alpha: (points,).

    Returns:
        J, (points,).

    Examples:
        >>> two_weights((0, 0), (1, 1), np.array([0.0, 0.5, 1.0]))
        array([1.    , 0.5625, 0.    ])
    """
    (a, b), (c, d) = start, (end[0] - start[0], end[1] - start[1])
    return (a * b - 1 + (a * d + b * c) * alpha + c * d * alpha**2) ** 2


def from_saddle(depth: int, alpha: np.ndarray) -> np.ndarray:
    """J of a chain from the saddle at the origin to the solution of ones: (αᵈ − 1)².

    Args:
        depth: d.
        alpha: (points,).

    Returns:
        J, (points,): flat at 0, where d − 1 derivatives vanish, with its inflection at
        ``inflection(d)``.
    """
    return (alpha**depth - 1) ** 2


def inflection(depth: int) -> float:
    """Where (αᵈ − 1)² turns from concave to convex: ((d − 1)/(2d − 1))^(1/d).

    Examples:
        >>> [round(inflection(depth), 4) for depth in (2, 3, 4, 5)]
        [0.5774, 0.7368, 0.8091, 0.8503]
    """
    return ((depth - 1) / (2 * depth - 1)) ** (1 / depth)


def between_solutions(s: float, t: float, alpha: np.ndarray) -> np.ndarray:
    """J = (w₁w₂ − 1)² on the line of solutions (s, 1/s) to (t, 1/t): [α(1 − α)(s − t)²/(st)]².

    Args:
        s: of the first, not 0.
        t: of the second; of the other sign, it lies on the other branch of solutions.
        alpha: (points,).

    Returns:
        J, (points,): a barrier of (s − t)⁴/(16s²t²) at ½.

    Examples:
        >>> middle = np.array(0.5)
        >>> float(between_solutions(2, 0.5, middle)), float(between_solutions(1, -1, middle))
        (0.31640625, 1.0)
    """
    return (alpha * (1 - alpha) * (s - t) ** 2 / (s * t)) ** 2


def flow_end(first: float, second: float) -> tuple[float, float]:
    """Where the flow of ½(w₁w₂ − 1)² ends: on the solutions, with its start's c = w₁² − w₂².

    The flow conserves c and the sign of w₁ + w₂, so w₁² = (c + √(c² + 4))/2 and w₂ = 1/w₁.

    Args:
        first: w₁ at the start.
        second: w₂ there; not −w₁, from where the flow leads to the saddle.

    Returns:
        (w₁, w₂).

    Examples:
        >>> flow_end(0.1, 0.1)
        (1.0, 1.0)

    References:
        Saxe, McClelland and Ganguli 2013, section 1.2.
    """
    c = (first - second) * (first + second)
    root = np.sqrt(c * c + 4)
    # without taking the difference of two near numbers
    square = (c + root) / 2 if c >= 0 else 2 / (root - c)
    end = float(np.copysign(np.sqrt(square), first + second))
    return end, 1 / end


def mode_strength(strength: float, start: float, time: np.ndarray) -> np.ndarray:
    """A mode's strength u under gradient flow from balance: s e^{2st}/(e^{2st} − 1 + s/u₀).

    Args:
        strength: s > 0, the singular value that the data ask for.
        start: u₀ > 0.
        time: (points,) of the flow of half the squared error.

    Returns:
        u, (points,): near u₀ for about ln(s/u₀)/2s, then a rise to s.

    Examples:
        >>> mode_strength(2.0, 0.1, np.array([0.0, 100.0]))
        array([0.1, 2. ])

    References:
        Saxe, McClelland and Ganguli 2013, equation 8 and figure 3.
    """
    return strength / (1 + (strength / start - 1) * np.exp(-2 * strength * time))
