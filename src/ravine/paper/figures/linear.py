"""Deep linear networks: the paper's shapes where each has a closed form (its later version).

Nothing here takes training of length, so all profiles are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import ravine
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.models import linear
from ravine.plot import Axis, Curve, Field, Figure, Markers, Panel, Rule

DEPTHS: Final = (2, 3, 4, 5)

#: Of two weights: a start from where descent is drawn to the saddle at the origin first, and one
#: far from everything.
SMALL: Final = (1.0, -0.8)
LARGE: Final = (-1.8, 1.6)

#: (s, 1/s) and (t, 1/t): two solutions on one branch, and one on the other branch.
SOLUTIONS: Final = (2.0, 0.5, -0.5)

#: Of matrices: widths, examples, and how far the random point is.
WIDTHS: Final = (4, 5, 5, 3)
EXAMPLES: Final = 40
FAR: Final = 2.0

#: Of the descent of the two weights and of the modes.
RATE: Final = 1e-3

#: The two singular values that the data ask for, and how strong both modes are at first.
STRENGTHS: Final = (3.0, 1.0)
FIRST_STRENGTH: Final = 1e-3


def linear_lines(study: Study) -> Outcome:
    """Lines whose J is known: from a saddle, from starts, between solutions, and of matrices."""
    end = linear.flow_end(*SMALL)
    s, t, other = SOLUTIONS
    known: dict[str, _Known] = {
        **{
            f"depth {depth}": _Known(
                (0.0,) * depth, (1.0,) * depth, (0.0, 1.3), partial(linear.from_saddle, depth)
            )
            for depth in DEPTHS
        },
        "from where descent starts": _Known(
            SMALL, end, (-0.2, 1.4), partial(linear.two_weights, SMALL, end)
        ),
        "from far away": _Known(LARGE, end, (-0.2, 1.4), partial(linear.two_weights, LARGE, end)),
        "on one branch": _Known(
            (s, 1 / s), (t, 1 / t), (-0.2, 1.2), partial(linear.between_solutions, s, t)
        ),
        "across the saddle": _Known(
            (t, 1 / t), (other, 1 / other), (-0.2, 1.2), partial(linear.between_solutions, t, other)
        ),
    }
    results = {name: _resolved(study, name, line) for name, line in known.items()}
    errors = {name: _error(line, results[name]) for name, line in known.items()}
    matrices = _matrix_curves(study)
    misfits = [_polynomial_misfit(curve) for curve in matrices.values()]
    names = list(known)
    panels = (
        _panel(
            results,
            names[:4],
            "from the saddle to a solution",
            known,
            limits=(-0.05, 1.6),
            named=True,
        ),
        _panel(
            results,
            names[4:6],
            "two weights to a solution, from afar (dashed)",
            known,
            limits=(-0.15, 4.5),
        ),
        _panel(
            results,
            names[6:],
            "between solutions, on one branch and two (dashed)",
            known,
            limits=(-0.04, 1.2),
        ),
        _panel(matrices, list(matrices), _MATRICES_TITLE, {}, scale="log", limits=(1e-3, 1e4)),
    )
    figure = Figure(
        panels,
        "Deep linear networks: lines with a closed form",
        "Lines are resolved from what ravine measures on torch models, dots are closed forms. A "
        "chain of d weights is (αᵈ − 1)² from the saddle at the origin: flat at first, the flatter "
        f"the deeper, with one minimum. From {SMALL} and from {LARGE}, far away, the line to a "
        "solution meets no barrier. Between the solutions (2, ½) and (½, 2), which lie on one "
        "curve of solutions, there is a barrier of (s − t)⁴/(16s²t²) = 0.316; between (½, 2) and "
        "its negative the line crosses the saddle, of height 1. Largest error at 201 values of α, "
        f"over each curve's largest value: {max(errors.values()):.0e}. Matrices of widths "
        f"{'–'.join(map(str, WIDTHS))} on {EXAMPLES} examples: from a small start and from a "
        "random point to a solution, and between two solutions that (G₁W₁, G₂W₂G₁⁻¹, W₃G₂⁻¹) joins "
        "without any loss. J is a polynomial of degree 6: 7 of its values give the other 194 to "
        f"{max(misfits):.0e} of the largest.",
    )
    return Outcome("linear-lines", figure, results | matrices, ())


def linear_plane(study: Study) -> Outcome:
    """J over two weights: the saddle, the solutions, gradient descent, and two straight lines."""
    reach = 2.0
    plane = study.kept("linear-plane", (reach,), lambda: _plane(reach))
    start, ends = SMALL, linear.flow_end(*SMALL)
    path = study.kept("linear-plane-path", (start, RATE), lambda: _descent(start))
    last = path.isel(step=-1)
    miss = float(np.hypot(float(last["alpha"]) - ends[0], float(last["beta"]) - ends[1]))
    drawn = ravine.plot.surface(plane).panels[0]
    branch = np.geomspace(1 / reach, reach, 201)
    s, t, _ = SOLUTIONS
    layers = (
        *(_above(layer) for layer in drawn.layers if isinstance(layer, Field)),
        *(Curve(sign * branch, sign / branch, "solutions", style=2) for sign in (1, -1)),
        Curve(path["alpha"].values, path["beta"].values, "gradient descent", style=0),
        Curve(*_steps(start, ends), "straight line", style=1),
        Curve(*_steps((s, 1 / s), (t, 1 / t)), "between two solutions", style=1),
        Markers(
            np.array([start[0], ends[0], 0.0, s, t]),
            np.array([start[1], ends[1], 0.0, 1 / s, 1 / t]),
            names=("start", "solution", "saddle", "", ""),
        ),
    )
    z = Axis("J", "log", (_FLOOR, 30.0))
    limits = (-reach, reach)
    panel = replace(
        drawn,
        x=Axis("w₁", limits=limits),
        y=Axis("w₂", limits=limits),
        z=z,
        layers=layers,
        aspect=1.0,
        view="flat",
    )
    error = np.abs(
        plane["loss"].isel(split=0).transpose("alpha", "beta").values - _product_loss(plane)
    ).max()
    figure = Figure(
        (panel,),
        "Two weights: J = (w₁w₂ − 1)²",
        f"Every value is measured, within {error:.0e} of the closed form; below {_FLOOR:g} it is "
        "drawn as that. Dotted: the curve of solutions w₁w₂ = 1, in two branches. Solid: gradient "
        "descent from the start, which bends along its hyperbola of constant w₁² − w₂²; the "
        f"gradient flow's end there is known, and the descent ends {miss:.0e} from it, with steps "
        f"of {RATE:g}. Dashed: the straight line that it did not take, and the one between two "
        "solutions, which leaves the curve that joins them. At the saddle J is 1.",
    )
    return Outcome("linear-plane", figure, {"plane": plane, "path": path}, ())


def linear_dynamics(study: Study) -> Outcome:
    """Two modes of a deep linear network, learned one after the other, beside Saxe's formula."""
    path = study.kept("linear-dynamics", (STRENGTHS, FIRST_STRENGTH, RATE, "objective"), _modes)
    time = path["step"].values * RATE
    found = {
        s: path[name].values ** 2 for s, name in zip(STRENGTHS, ("alpha", "beta"), strict=True)
    }
    formula = {s: linear.mode_strength(s, FIRST_STRENGTH, time) for s in STRENGTHS}
    error = max(float(np.abs(found[s] - formula[s]).max()) for s in STRENGTHS)
    residual = float(path["residual"].max()) / float(path["displacement"].max())
    few = slice(None, None, 4)
    strengths: list[Any] = [
        Rule(float(np.log(s / FIRST_STRENGTH) / (2 * s)), f"ln(s/u₀)/2s, s = {s:g}")
        for s in STRENGTHS
    ]
    for style, s in enumerate(STRENGTHS):
        strengths += [
            Curve(time, found[s], f"mode of strength {s:g}", style=style),
            Markers(time[few], formula[s][few], style=style),
        ]
    height = np.sum([(s - formula[s]) ** 2 for s in STRENGTHS], axis=0)
    fall = (
        Curve(time, path["objective"].values, "J of the run", style=2),
        Markers(time[few], height[few], style=2),
    )
    panels = (
        Panel(
            Axis("time (steps × learning rate)"),
            Axis("strength of the mode"),
            tuple(strengths),
            "two modes",
        ),
        Panel(Axis("time (steps × learning rate)"), Axis("J"), fall, "their objective"),
    )
    figure = Figure(
        panels,
        "Saxe's dynamics of a deep linear network",
        "A network of widths 4–3–5 learns a matrix of singular values "
        f"{' and '.join(f'{s:g}' for s in STRENGTHS)} from whitened inputs, both modes at "
        f"{FIRST_STRENGTH:g} at first. Lines: the recorded run, projected on the plane that the "
        f"two modes span, of which it leaves {residual:.0e} of its displacement; a coordinate's "
        "square is the mode's strength. Dots: u(t) = s e^(2st)/(e^(2st) − 1 + s/u₀), and J = Σ(s − "
        f"u)². The strengths differ by {error:.0e} at most, and by half as much with half the "
        "learning rate: the formula is of the flow. J falls in two steps, with a plateau before "
        "each: strong modes first.",
    )
    return Outcome("linear-dynamics", figure, {"path": path}, ())


# --- measured -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    """A line through the space of single weights whose J has a closed form."""

    start: tuple[float, ...]
    end: tuple[float, ...]
    interval: tuple[float, float]
    closed: Callable[[np.ndarray], np.ndarray]


def _resolved(study: Study, name: str, known: _Known) -> xr.Dataset:
    def measure() -> xr.Dataset:
        line = ravine.Line(linear.point(*known.start), linear.point(*known.end))
        return ravine.resolve(
            linear.chain(len(known.start)), along=line, interval=known.interval, title=name
        )

    return study.kept(
        f"linear-{name.replace(' ', '-')}", (known.start, known.end, known.interval), measure
    )


def _error(known: _Known, curve: xr.Dataset) -> float:
    """The largest error of the resolved curve, over its largest value."""
    alpha = np.linspace(*known.interval, 201)
    read = ravine.reconstruct(curve, at=alpha)["loss"].values[:, 0]
    return float(np.abs(read - known.closed(alpha)).max() / np.abs(known.closed(alpha)).max())


def matrix_problem() -> tuple[Tensor, Tensor, dict[str, dict[str, Tensor]]]:
    """A deep linear regression, and points of its parameter space.

    Returns:
        inputs (examples, 4), targets (examples, 3), and by name: "solution"; "transformed", the
        same function by other matrices; "small" and "random", two starts.
    """
    stream = np.random.default_rng(0)
    matrices = [
        stream.normal(size=(after, before)) / before**0.5 for before, after in _pairs(WIDTHS)
    ]
    first, second, third = matrices
    inputs = stream.normal(size=(EXAMPLES, WIDTHS[0]))
    mixing = [
        torch.linalg.matrix_exp(torch.from_numpy(stream.normal(size=(5, 5)))).numpy()
        for _ in range(2)
    ]
    transformed = (
        mixing[0] @ first,
        mixing[1] @ second @ np.linalg.inv(mixing[0]),
        third @ np.linalg.inv(mixing[1]),
    )
    starts = {}
    for name, scale in (("small", 0.1), ("random", FAR)):
        starts[name] = [scale * stream.normal(size=matrix.shape) for matrix in matrices]
    targets = inputs @ (third @ second @ first).T
    points = {"solution": matrices, "transformed": transformed} | starts
    return (
        torch.from_numpy(inputs),
        torch.from_numpy(targets),
        {name: linear.point(*found) for name, found in points.items()},
    )


def _matrix_curves(study: Study) -> dict[str, xr.Dataset]:
    lines = {
        "from a small start": ("small", "solution"),
        "from a random point": ("random", "solution"),
        "between two solutions": ("solution", "transformed"),
    }

    def measure(start: str, end: str, name: str) -> Callable[[], xr.Dataset]:
        def measured() -> xr.Dataset:
            inputs, targets, points = matrix_problem()
            J = linear.objective(WIDTHS, inputs, targets)
            line = ravine.Line(points[start], points[end])
            return ravine.evaluate(J, along=line, at=np.linspace(0, 1, 201), title=name)

        return measured

    return {
        name: study.kept(
            f"linear-matrices-{start}-{end}",
            (WIDTHS, EXAMPLES, FAR, start, end),
            measure(start, end, name),
        )
        for name, (start, end) in lines.items()
    }


def _polynomial_misfit(curve: xr.Dataset) -> float:
    """How far J is from the degree-2d polynomial through 2d + 1 of its values, relatively."""
    alpha, value = curve["alpha"].values, curve["loss"].values[:, 0]
    degree = 2 * (len(WIDTHS) - 1)
    nodes = np.round(
        (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2 * (len(alpha) - 1)
    ).astype(int)
    fitted = np.polynomial.Chebyshev.fit(alpha[nodes], value[nodes], degree)
    return float(np.abs(fitted(alpha) - value).max() / value.max())


def _plane(reach: float) -> xr.Dataset:
    at = np.linspace(-reach, reach, 161)
    plane = ravine.Plane(linear.point(0, 0), linear.point(1, 0), linear.point(0, 1))
    return ravine.evaluate(
        linear.chain(2), along=plane, at={"alpha": at, "beta": at}, title="two weights"
    )


def _product_loss(plane: xr.Dataset) -> np.ndarray:
    return (np.outer(plane["alpha"].values, plane["beta"].values) - 1) ** 2


def _descent(start: tuple[float, float], time: float = 12.0) -> xr.Dataset:
    """Gradient descent on two weights, recorded and projected on their plane."""
    one = torch.ones(1, 1, dtype=torch.float64)
    plane = ravine.Plane(linear.point(0, 0), linear.point(1, 0), linear.point(0, 1))
    return _recorded((1, 1, 1), linear.point(*start), one, one, plane, time)


def _modes() -> xr.Dataset:
    """A balanced, aligned start that learns two modes, projected on the plane of the two."""
    inputs, targets, plane, start = mode_problem(STRENGTHS, FIRST_STRENGTH)
    return _recorded((4, 3, 5), start, inputs, targets, plane, time=6.0)


def mode_problem(
    strengths: tuple[float, float], first: float
) -> tuple[Tensor, Tensor, ravine.Plane, ravine.Params]:
    """Whitened inputs, a linear map of two singular values, and a network 4–3–5 aligned with it.

    With the map's singular vectors u_i, v_i and any orthonormal e_i, the matrices W₁ = Σ aᵢ eᵢvᵢᵀ
    and W₂ = Σ aᵢ uᵢeᵢᵀ stay of this form under the gradient flow, and mode i has the strength aᵢ².

    Args:
        strengths: the two singular values.
        first: the strength of both modes at the start.

    Returns:
        inputs (8, 4), targets (8, 5), the plane of all (a₁, a₂), and the start.
    """
    stream = np.random.default_rng(1)
    left, hidden, right = (np.linalg.qr(stream.normal(size=(n, n)))[0][:, :2] for n in (5, 3, 4))
    inputs = np.linalg.qr(stream.normal(size=(8, 4)))[0] * 8**0.5  # XᵀX/n = 1
    corners = [
        linear.point(np.outer(hidden[:, i], right[:, i]), np.outer(left[:, i], hidden[:, i]))
        for i in (0, 1)
    ]
    plane = ravine.Plane(linear.point(np.zeros((3, 4)), np.zeros((5, 3))), *corners)
    targets = inputs @ (left @ np.diag(strengths) @ right.T).T
    start = plane.at(first**0.5, first**0.5)
    return torch.from_numpy(inputs), torch.from_numpy(targets), plane, start


def _recorded(
    widths: tuple[int, ...],
    start: ravine.Params,
    inputs: Tensor,
    targets: Tensor,
    plane: ravine.Plane,
    time: float,
    rate: float = RATE,
) -> xr.Dataset:
    model = linear.deep_linear(*widths)
    model.load_state_dict(dict(start))
    steps = round(time / rate)
    J = linear.objective(widths, inputs, targets)
    with tempfile.TemporaryDirectory() as folder:
        recorder = ravine.TrajectoryRecorder(Path(folder), every=max(steps // 120, 1))
        linear.descend(model, inputs, targets, rate=rate, steps=steps, recorder=recorder)
        run = ravine.Trajectory.open(folder)
        path = ravine.project(run, onto=plane)
        return path.assign(objective=("step", [J(snapshot)["data"] for snapshot in run]))


# --- drawn ----------------------------------------------------------------------------------------

_FLOOR: Final = 1e-3
_MATRICES_TITLE: Final = "matrices: small, random (dashed); solutions (dotted)"


def _panel(
    curves: dict[str, xr.Dataset],
    names: list[str],
    title: str,
    known: dict[str, _Known],
    limits: tuple[float, float],
    *,
    scale: Literal["linear", "log"] = "linear",
    named: bool = False,
) -> Panel:
    """Some of the curves, with dots where the closed form is."""
    layers: list[Any] = []
    for style, name in enumerate(names):
        curve = curves[name]
        low, high = float(curve["alpha"].min()), float(curve["alpha"].max())
        dense = np.linspace(low, high, 401)
        read = ravine.reconstruct(curve, at=dense) if "piece" in curve.dims else curve
        layers.append(
            Curve(
                read["alpha"].values, read["loss"].values[:, 0], name if named else "", style=style
            )
        )
        if name in known:
            few = np.linspace(low, high, 27)
            layers.append(Markers(few, known[name].closed(few), style=style))
    return Panel(Axis("α"), Axis("J", scale, limits), tuple(layers), title)


def _above(field: Field) -> Field:
    """The field with everything below the floor at it, and contours at factors of √10."""
    levels = 10.0 ** np.arange(np.log10(_FLOOR), 1.51, 0.5)
    return replace(field, z=np.maximum(field.z, _FLOOR), levels=levels)


def _steps(start: tuple[float, float], end: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A straight line in so many steps that no dots are drawn on it."""
    return np.linspace(start[0], end[0], 101), np.linspace(start[1], end[1], 101)


def _pairs(widths: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(widths[:-1], widths[1:], strict=True))
