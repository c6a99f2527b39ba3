"""Randomness: seeds that are stable, and generators left as they were found."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch

_GENERATORS: Final = threading.RLock()


@contextmanager
def preserved_rng(generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were found, however it ends.

    They belong to the whole process, so one thread at a time has them: another waits.
    """
    with _GENERATORS:
        yield from _kept_generators(generators)


def _kept_generators(generators: Sequence[torch.Generator]) -> Iterator[None]:
    states = [generator.get_state() for generator in generators]
    # numpy's global generator is what augmentation code uses
    numpy_state = np.random.get_state()  # noqa: NPY002
    python_state = random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood's splitmix64 (2014) on uint64: a well-mixed word for every counter."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def seed_all(seed: int, device: torch.device) -> None:
    """Seed what a forward pass may draw from; unlike ``torch.manual_seed``, only GPUs in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    # numpy's global generator is what a caller's noise uses
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    random.seed(seed)


def stable_seed(*parts: Any) -> int:
    """A 63-bit seed from anything with a stable repr."""
    word = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    # below 2⁶³, which the generators of every device take
    return word >> 1
