"""Words and limits that figures of every kind share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ravine.errors import InputError


def axis_label(curve: xr.Dataset, name: str) -> str:
    """The name with its unit; a pure number has the unit "1", which nobody prints."""
    attrs = curve[name].attrs
    label, unit = str(attrs.get("long_name", name)), str(attrs.get("units", "1"))
    return label if unit in {"", "1"} else f"{label} ({unit})"


def with_count(curve: xr.Dataset, split: str) -> str:
    """The split's name and how many examples it has."""
    if "n_examples" not in curve:
        return split
    return f"{split} ({int(curve['n_examples'].sel(split=split)):,})"


def listed(words: Sequence[str]) -> str:
    """Words with commas, and "and" before the last."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def pick(noun: str, wanted: str | Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """The wanted names, or all; an error if one is not there."""
    asked = there if wanted is None else wanted
    names = [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        got = f"{unknown}" if unknown else "none"
        msg = f"expected at least one {noun} out of {list(there)}; got {got}"
        raise InputError(msg)
    return names


def padded(values: np.ndarray, margin: float = 0.04) -> tuple[float, float]:
    """Limits around the finite values with a margin, a share of their range."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    # Far below the largest float, so that a renderer can still subtract and add limits.
    low, high = (float(np.clip(edge, -1e300, 1e300)) for edge in (finite.min(), finite.max()))
    pad = margin * (high - low)
    if pad <= 1e-12 * max(abs(low), abs(high)):  # flat: ticks must stay apart in floating point
        pad = 0.05 * max(abs(low), abs(high)) or 0.05
    return low - pad, high + pad
