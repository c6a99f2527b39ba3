"""Where a training and a measurement run: the device, its random generator, its precision."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor, nn

import ravine

#: Of the products of a training; everything that is kept (parameters, velocities) is float32.
Precision = Literal["float32", "tf32", "bf16"]

CPU: Final = torch.device("cpu")

Item = TypeVar("Item")


def usable(device: torch.device | str) -> torch.device:
    """A device that can be computed on here.

    Args:
        device: such as "cpu", "cuda" or "cuda:1".

    Returns:
        The device.

    Raises:
        ravine.InputError: there is none of that name here.

    Examples:
        >>> usable("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, TypeError, AssertionError, ValueError, NotImplementedError) as problem:
        msg = (
            f"device {str(device)!r} cannot be used here ({str(problem).splitlines()[0]}); "
            "leave --device out to use the CPU"
        )
        raise ravine.InputError(msg) from problem
    if found.type == "meta":
        msg = "device 'meta' holds no numbers; expected one that computes, such as 'cpu' or 'cuda'"
        raise ravine.InputError(msg)
    return found


def described(device: torch.device) -> str:
    """A device in words, for results: "the CPU", or the card's name.

    Examples:
        >>> described(torch.device("cpu"))
        'the CPU'
    """
    if device.type == "cpu":
        return "the CPU"
    if device.type == "cuda":
        return f"an {torch.cuda.get_device_name(device)}"
    return f"a device of type {device.type}"


def machine(device: torch.device) -> str:
    """The card, its memory and the versions, for a log."""
    where = described(device)
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        where += (
            f" ({known.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, "
            f"compute capability {known.major}.{known.minor})"
        )
    return (
        f"on {where}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} CPU threads"
    )


# --- random numbers ------------------------------------------------------------------------------


def generator_state(device: torch.device, seed: int) -> Tensor:
    """The state of a generator of that device, newly seeded."""
    return torch.Generator(device).manual_seed(seed).get_state()


def random_state(device: torch.device) -> Tensor:
    """The state of the generator that unnamed draws on a device come from; a copy."""
    if device.type == "cpu":
        return torch.get_rng_state()
    module: Any = torch.get_device_module(device)
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Give that generator a state that ``random_state`` or ``generator_state`` returned."""
    if device.type == "cpu":
        torch.set_rng_state(state)
        return
    module: Any = torch.get_device_module(device)
    module.set_rng_state(state) if device.type == "mps" else module.set_rng_state(state, device)


@contextlib.contextmanager
def preserved(device: torch.device) -> Iterator[None]:
    """The generators of the CPU and of a device are afterwards as they were."""
    before = random_state(device)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            if device.type != "cpu":
                set_random_state(device, before)


@contextlib.contextmanager
def drawing(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Random numbers from a stream of that seed; the generators are afterwards as they were.

    Args:
        seed: of the stream.
        device: whose generator is drawn from.

    Examples:
        >>> with drawing(0):
        ...     one = torch.rand(())
        >>> with drawing(0):
        ...     again = torch.rand(())
        >>> bool(one == again)
        True
    """
    with preserved(device):
        set_random_state(device, generator_state(device, seed))
        yield


# --- precision -----------------------------------------------------------------------------------


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Products of float32 numbers in TF32 if the card has it and it is asked for, else no less.

    Without TF32 it is off for convolutions too, where torch has it on by default.

    Args:
        precision: "tf32", or any other.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Forward passes in "float32" (and nothing less), "tf32", or "bf16", which is autocast.

    Args:
        precision: of matrix products and convolutions.
        device: where they are computed.
    """
    rounded = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with products(precision), rounded:
        yield


def each_computed(
    items: Iterable[Item], precision: Precision, device: torch.device
) -> Iterator[Item]:
    """The items of a generator, each one computed in a precision; what happens between them is not.

    An autocast must not last from one update to the next: it keeps the parameters that it has
    rounded, and would go on with the old ones.

    Args:
        items: computed one after the other.
        precision: as in ``computing``.
        device: as in ``computing``.

    Yields:
        The items.
    """
    there, over = iter(items), object()
    while True:
        with computing(precision, device):
            item: Any = next(there, over)
        if item is over:
            return
        yield item


def has_tf32(device: torch.device) -> bool:
    """Whether a device computes TF32: NVIDIA's from compute capability 8.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def in_words(precision: Precision, device: torch.device) -> str:
    """What a training's products were computed in, on a device.

    Examples:
        >>> in_words("tf32", torch.device("cpu"))
        'float32 (tf32 was asked for, which the CPU does not have)'
        >>> in_words("bf16", torch.device("cpu"))
        'bfloat16 autocast'
    """
    if precision == "tf32" and not has_tf32(device):
        return f"float32 (tf32 was asked for, which {described(device)} does not have)"
    return {"float32": "float32", "tf32": "TF32", "bf16": "bfloat16 autocast"}[precision]


# --- placing -------------------------------------------------------------------------------------


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """A model on a device; on a CUDA card with convolutions' kernels channels last, its fastest."""
    there = model.to(device)
    if device.type == "cuda":
        for tensor in there.parameters():
            if tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return there


def moved(
    parts: dict[str, tuple[Tensor, ...]], device: torch.device
) -> dict[str, tuple[Tensor, ...]]:
    """A data set's parts on a device; what is there already is not copied."""
    return {split: tuple(tensor.to(device) for tensor in part) for split, part in parts.items()}
