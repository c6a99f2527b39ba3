"""Slices: maps from coordinates to points of parameter space.

A slice is spanned by a few *corners*; a coordinate becomes one coefficient per corner, and the
point is their combination (``params.combine``). Measuring needs nothing else of it, so a slice
never holds a computed point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, combine, distance, gram

_FLATTEST: Final = (
    1e-4  # sine of the angle at the origin: below, coordinates magnify rounding ten-thousandfold
)


class Slice(Protocol):
    """What can be measured along: dims, corners, and the corners' coefficients at a coordinate."""

    dims: tuple[str, ...]
    # what the corners are called; a result has the label and the hash of each under its name
    roles: tuple[str, ...]

    @property
    def corners(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that span the slice, all under the first one's names."""
        ...

    @property
    def coefficients(self) -> Callable[..., tuple[float, ...]]:
        """The coordinates' function: one number per corner, summing to 1."""
        ...

    def geometry(self, between: np.ndarray) -> dict[str, float]:
        """Lengths and angles, by their names in a result, from the corners' ``params.gram``."""
        ...


def roles_of(along: Slice) -> tuple[str, ...]:
    """What a slice calls its corners; if it does not say, a line's or a plane's names."""
    count = len(along.corners)
    usual = {2: Line.roles, 3: Plane.roles}.get(count, tuple(f"corner{i}" for i in range(count)))
    return getattr(along, "roles", usual)


def bends(along: Slice) -> bool:
    """Whether a slice is curved: whether its coefficients are more than affine in its coordinates.

    Examples:
        >>> bends(Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}))
        False
    """
    origin = np.array(along.coefficients(*[0.0] * len(along.dims)))
    units = np.eye(len(along.dims))
    steps = np.array([along.coefficients(*unit) for unit in units.tolist()]) - origin
    for place in (0.3, 0.5, -0.7, 1.9):  # inside the slice and beyond it, none of them a corner
        coordinates = place * np.linspace(1, 2, len(along.dims))
        found = np.array(along.coefficients(*coordinates.tolist()))
        if not np.allclose(found, origin + coordinates @ steps, rtol=1e-9, atol=1e-9):
            return True
    return False


class Line:
    """The straight line θ(α) = (1 − α) θ₀ + α θ₁ through two points; α may lie outside [0, 1].

    Args:
        start: θ₀, at α = 0: a module, a state dict, a mapping of tensors, or the path of a
            checkpoint (``Checkpoint.read`` lists what it takes). Files stay on disk until they are
            needed.
        end: θ₁, at α = 1, of the same architecture.

    Raises:
        InputError: a point cannot be read, or the two differ in names, shapes, types or ties.

    Examples:
        >>> line = Line({"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([3.0, 4.0])})
        >>> line.at(0.5)
        {'w': tensor([1.5000, 2.0000])}
        >>> line.length
        5.0

    References:
        Goodfellow and Vinyals 2014, section 2.
    """

    dims: tuple[str, ...] = ("alpha",)
    roles: tuple[str, ...] = ("start", "end")

    def __init__(self, start: Any, end: Any) -> None:
        self.start = Checkpoint.read(start)
        self.end = matched(self.start, Checkpoint.read(end))

    @property
    def corners(self) -> tuple[Checkpoint, ...]:
        """Start and end."""
        return (self.start, self.end)

    @property
    def length(self) -> float:
        """‖θ₁ − θ₀‖₂ over the parameters, tied tensors once, buffers excluded."""
        start, end = corner_params(self.corners)
        return distance(start, end)

    def coefficients(self, alpha: float) -> tuple[float, ...]:
        """(1 − α, α)."""
        return (1 - alpha, alpha)

    def geometry(self, between: np.ndarray) -> dict[str, float]:
        """The length."""
        return {"length": float(between[0, 0] ** 0.5)}

    def at(self, alpha: float) -> Params:
        """The point at ``alpha``, from the two ends, in at least float32, on the start's device.

        Args:
            alpha: position, dimensionless; 0 gives the start and 1 the end, bit for bit and in
                their own dtype.

        Returns:
            New tensors by name; buffers are left out.
        """
        return _point(self.corners, self.coefficients(alpha))

    def __repr__(self) -> str:
        return f"Line({self.start.label} → {self.end.label})"


class Plane:
    """The plane θ(α, β) = θ₀ + α (θₐ − θ₀) + β (θ_b − θ₀) through three points.

    The coordinates are dimensionless: (0, 0) is the origin, (1, 0) is a and (0, 1) is b; either may
    lie outside [0, 1]. The axes are as long and meet at the angle that the three points give them;
    nothing is made orthogonal. For a plane along directions, random ones say, give ``origin +
    direction`` as the corner.

    Args:
        origin: θ₀: anything that an end of a ``Line`` may be.
        a: θₐ, of the same architecture.
        b: θ_b, of the same architecture.

    Attributes:
        lengths: ‖θₐ − θ₀‖₂ and ‖θ_b − θ₀‖₂ over the parameters, in the parameters' own unit.
        cosine: of the angle between the two axes, dimensionless.

    Raises:
        InputError: a point cannot be read, they are not of one space, two of them are the same
            point, or all three lie on a line.

    Examples:
        >>> origin, a, b = ({"w": torch.tensor(w)} for w in ([1.0, 1.0], [4.0, 1.0], [1.0, 3.0]))
        >>> plane = Plane(origin, a, b)
        >>> plane.at(0.5, 2.0)
        {'w': tensor([2.5000, 5.0000])}
        >>> plane.lengths, plane.cosine
        ((3.0, 2.0), 0.0)

    References:
        Goodfellow and Vinyals 2014, figure 7; planes along random directions: Li et al. 2018.
    """

    dims: tuple[str, ...] = ("alpha", "beta")
    roles: tuple[str, ...] = ("origin", "a", "b")

    def __init__(self, origin: Any, a: Any, b: Any) -> None:
        self.origin = Checkpoint.read(origin)
        self.a = matched(self.origin, Checkpoint.read(a))
        self.b = matched(self.origin, Checkpoint.read(b))
        between = gram(corner_params(self.corners))
        # a corner with NaN is refused by name when it is measured
        with np.errstate(invalid="ignore"):
            self._require_wide(between)
            found = self.geometry(between)
        self.lengths = (found["length_a"], found["length_b"])
        self.cosine = found["cosine"]

    @property
    def corners(self) -> tuple[Checkpoint, ...]:
        """Origin, a and b."""
        return (self.origin, self.a, self.b)

    def coefficients(self, alpha: float, beta: float) -> tuple[float, ...]:
        """(1 − α − β, α, β)."""
        return (1 - alpha - beta, alpha, beta)

    def geometry(self, between: np.ndarray) -> dict[str, float]:
        """Lengths of the axes and the cosine between them."""
        a, b = np.sqrt(np.diagonal(between))
        cosine = np.clip(between[0, 1] / (a * b), -1, 1)
        return {"length_a": float(a), "length_b": float(b), "cosine": float(cosine)}

    def at(self, alpha: float, beta: float) -> Params:
        """The point at (``alpha``, ``beta``), computed fresh from the corners, in at least float32.

        Args:
            alpha: position towards a, dimensionless.
            beta: position towards b, dimensionless. The three corners come bit for bit and in their
                own dtype.

        Returns:
            New tensors by name on the origin's device; buffers are left out.
        """
        return _point(self.corners, self.coefficients(alpha, beta))

    def _require_wide(self, between: np.ndarray) -> None:
        (aa, ab), (_, bb) = between
        pairs = (("origin", "a", aa == 0), ("origin", "b", bb == 0), ("a", "b", aa == ab == bb))
        for one, other, same in pairs:
            if same:
                labels = (getattr(self, one).label, getattr(self, other).label)
                msg = (
                    f"the plane's corners {one} ({labels[0]}) and {other} ({labels[1]}) are the "
                    "same point; expected three different ones. (A module and its state_dict() are "
                    "live: take copy.deepcopy first.)"
                )
                raise InputError(msg)
        sine = max(1 - ab**2 / (aa * bb), 0.0) ** 0.5
        if sine < _FLATTEST:
            msg = (
                f"the plane's corners {', '.join(corner.label for corner in self.corners)} lie on "
                f"a line: the sine of the angle at the origin is {sine:.1e}; expected at least "
                f"{_FLATTEST:g}. Walk it with a Line, or choose another corner."
            )
            raise InputError(msg)

    def __repr__(self) -> str:
        return f"Plane(origin: {self.origin.label}, a: {self.a.label}, b: {self.b.label})"


class Bezier:
    """The Bézier curve of a start, one or more control points and an end, α from 0 to 1.

    With one control point it is θ(α) = (1 − α)² θ₀ + 2α (1 − α) θ₁ + α² θ₂. It passes through its
    ends, and not through the control points.

    Args:
        *points: the start, the control points in order, and the end: anything that an end of a
            ``Line`` may be, all of one architecture.

    Raises:
        InputError: there are fewer than three, one cannot be read, or they are not of one space.

    Examples:
        >>> west, north, east = [-1.0, 0.0], [0.0, 2.0], [1.0, 0.0]
        >>> curve = Bezier(*({"w": torch.tensor(place)} for place in (west, north, east)))
        >>> curve.at(0.5)
        {'w': tensor([0., 1.])}
        >>> curve.at(1.0)
        {'w': tensor([1., 0.])}

    References:
        Garipov et al. 2018 (curves of low loss between solutions).
    """

    dims: tuple[str, ...] = ("alpha",)

    def __init__(self, *points: Any) -> None:
        if len(points) < 3:
            msg = (
                "a Bezier curve needs a start, one or more control points, and an end; got "
                f"{len(points)} points. Of two, take a Line."
            )
            raise InputError(msg)
        self.start = Checkpoint.read(points[0])
        others = [matched(self.start, Checkpoint.read(point)) for point in points[1:]]
        self.controls, self.end = tuple(others[:-1]), others[-1]

    @property
    def roles(self) -> tuple[str, ...]:
        """What the corners are called: start, bend (bend1, bend2, …), end."""
        count = len(self.controls)
        bends = ("bend",) if count == 1 else tuple(f"bend{i + 1}" for i in range(count))
        return ("start", *bends, "end")

    @property
    def corners(self) -> tuple[Checkpoint, ...]:
        """Start, control points and end."""
        return (self.start, *self.controls, self.end)

    def coefficients(self, alpha: float) -> tuple[float, ...]:
        """The Bernstein polynomials at α."""
        degree = len(self.controls) + 1
        return tuple(
            math.comb(degree, i) * (1 - alpha) ** (degree - i) * alpha**i for i in range(degree + 1)
        )

    def geometry(self, between: np.ndarray) -> dict[str, float]:
        """The length of the chord."""
        return {"length": float(between[-1, -1] ** 0.5)}

    def at(self, alpha: float) -> Params:
        """The point at ``alpha``, computed fresh from the corners, in at least float32.

        Args:
            alpha: position along the curve, dimensionless. The ends come bit for bit and in their
                own dtype.

        Returns:
            New tensors by name on the start's device; buffers are left out.
        """
        return _point(self.corners, self.coefficients(alpha))

    def __repr__(self) -> str:
        return f"Bezier({' → '.join(corner.label for corner in self.corners)})"


def corner_params(corners: Sequence[Checkpoint]) -> list[Params]:
    """The parameters of every corner: what none of them knows to be a buffer."""
    for corner in corners:
        corner.require_unchanged()
    first, *others = corners
    elsewhere = set[str]().union(*(other.buffers for other in others))
    names = [name for name in first.params if name not in elsewhere]
    return [corner.taken(names) for corner in corners]


def _point(corners: Sequence[Checkpoint], coefficients: tuple[float, ...]) -> Params:
    points = corner_params(corners)
    if sorted(coefficients) == [0] * (len(points) - 1) + [1]:
        return {name: tensor.clone() for name, tensor in points[coefficients.index(1)].items()}
    return {
        name: combine(
            [point[name] for point in points],
            coefficients,
            torch.empty_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)),
        )
        for name, tensor in points[0].items()
    }
