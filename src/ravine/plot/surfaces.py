"""From a measured plane to the figure of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import numpy as np
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from ravine.errors import InputError
from ravine.metrics import policies
from ravine.plot.curves import title
from ravine.plot.figure import Figure
from ravine.plot.layers import Axis, Curve, Field, Layer, Markers, Panel, nice_step
from ravine.plot.words import axis_label, listed, pick, with_count
from ravine.result import schema
from ravine.result.interpolant import is_resolved, is_surface
from ravine.result.reading import densely

#: Colours and heights are logarithmic where positive values span more decades than this; fewer than
#: on an axis, since an eye tells a dozen colours apart and a basin's floor must be more than one.
DECADES: Final = 1.5

#: What the legend calls a run drawn over a plane.
TRAIL: Final = "training path"

#: Contour lines, at most.
LINES: Final = 14

#: Evenly spaced positions on each axis at which a resolved plane is drawn, beside those that were
#: measured.
DRAWN: Final = 81

#: Beyond this ratio of lengths a plane true to its geometry would be a ribbon.
SLENDER: Final = 3.0

_CORNERS: Final = {"origin": (0.0, 0.0), "a": (1.0, 0.0), "b": (0.0, 1.0)}


def surface(
    plane: xr.Dataset,
    path: xr.Dataset | None = None,
    *,
    quantity: str = "loss",
    split: str | None = None,
    view: Literal["flat", "3d"] = "flat",
) -> Figure:
    """A figure of a plane: colours with contour lines, or the surface, with its corners named.

    Args:
        plane: a result with the dims ``alpha`` and ``beta``, from ``evaluate``, ``resolve`` or
            ``reconstruct``. A resolved one is drawn from its interpolant, one that did not resolve
            at its measured points only.
        path: a training path on the plane: ``alpha`` and ``beta`` (step), dimensionless; if it has
            ``loss`` (step, or step and split) that is its height from the side, where it may be
            above or below the plane's at the same place: a thin upright joins the two; ``residual``
            (step), its distance from the plane, is told on hovering. With it the straight line from
            the origin to a is drawn, on the plane.
        quantity: what is drawn.
        split: of which split; None takes the first.
        view: ``"flat"`` from above, ``"3d"`` from the side.

    Returns:
        The figure. A unit of β is drawn as long as it is in parameter space where that is at most 3
        times a unit of α or the reverse; the angle between the axes is in the caption. Colours are
        logarithmic where the values are positive and span more than 1.5 decades. A value that is
        not finite leaves a hole and a cross.

    Raises:
        InputError: not a measured plane, no such quantity, split or view, or the path has no place
            on a plane.

    Examples:
        >>> dims = ("alpha", "beta", "split")
        >>> height = np.add.outer(np.linspace(0, 1, 4) ** 2, np.linspace(0, 2, 5))[..., None]
        >>> plane = xr.Dataset(
        ...     {"loss": (dims, height, {"units": "nats"}), "loss_stderr": (dims, 0 * height)},
        ...     coords={
        ...         "alpha": np.linspace(0, 1, 4),
        ...         "beta": np.linspace(0, 2, 5),
        ...         "split": ["train"],
        ...     },
        ...     attrs={"schema_version": 1},
        ... )
        >>> figure = surface(plane)
        >>> figure.panels[0].z.label, figure.panels[0].layers[0].z.shape
        ('loss (nats)', (4, 5))
    """
    measured = _plane_of_points(plane)
    pick("quantity", quantity, schema.quantities(measured))
    splits = [str(name) for name in measured["split"].values]
    (shown,) = pick("split", splits[:1] if split is None else split, splits)
    if view not in ("flat", "3d"):
        msg = f"view must be 'flat' or '3d'; got {view!r}"
        raise InputError(msg)
    smooth = is_surface(measured, quantity)
    drawn = densely(measured, DRAWN) if smooth else measured
    own = None if path is None or view == "flat" else _heights(path, quantity, shown)
    field, z = _field(drawn, quantity, shown, own)
    layers: list[Layer] = [field, *_holes(measured, quantity, shown, z)]
    if path is not None:
        trail = _trail(path, field, quantity, shown)
        uprights = [] if own is None else [_uprights(trail, field)]
        layers += [_chord(field), *uprights, trail]
    layers.append(_marks(field))
    x, y = (
        Axis(symbol, limits=(float(a[0]), float(a[-1])))
        for symbol, a in (("α", field.x), ("β", field.y))
    )
    panel = Panel(
        x, y, tuple(layers), z=z, aspect=_aspect(measured), view=view, facing=_facing(field)
    )
    words = [
        _corner_words(measured),
        f"Mean over the examples of {with_count(measured, shown)}.",
        policies(measured),
        _geometry_words(measured, panel.aspect),
        f"Contour lines are {_step_words(field, z)} apart.",
    ]
    if is_resolved(measured) and not smooth:
        words.append(_unresolved_words(measured))
    if path is not None:
        words += [_path_words(path, x, y), "Dashed: the straight line."]
    if own is not None:
        words.append("Uprights join each snapshot's own value to the plane's at its projection.")
    if not np.isfinite(field.z).all():
        words.append("Crosses: measured and not finite.")
    return Figure((panel,), title=title(measured), caption=" ".join(filter(None, words)))


def _field(
    drawn: xr.Dataset, quantity: str, split: str, others: np.ndarray | None = None
) -> tuple[Field, Axis]:
    """The field, and a scale that has room for other heights too."""
    one = drawn.sel(split=split).sortby(["alpha", "beta"])
    values = one[quantity].transpose("alpha", "beta").values.astype(float)
    values = np.where(np.isfinite(values), values, np.nan)
    heights = values if others is None else np.append(values, others)
    finite = heights[np.isfinite(heights)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    log = low > 0 and np.log10(high / low) > DECADES
    z = Axis(axis_label(drawn, quantity), "log" if log else "linear", (low, high))
    bottom, top = z.scaled(np.array([low, high]))
    if top - bottom <= 1e-12 * max(abs(bottom), abs(top)):  # flat: colours need some range
        pad = 0.05 * max(abs(bottom), abs(top)) or 0.05
        bottom, top = bottom - pad, top + pad
    step = nice_step((top - bottom) / LINES)
    levels = step * np.arange(np.floor(bottom / step), np.ceil(top / step) + 1)
    limits = 10 ** levels[[0, -1]] if log else levels[[0, -1]]
    z = Axis(z.label, z.scale, (float(limits[0]), float(limits[1])))
    return Field(one["alpha"].values, one["beta"].values, values, 10**levels if log else levels), z


def _holes(measured: xr.Dataset, quantity: str, split: str, z: Axis) -> list[Layer]:
    one = measured.sel(split=split)
    values = one[quantity].transpose("alpha", "beta").values
    i, j = np.nonzero(~np.isfinite(values))
    if not i.size:
        return []
    told = tuple(str(value) for value in values[i, j])
    floor = np.full(i.size, (z.limits or (0.0, 1.0))[0])
    return [
        Markers(
            one["alpha"].values[i],
            one["beta"].values[j],
            "not finite",
            "cross",
            hover=told,
            z=floor,
        ),
    ]


def _marks(field: Field) -> Markers:
    inside = {
        name: place
        for name, place in _CORNERS.items()
        if field.x[0] <= place[0] <= field.x[-1] and field.y[0] <= place[1] <= field.y[-1]
    }
    x, y = np.array(list(inside.values())).reshape(-1, 2).T
    heights = _read(field, x, y)
    told = tuple(f"{name}: {height:.4g}" for name, height in zip(inside, heights, strict=True))
    return Markers(x, y, names=tuple(inside), hover=told, z=heights)


def _trail(path: xr.Dataset, field: Field, quantity: str, split: str) -> Curve:
    missing = [
        name for name in ("alpha", "beta") if name not in path or path[name].dims != ("step",)
    ]
    if missing:
        msg = (
            "a path on a plane needs 'alpha' and 'beta' with the one dim 'step'; it lacks "
            f"{' and '.join(missing)} and has {sorted(map(str, path.variables))}"
        )
        raise InputError(msg)
    x, y = (path[name].values.astype(float) for name in ("alpha", "beta"))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        msg = "a path's 'alpha' and 'beta' must be finite"
        raise InputError(msg)
    heights = _read(field, x, y)
    told: dict[str, Any] = {
        "step": path["step"].values if "step" in path.coords else np.arange(x.size)
    }
    own = _heights(path, quantity, split)
    if own is not None:
        heights = told[quantity] = own
    if "residual" in path:
        told["distance from the plane"] = path["residual"].values
    rows = zip(*told.values(), strict=True)
    hover = tuple(_told(dict(zip(told, row, strict=True))) for row in rows)
    return Curve(x, y, TRAIL, z=heights, hover=hover)


def _told(values: Mapping[str, float]) -> str:
    """What stands beside a snapshot."""
    return ", ".join(f"{name} {value:.6g}" for name, value in values.items())


def _heights(path: xr.Dataset, quantity: str, split: str) -> np.ndarray | None:
    """What was measured at the snapshots themselves, None if nothing was."""
    if quantity not in path:
        return None
    own = path[quantity]
    if "split" in own.dims:
        own = own.sel(split=split) if split in own["split"].values else own.isel(split=0)
    return own.values.astype(float)


def _chord(field: Field) -> Curve:
    """The straight line from the origin to a, as far as the field reaches."""
    x = np.linspace(max(0.0, float(field.x[0])), min(1.0, float(field.x[-1])), 201)
    y = np.zeros_like(x)
    return Curve(x, y, "straight line", style=1, z=_read(field, x, y))


def _uprights(trail: Curve, field: Field) -> Curve:
    """From each snapshot's own height to the surface, with gaps between them."""
    ends = np.stack(
        [np.asarray(trail.z, float), _read(field, trail.x, trail.y), np.full(trail.x.size, np.nan)],
        1,
    )
    x, y = (np.repeat(place, 3) for place in (trail.x, trail.y))
    return Curve(x, y, "distance in height from the plane", style=2, z=ends.ravel())


def _read(field: Field, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The drawn surface at some places, NaN off it."""
    if min(field.z.shape) < 2:
        return np.full(len(x), np.nan)
    read = RegularGridInterpolator(
        (field.x, field.y), field.z, bounds_error=False, fill_value=cast(float, np.nan)
    )
    return read(np.stack([x, y], 1))


def _aspect(plane: xr.Dataset) -> float | None:
    a, b = (float(plane.attrs.get(f"length_{axis}", np.nan)) for axis in "ab")
    ratio = b / a if a else np.nan
    return ratio if 1 / SLENDER <= ratio <= SLENDER else None


def _facing(field: Field) -> tuple[int, int]:
    """The lowest corner of the drawn rectangle: from there no other hides what lies between."""
    corners = field.z[np.ix_((0, -1), (0, -1))]
    i, j = divmod(int(np.argmin(np.nan_to_num(corners, nan=np.inf))), 2)
    return 2 * i - 1, 2 * j - 1


def _corner_words(plane: xr.Dataset) -> str:
    known = [f"{name}: {plane.attrs[name]}" for name in _CORNERS if plane.attrs.get(name)]
    return f"{'; '.join(known)}." if known else ""


def _geometry_words(plane: xr.Dataset, aspect: float | None) -> str:
    if "cosine" not in plane.attrs:
        return ""
    angle = float(np.degrees(np.arccos(np.clip(plane.attrs["cosine"], -1, 1))))
    a, b = (float(plane.attrs[f"length_{axis}"]) for axis in "ab")
    scale = "drawn to scale" if aspect else "not drawn to scale"
    return (
        f"A unit of α is {a:.3g} long and one of β {b:.3g}, {scale}; in parameter space they meet "
        f"at {angle:.0f}°."
    )


def _step_words(field: Field, z: Axis) -> str:
    step = float(np.diff(z.scaled(field.levels[:2]))[0])
    return f"a factor of {10**step:.3g}" if z.scale == "log" else f"{step:.3g}"


def _unresolved_words(plane: xr.Dataset) -> str:
    return (
        f"The plane did not resolve to {plane.attrs['tolerance']:g}: straight lines join its "
        "measured points."
    )


def _path_words(path: xr.Dataset, x: Axis, y: Axis) -> str:
    said = ["The path is projected on the plane"]
    if "residual" in path:
        said.append(f"its points lie up to {float(path['residual'].max()):.3g} off it")
    inside = np.ones(path.sizes["step"], dtype=bool)
    for name, axis in (("alpha", x), ("beta", y)):
        low, high = axis.limits or (-np.inf, np.inf)
        inside &= (path[name].values >= low) & (path[name].values <= high)
    if not inside.all():
        said.append(f"{int((~inside).sum())} of {inside.size} lie outside the part that is drawn")
    return f"{listed(said)}."


def _plane_of_points(plane: xr.Dataset) -> xr.Dataset:
    """The result itself if it is a plane with at least 2 × 2 points."""
    dims = tuple(map(str, schema.validate(plane)["loss"].dims))
    if set(dims) != {"alpha", "beta", "split"}:
        msg = (
            f"this result is not a plane: expected the dims ('alpha', 'beta', 'split'), got {dims}"
        )
        raise InputError(msg)
    if min(plane.sizes["alpha"], plane.sizes["beta"]) < 2:
        msg = (
            f"a plane of {plane.sizes['alpha']} × {plane.sizes['beta']} points has no surface; "
            "measure 2 × 2 at least"
        )
        raise InputError(msg)
    return plane
