"""Keys: what tells one tile from another: content, code, and the values of a few examples."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ravine.errors import InputError
from ravine.objective.measurement import Setup, Subject
from ravine.objective.precision import of_products
from ravine.objective.tiles import support_of
from ravine.points.params import content_hash
from ravine.store.code import code_hash


def digest_of(*parts: Any) -> bytes:
    """16 bytes from anything that JSON can write."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def objective_key(subject: Subject) -> str:
    """What is measured, but for the points: code, model, policies, precision and versions.

    Raises:
        InputError: something cannot be hashed, and the objective has no version.
    """
    setup = subject.setup
    said = {
        "code": _code(setup),
        "version": setup.version,
        "dropout": setup.dropout,
        "buffers": setup.buffers,
        "correction": setup.correction,
        "seed": setup.seed,
        "dtype": str(subject.dtype),
        # of batches that are no part of the objective the size does not count
        "batch_size": None if setup.is_by_example else setup.batch_size,
        "device": _device(setup.device),
        "threads": torch.get_num_threads(),
        "precision": _precision(),
        "versions": [version("ravine"), str(torch.__version__), np.__version__],
    }
    return digest_of(said).hex()


def require_keepable(setup: Setup) -> None:
    """Check that a store can tell by content what is measured.

    Raises:
        InputError: it cannot.
    """
    if setup.is_stateful:
        msg = (
            "per_example carries state from batch to batch, so there are no parts of the "
            "measurement that a store could keep: use store=None (--store none)"
        )
        raise InputError(msg)
    if not setup.check_data and setup.version is None:
        msg = (
            "with check_data=False a store cannot tell whether the data has changed. Give "
            "Objective(..., version='1'), and another version whenever the data changes; or use no "
            "store."
        )
        raise InputError(msg)
    _code(setup)


def why_not(setup: Setup) -> str:
    """Why a store cannot keep what an objective gives; "" if it can."""
    try:
        require_keepable(setup)
    except InputError as problem:
        return str(problem)
    return ""


def point_key(subject: Subject, number: int) -> list[Any]:
    """What a point is made of: its corners' contents and shares, in whatever slice it lies."""
    coefficients = subject.points.coefficients[number]
    shares = [(subject.hashes[i], coefficients[i].hex()) for i in support_of(coefficients)]
    statistics = subject.points.statistics
    anew = "" if statistics is None else content_hash(statistics[number])
    return [sorted(shares), _deciding(subject), anew]


def _deciding(subject: Subject) -> Any:
    """What the buffers are taken from, beside a point's own corners."""
    policy = subject.setup.buffers
    if policy == "interpolate":
        return policy
    if subject.setup.correction is not None:
        return list(subject.hashes)
    ends = {"start": subject.hashes[:1], "end": subject.hashes[-1:]}
    return ends.get(policy or "", [subject.hashes[0], subject.hashes[-1]] if policy else [])


def _code(setup: Setup) -> str:
    """The code of the loss and the model, or the version given for what cannot be read."""
    grouping = (setup.grouping.clusters, setup.grouping.strata)
    try:
        return code_hash(setup.per_example, setup.model, grouping)
    except (InputError, RecursionError) as problem:
        if setup.version is not None:
            return type(setup.model).__qualname__
        if isinstance(problem, InputError):
            raise
        msg = (
            "the loss or the model refers to more than can be hashed, so a store cannot tell "
            "whether it has changed. Give Objective(..., version='1'), and another version "
            "whenever the code changes; or use no store."
        )
        raise InputError(msg) from problem


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _precision() -> list[Any]:
    """The switches of torch that change what arithmetic is done."""
    return [
        of_products(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,  # pyright: ignore[reportAttributeAccessIssue]
    ]
