"""The result of a measurement: an xarray Dataset with a schema, its file, and nothing that needs torch.

Schema, version 1 ----------------- A *quantity* is anything measured per example; ``loss`` always
is one, ``error`` (0-1) often another. For every quantity ``q`` the Dataset holds

- ``q`` (slice dims…, split): the mean over the examples of the split, in the quantity's own unit;
- ``q_stderr`` (slice dims…, split): its standard error over the examples;
- ``q_replicates`` (slice dims…, split, replicate): the mean over a random half of the examples
  minus ``q``. The halves are the same at every point, so the spread over ``replicate`` of *any*
  function of the curve (a difference, a barrier, the position of a minimum) is that function's
  standard error, pairing included: half-sampling, McCarthy 1969; Efron 1982, chapter 8;
- ``q_noise_floor`` (slice dims…, split): how far floating-point rounding alone moves ``q``;

and ``n_examples`` (split). A line's dim is ``alpha`` (0 at the start, 1 at the end); a plane's are
``alpha`` and ``beta``, with the origin at (0, 0), the corner a at (1, 0) and b at (0, 1). The
coordinate ``distance`` (slice dims…) is the Euclidean length from the start or the origin. NaN or
infinity in ``q`` means *computed, and not finite*; a point that was not computed is absent.
Attributes carry the provenance (see ``PROVENANCE``).

Several lines measured together have the dim ``line``, their names, in front; what differs between
them (``start``, ``end``, their hashes, ``length``) is a coordinate of that dim instead of an
attribute.

A resolved result also says how to read it between its points, and what error that was found to
make:

- a line has ``piece_low``, ``piece_high``, ``piece_degree`` and ``piece_resolved`` (piece), and for
  every quantity ``q_log`` (piece, split), whether its logarithm is interpolated there, and
  ``q_misfit`` (piece, split), the largest error of the interpolant at measured points that it does
  not go through;
- a plane's ``alpha`` and ``beta`` are the Chebyshev points of a tensor-product interpolant. Points
  measured off that grid are its checks: ``check_alpha`` and ``check_beta`` (check), and for every
  quantity ``q_checked`` (check, split), the measured value, ``q_misfit`` (check, split), how far
  the interpolant is from it, and ``q_log`` (split).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

from ravine.errors import InputError

SCHEMA_VERSION: Final = 1

#: Kind of slice → attribute → what it says of the corners. A result has those of its kind.
CORNERS: Final[dict[str, dict[str, str]]] = {
    "line": {
        "start": "where the start came from",
        "end": "where the end came from",
        "start_hash": "SHA-256 of the start's tensors",
        "end_hash": "SHA-256 of the end's tensors",
        "length": "Euclidean distance from start to end, over the parameters",
    },
    "path": {
        "run": "the folder of the run's snapshots",
        "run_hash": "SHA-256 of its snapshots",
    },
    "plane": {
        "origin": "where the origin came from, at α = β = 0",
        "a": "where the corner a came from, at α = 1, β = 0",
        "b": "where the corner b came from, at α = 0, β = 1",
        "origin_hash": "SHA-256 of the origin's tensors",
        "a_hash": "SHA-256 of a's tensors",
        "b_hash": "SHA-256 of b's tensors",
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
    "batch_size": "examples per forward pass where ravine makes the batches",
    "sampling": "how the points were chosen: grid or resolved",
    "command": "what reproduces this result",
    "created": "when, in UTC",
    "wall_seconds": "how long it took",
    "versions": "ravine, torch, numpy and Python",
}


def dims_of(result: xr.Dataset) -> tuple[str, ...]:
    """The dims of the slice that was measured, in the order of its coordinates.

    Examples:
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
        >>> quantities(xr.Dataset({"error": 0.0, "error_stderr": 0.0, "loss": 0.0, "loss_stderr": 0.0}))
        ['loss', 'error']
    """
    names = [str(name) for name in result.data_vars if f"{name}_stderr" in result.data_vars]
    return sorted(names, key=lambda name: name != "loss")


def kind_of(result: xr.Dataset) -> str:
    """What a result is of: "line", "lines", "plane", or "path", a run projected onto a slice as ``project`` gives it.

    Examples:
        >>> kind_of(xr.Dataset({"residual": ("step", [0.0, 1.0])}))
        'path'
    """
    if "line" in result.dims:
        return "lines"
    if "residual" in result.data_vars and "step" in result.dims:
        return "path"
    return "plane" if is_plane(result) else "line"


def lines_of(result: xr.Dataset) -> dict[str, xr.Dataset]:
    """The results of single lines in one of several, by name.

    Raises:
        InputError: the result is of something else.

    Examples:
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


def validate(result: xr.Dataset) -> xr.Dataset:
    """The result itself, after a check that it follows the schema.

    Raises:
        InputError: not a ravine result, or one of a newer schema.
    """
    version = result.attrs.get("schema_version")
    measured = "loss" in result.data_vars and "split" in result.dims
    if version is None or not (measured or kind_of(result) == "path"):
        msg = (
            "this Dataset is not a ravine result: expected the attribute 'schema_version', and the "
            "variable 'loss' "
            "with the dim 'split' or the variable 'residual' with the dim 'step'; got variables "
            f"{sorted(map(str, result.data_vars))}"
        )
        raise InputError(msg)
    if not str(version).isdigit() or int(version) > SCHEMA_VERSION:
        msg = (
            f"this result has schema {version}; this ravine reads up to {SCHEMA_VERSION}. Update "
            "ravine."
        )
        raise InputError(msg)
    return result


def save_result(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a result as netCDF-4, whole or not at all.

    Args:
        result: what ``evaluate``, ``resolve`` or ``project`` returned.
        path: the file to write, by custom ``*.nc``. Its folder is made if need be; a file that is
            there is replaced only once the new one is complete.

    Returns:
        The path written.

    Raises:
        InputError: not a ravine result, or the file cannot be written.
    """
    validate(result)
    target = Path(path)
    packed = {
        str(name): {"zlib": True, "complevel": 4}
        for name in result.data_vars
        if result[name].size > 1000
    }
    with written_whole(target) as partial:
        result.to_netcdf(partial, engine="h5netcdf", encoding=packed)
    return target


def open_result(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a result back into memory; needs no torch.

    Raises:
        InputError: there is no such file, or it is not a ravine result.
    """
    source = Path(path)
    if not source.is_file():
        msg = (
            f"there is no result file {str(source)!r}; expected one written by save_result or "
            "`ravine line`"
        )
        raise InputError(msg)
    try:
        with xr.open_dataset(source, engine="h5netcdf") as opened:
            result = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        msg = (
            f"{str(source)!r} cannot be read as netCDF-4 ({problem}); expected a file written by "
            "save_result"
        )
        raise InputError(msg) from problem
    for name in result.coords:
        if result[name].dtype.kind == "O":  # netCDF strings come back as objects
            result[name] = result[name].astype(np.str_)
    validate(result)
    lacking = [
        f"{name}_{part}"
        for name in quantities(result)
        for part in ("stderr", "replicates", "noise_floor")
        if f"{name}_{part}" not in result.data_vars
    ]
    if lacking or ("n_examples" not in result.data_vars and kind_of(result) != "path"):
        msg = (
            f"this result lacks {', '.join(lacking) or 'n_examples'}, which its schema has; was it "
            "edited?"
        )
        raise InputError(msg)
    return result


class written_whole:  # noqa: N801  a context manager reads as a verb
    """Gives a temporary path beside the target, and moves it there only if the block succeeds.

    Raises:
        InputError: on entry or exit, if the target cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.target.name}.", dir=self.target.parent)
        except OSError as problem:
            raise self._cannot_write(problem) from problem
        os.close(handle)
        self.partial = Path(name)
        return self.partial

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: object
    ) -> None:
        if kind is None:
            try:
                self.partial.chmod(0o666 & ~_umask())  # mkstemp's files are private
                self.partial.replace(self.target)
                return
            except OSError as problem:
                self.partial.unlink(missing_ok=True)
                raise self._cannot_write(problem) from problem
        self.partial.unlink(missing_ok=True)

    def _cannot_write(self, problem: OSError) -> InputError:
        return InputError(
            f"cannot write {str(self.target)!r}: {problem.strerror or problem}. Choose another "
            "folder."
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
