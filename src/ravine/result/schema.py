"""The result of a measurement: a Dataset with a schema, and its file; nothing needs torch.

Schema, version 1 ----------------- A *quantity* is anything measured per example; ``loss`` always
is one, ``error`` (0-1) often another. For every quantity ``q`` the Dataset holds

- ``q`` (slice dims…, split): the mean over the examples of the split, in the quantity's own unit;
- ``q_stderr`` (slice dims…, split): its standard error over the examples;
- ``q_replicates`` (slice dims…, split, replicate): the mean over a random half of the examples
  minus ``q``. The halves are the same at every point, so the spread over ``replicate`` of *any*
  function of the curve (a difference, a barrier, the position of a minimum) is that function's
  standard error, pairing included. The examples fall into 256 random groups (whole clusters, within
  strata), and the halves are balanced over them: the mean square over the replicates is the
  variance of a difference between points, without a sampling error of its own: McCarthy 1969.
  Version 1 had 64 halves drawn at random;
- ``q_noise_floor`` (slice dims…, split): how far floating-point rounding alone moves ``q``;

and ``n_examples`` and ``n_units`` (split): how many values, and how many independent draws they
are. A line's dim is ``alpha`` (0 at the start, 1 at the end); a plane's are
``alpha`` and ``beta``, with the origin at (0, 0), the corner a at (1, 0) and b at (0, 1). The
coordinate ``distance`` (slice dims…) is the Euclidean length from the start or the origin. NaN or
infinity in ``q`` means *computed, and not finite*; a point that was not computed is absent.
Attributes carry the provenance (see ``PROVENANCE``).

A curve on a part of the examples has ``examples_of``, JSON: split → how many there are. Where a
question chose the part, ``asked`` is it (JSON), ``looks`` how many parts were looked at, and
``level_share`` what share of a level is left to each; where a standard error did, ``stderr_asked``
and ``stderr_reached``. ``allowed_error`` is an interpolation error that was allowed anyway.

``corners`` names the slice's corners in order; the label and the hash of each stand under its name
(``start``, ``start_hash``). ``curved`` is 1 for a slice that bends, whose distances are not
proportional to its coordinates; where it is absent it is 0.

Several lines measured together have the dim ``line``, their names, in front; what differs between
them (``start``, ``end``, their hashes, ``length``) is a coordinate of that dim instead of an
attribute.

A resolved result also says how to read it between its points, and what error that was found to
make:

- a line has ``piece_low``, ``piece_high``, ``piece_degree`` and ``piece_resolved`` (piece), and for
  every quantity ``q_log`` (piece, split), whether its logarithm is interpolated there, and
  ``q_misfit`` (piece, split), the largest error with which measured points were predicted by an
  interpolant that did not go through them, NaN where nothing is known between the points. The
  attribute ``nodes`` says which points the interpolants go through, ``leja`` or ``chebyshev``;
  where it is absent they are Chebyshev points. ``piece_resolved`` speaks of the
  quantities in the attribute ``drive``;
- a plane's ``alpha`` and ``beta`` are the Chebyshev points of a tensor-product interpolant. Points
  measured off that grid are its checks: ``check_alpha`` and ``check_beta`` (check), and for every
  quantity ``q_checked`` (check, split), the measured value, ``q_misfit`` (check, split), how far
  the interpolant is from it, and ``q_log`` (split). A quantity's attribute ``resolved`` says
  whether its own interpolant is good; the result's speaks of those in ``drive``.

A soup's history is a result too, with no curve: what was tried (``step``) and the members
(``member``), as ``ravine.soup`` describes it.
"""

from __future__ import annotations

from typing import Final

import xarray as xr

from ravine.errors import InputError

SCHEMA_VERSION: Final = 2

#: Quantity → what it is called in words, where that is not its name.
LONG_NAMES: Final = {
    "error": "error rate",
    "error_normalised": "error rate by likelihoods per character",
}

#: Kind of slice → attribute → what it says of the corners. A result has those of its kind.
CORNERS: Final[dict[str, dict[str, str]]] = {
    "line": {
        "start": "where the start came from",
        "end": "where the end came from",
        "start_hash": "content hash of the start's tensors",
        "end_hash": "content hash of the end's tensors",
        "length": "Euclidean distance from start to end, over the parameters",
    },
    "path": {
        "run": "the folder of the run's snapshots",
        "run_hash": "content hash of its snapshots",
    },
    "plane": {
        "origin": "where the origin came from, at α = β = 0",
        "a": "where the corner a came from, at α = 1, β = 0",
        "b": "where the corner b came from, at α = 0, β = 1",
        "origin_hash": "content hash of the origin's tensors",
        "a_hash": "content hash of a's tensors",
        "b_hash": "content hash of b's tensors",
        "length_a": "Euclidean distance from the origin to a, over the parameters",
        "length_b": "Euclidean distance from the origin to b, over the parameters",
        "cosine": "of the angle between the two axes, seen from the origin",
    },
}

#: Attribute → what it says. Every result has all of them, "" where there is nothing to say.
PROVENANCE: Final[dict[str, str]] = {
    "model": "the model: its class and how many parameters move",
    "data_hash": "fingerprint of the examples of each split, whatever their order and batching",
    "objective_hash": "SHA-256 of the objective's policies",
    "dropout": "the dropout policy: off, fixed or resample",
    "buffers": "the policy for running statistics: start, end, interpolate, recompute, or none",
    "dtype": "the precision of the forward pass",
    "device": "where it ran",
    "seed": "the seed of masks and of anything else random",
    "batch_size": "examples per forward pass on the first split",
    "sampling": "how the points were chosen: grid or resolved",
    "command": "what reproduces this result",
    "created": "when, in UTC",
    "wall_seconds": "how long it took",
    "versions": "ravine, torch, numpy and Python",
}


def dims_of(result: xr.Dataset) -> tuple[str, ...]:
    """The dims of the slice that was measured, in the order of its coordinates.

    Examples:
        >>> import numpy as np
        >>> dims_of(xr.Dataset({"loss": (("beta", "split", "alpha"), np.zeros((2, 1, 3)))}))
        ('alpha', 'beta')
    """
    return tuple(sorted(str(dim) for dim in result["loss"].dims if dim != "split"))


def is_plane(result: xr.Dataset) -> bool:
    """Whether a result is of a plane."""
    return dims_of(result) == ("alpha", "beta")


def quantities(result: xr.Dataset) -> list[str]:
    """Names of the measured quantities, ``loss`` first.

    Examples:
        >>> names = ["error", "error_stderr", "loss", "loss_stderr"]
        >>> quantities(xr.Dataset(dict.fromkeys(names, 0.0)))
        ['loss', 'error']
    """
    names = [str(name) for name in result.data_vars if f"{name}_stderr" in result.data_vars]
    return sorted(names, key=lambda name: name != "loss")


def name_of(result: xr.Dataset, quantity: str) -> str:
    """What a quantity is called in words.

    Examples:
        >>> name_of(xr.Dataset({"error": ((), 0.0, {"long_name": "error rate"})}), "error")
        'error rate'
    """
    said = str(result[quantity].attrs.get("long_name", quantity))
    return LONG_NAMES.get(said, said)


def unit_of(result: xr.Dataset, quantity: str) -> str:
    """A quantity's unit as it stands behind a number: with a space before it, "" for a pure number.

    Examples:
        >>> unit_of(xr.Dataset({"loss": ((), 0.0, {"units": "nats"})}), "loss")
        ' nats'
    """
    unit = str(result[quantity].attrs.get("units", ""))
    return "" if unit in ("", "1") else f" {unit}"


def kind_of(result: xr.Dataset) -> str:
    """What a result is of: "line", "lines", "plane", "path" or "soup".

    A "path" is a run projected onto a slice, a "soup" its history.

    Examples:
        >>> kind_of(xr.Dataset({"residual": ("step", [0.0, 1.0])}))
        'path'
    """
    if "line" in result.dims:
        return "lines"
    if "accepted" in result.data_vars and "member" in result.dims:
        return "soup"
    if "residual" in result.data_vars and "step" in result.dims:
        return "path"
    return "plane" if "loss" in result and is_plane(result) else "line"


def lines_of(result: xr.Dataset) -> dict[str, xr.Dataset]:
    """The results of single lines in one of several, by name.

    Raises:
        InputError: the result is of something else.

    Examples:
        >>> import numpy as np
        >>> names = {"line": ["a", "b"], "alpha": [0.0, 1.0], "end": ("line", ["x.pt", "y.pt"])}
        >>> both = xr.Dataset({"loss": (("line", "alpha"), np.eye(2))}, coords=names)
        >>> one = lines_of(both)["b"]
        >>> one["loss"].values, one.attrs["end"]
        (array([0., 1.]), 'y.pt')
    """
    if kind_of(result) != "lines":
        msg = (
            f"expected several lines, measured with evaluate(J, along={{name: line, …}}); got a "
            f"{kind_of(result)}"
        )
        raise InputError(msg)
    found: dict[str, xr.Dataset] = {}
    for name in map(str, result["line"].values):
        one = result.sel(line=name)
        own = [str(key) for key in one.coords if result[key].dims == ("line",) and key != "line"]
        found[name] = one.drop_vars([*own, "line"]).assign_attrs(
            {key: one[key].item() for key in own}
        )
    return found


def validate(result: xr.Dataset, *, history: bool = False) -> xr.Dataset:
    """The result itself, after a check that it follows the schema.

    Args:
        result: what is checked.
        history: whether a soup's history will do, which has no curve.

    Raises:
        InputError: not a ravine result, one of a newer schema, or a history where a
            curve is needed.
    """
    if not isinstance(result, xr.Dataset):
        msg = (
            "expected a ravine result, an xarray Dataset as evaluate, resolve and open_result "
            f"return it; got {type(result).__name__}"
        )
        raise InputError(msg)
    version = result.attrs.get("schema_version")
    if version is not None and "accepted" in result.data_vars and not history:
        msg = (
            "this is the history of a soup, which has no curve to draw or to measure; "
            "ravine.metrics.verdict, write_report and plot.soup take it"
        )
        raise InputError(msg)
    measured = "loss" in result.data_vars and "split" in result.dims
    if version is None or not (measured or kind_of(result) in ("path", "soup")):
        msg = (
            "this Dataset is not a ravine result: expected the attribute 'schema_version', and the "
            "variable 'loss' with the dim 'split' or the variable 'residual' with the dim 'step'; "
            f"got variables {sorted(map(str, result.data_vars))}"
        )
        raise InputError(msg)
    if measured and "loss_stderr" not in result.data_vars:
        msg = "the result lacks 'loss_stderr', the standard error of 'loss': keep them together"
        raise InputError(msg)
    if not str(version).isdecimal() or int(version) > SCHEMA_VERSION:
        msg = (
            f"this result has schema {version}; this ravine reads up to {SCHEMA_VERSION}. Update "
            "ravine."
        )
        raise InputError(msg)
    return result
