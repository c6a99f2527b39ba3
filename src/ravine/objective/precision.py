"""Precision: torch's switches that let products of float32 numbers be computed in less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def of_products() -> str:
    """What torch computes matrix products of float32 numbers in: "highest" is float32 itself.

    Convolutions follow it, while ravine measures, unless they are to be in float32. Where torch's
    newer switches (``fp32_precision``) were used, what they say of each part.

    Examples:
        >>> of_products()
        'highest'
    """
    try:
        word = torch.get_float32_matmul_precision()
        apart = word != "highest" and not torch.backends.cudnn.allow_tf32
        return f"{word}, convolutions highest" if apart else word
    except RuntimeError:  # the newer switches disagree with each other: there is no one word
        return ", ".join(f"{name} {said}" for name, said in _newer().items())


@contextmanager
def full_convolutions() -> Iterator[None]:
    """Convolutions and recurrent layers on CUDA in no less than matrix products.

    Torch rounds the former to TF32 where nothing is said, 10 bits of 23, and the latter not.
    Whoever lowers ``torch.set_float32_matmul_precision`` asks for it in both; whoever used the
    newer switches, of which there is one for each, has chosen.
    """
    try:
        before = torch.backends.cudnn.allow_tf32
        asked = torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # the newer switches were used, and disagree: the caller has chosen
        yield
        return
    torch.backends.cudnn.allow_tf32 = before and asked
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _newer() -> dict[str, str]:
    cudnn: Any = torch.backends.cudnn
    parts = {
        "matmul": torch.backends.cuda.matmul,
        "convolution": getattr(cudnn, "conv", None),
        "rnn": getattr(cudnn, "rnn", None),
    }
    return {name: str(getattr(part, "fp32_precision", "")) for name, part in parts.items()}
