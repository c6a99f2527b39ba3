"""Rows: the sums of a point over a block as bytes, and back; a damaged row is no row."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, Final

import numpy as np
from safetensors.numpy import load, save

from ravine.errors import InputError
from ravine.objective.moments import Moments
from ravine.objective.tiles import Sums, Told

_CHECK: Final = 16  # bytes of checksum
_ABOUT: Final = "about"
_ARRAYS: Final = ("mean", "square", "group_sum", "stratum_sum", "sizes")


def packed(key: bytes, sums: Sums) -> bytes:
    """The sums of one point.

    Raises:
        InputError: strata that are neither numbers nor texts.
    """
    arrays: dict[str, np.ndarray] = {}
    about = []
    for number, (name, of) in enumerate(sums.items()):
        strata = list(of.strata)
        if json.loads(json.dumps(strata, default=repr)) != strata:
            msg = "strata must be numbers or texts where a store is used; got other objects"
            raise InputError(msg)
        about.append([name, of.count, of.counted, of.clustered, strata])
        arrays |= {f"{number}{part}": getattr(of, part) for part in _ARRAYS}
    text = json.dumps(about).encode()
    arrays[_ABOUT] = np.frombuffer(text, dtype=np.uint8)
    return checked(key, save(arrays))


def unpacked(key: bytes, blob: bytes) -> Sums | None:
    """The sums again; None if the bytes are not those that were kept under the key."""
    content = _content(key, blob)
    if content is None:
        return None
    arrays = load(content)
    sums: dict[str, Moments] = {}
    for number, told in enumerate(json.loads(arrays[_ABOUT].tobytes())):
        name, count, counted, clustered, strata = told
        parts: dict[str, Any] = {part: arrays[f"{number}{part}"] for part in _ARRAYS}
        sums[name] = Moments(
            count=count, counted=counted, clustered=clustered, strata=tuple(strata), **parts
        )
    return sums


def packed_told(key: bytes, told: Told) -> bytes:
    """What a block told about its examples."""
    sizes, clusters = sorted(told.sizes), sorted(told.clusters)
    head = struct.pack("<QQ", told.examples, len(sizes))
    return checked(
        key,
        head + np.array(sizes, np.uint64).tobytes() + np.array(clusters, np.uint64).tobytes(),
    )


def unpacked_told(key: bytes, blob: bytes) -> Told | None:
    """The same again; None if it was damaged."""
    content = _content(key, blob)
    if content is None:
        return None
    examples, count = struct.unpack_from("<QQ", content)
    numbers = np.frombuffer(content, np.uint64, offset=16).tolist()
    return Told(frozenset(numbers[:count]), examples, frozenset(numbers[count:]))


def checked(key: bytes, content: bytes) -> bytes:
    """Bytes with a checksum over them and their key."""
    return hashlib.blake2b(key + content, digest_size=_CHECK).digest() + content


def _content(key: bytes, blob: bytes) -> bytes | None:
    content = blob[_CHECK:]
    return content if checked(key, content) == blob else None
