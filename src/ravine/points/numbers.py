"""Numbers: whether tensors are numbers that can be mixed, or codes for others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.modules import is_lazy
from ravine.points.params import is_float

#: How the tools that quantise call what they store: GPTQ and AWQ, bitsandbytes,
#: compressed-tensors, MXFP4.
_CODES: Final = re.compile(
    r"(?:^|[._])(?:qweight|qzeros|SCB|weight_format|quant_map|quant_state|weight_packed"
    r"|_packed_params)(?:$|[._])|_blocks$|\.absmax$"
)

#: Bytes that a file's tensors may have beyond what it stores (``expand``), as some models'
#: buffers do.
_SPREAD: Final = 1 << 26


def require_numbers(tensors: Mapping[str, Tensor], label: str) -> None:
    """Refuse tensors that no arithmetic of points takes.

    Raises:
        InputError: one is sparse, nested, packed, quantised by torch, without a shape, or float8
            with a scale.
    """
    unusual = [name for name, tensor in tensors.items() if _is_unusual(tensor)]
    if unusual:
        msg = (
            f"{label} holds sparse, nested, packed, quantised or uninitialised tensors, which have "
            f"no line: {', '.join(unusual[:5])}. A constant of the model, such as a graph's sparse "
            "matrix, is left alone as a buffer that is not saved (persistent=False)."
        )
        raise InputError(msg)

    scaled = [name for name, tensor in tensors.items() if _is_scaled(name, tensor, tensors)]
    if scaled:
        msg = (
            f"{label} holds float8 weights with scales beside them ({scaled[0]!r}, {len(scaled)} "
            "in all), whose product is the weight. Multiply them out, and save that."
        )
        raise InputError(msg)


def _is_unusual(tensor: Tensor) -> bool:
    is_whole = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    is_packed = "float4" in str(tensor.dtype) or "bits" in str(tensor.dtype)
    return not is_whole or is_packed or is_lazy(tensor)


def codes(tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of quantised weights: codes, of which a weighted mean is no weight.

    Examples:
        >>> codes({"fc.qweight": torch.zeros(2, dtype=torch.int32), "fc.scales": torch.ones(2)})
        {'fc.qweight'}
    """
    return {name for name, tensor in tensors.items() if _is_code(name, tensor)}


def lifted(tensor: Tensor) -> Tensor:
    """The tensor in a type that arithmetic knows, same values: float8 as float32, none pending.

    Examples:
        >>> lifted(torch.tensor([0.5]).to(torch.float8_e4m3fn))
        tensor([0.5000])
    """
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return tensor.float()
    return tensor.resolve_conj().resolve_neg()


def require_bounded(tensors: Mapping[str, Tensor], label: str) -> None:
    """Refuse a file's tensors that claim far more than it stores: a kilobyte may ask for terabytes.

    Raises:
        InputError: naming the largest.
    """
    spread = {name: _beyond(tensor) for name, tensor in tensors.items()}
    if sum(spread.values()) > _SPREAD:
        worst = max(spread, key=lambda name: spread[name])
        msg = (
            f"{label} holds {worst!r} of shape {tuple(tensors[worst].shape)} with "
            f"{tensors[worst].untyped_storage().nbytes():,} bytes behind it. Save it with its own "
            "memory: tensor.contiguous()."
        )
        raise InputError(msg)


def _beyond(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return 0
    return max(tensor.numel() * tensor.element_size() - tensor.untyped_storage().nbytes(), 0)


def _is_code(name: str, tensor: Tensor) -> bool:
    if _CODES.search(name):
        return True
    is_weight = name.rpartition(".")[2] == "weight" and tensor.dim() > 1
    return is_weight and not is_float(tensor)


def _is_scaled(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    scales = [f"{name}_scale", f"{name}_scale_inv"]
    is_float8 = tensor.is_floating_point() and tensor.element_size() == 1
    return is_float8 and any(scale in tensors for scale in scales)
