"""Checkpoints of the Hugging Face Hub: from the cache first, then the network if allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ravine.errors import InputError
from ravine.points.formats import shards

#: In front of ``org/model``, ``org/model@revision`` or ``org/model/folder/file.pt@revision``.
PREFIX: Final = "hf:"

#: What to fetch of a model, the first that it has.
_PREFERRED: Final = (
    ("adapter_config.json", "adapter_model.safetensors"),
    ("model.safetensors.index.json", "*.safetensors"),
    ("model.safetensors",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("pytorch_model.bin",),
)


def fetched(source: str) -> Path:
    """Where a model of the Hub lies on this machine.

    Args:
        source: ``hf:org/model``, with ``@`` and a branch, tag or commit; a file or folder of the
            model may follow.

    Raises:
        InputError: huggingface_hub is not installed, or the model cannot be had.
    """
    repository, revision, inside = _parts(source)
    hub = _library()
    kept = _kept(hub, repository, revision, inside)
    if kept is not None:
        return kept
    if _is_offline():
        msg = (
            f"{source!r} is not in the cache, and HF_HUB_OFFLINE forbids the network. Fetch it "
            "once with the network."
        )
        raise InputError(msg)
    try:
        files = hub.list_repo_files(repository, revision=revision)
        wanted = [f"{inside}", f"{inside}/*"] if inside else list(_chosen(files, source))
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except InputError:
        raise
    except (
        Exception
    ) as problem:  # of the network, the account or the name: huggingface_hub says which
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        msg = f"{source!r} could not be fetched from the Hugging Face Hub: {said[:300]}"
        raise InputError(msg) from problem
    return Path(folder, inside)


def _parts(source: str) -> tuple[str, str | None, str]:
    """Model, revision and what inside it.

    Raises:
        InputError: it names no model.
    """
    place, _, revision = source.removeprefix(PREFIX).partition("@")
    pieces = PurePosixPath(place).parts
    if len(pieces) < 2 or ".." in pieces or pieces[0] == "/":
        msg = (
            f"{source!r} names no model of the Hub; expected hf:org/model or hf:org/model@revision"
        )
        raise InputError(msg)
    return "/".join(pieces[:2]), revision or None, "/".join(pieces[2:])


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as problem:
        msg = "hf: needs huggingface_hub: pip install 'ravine[hub]'"
        raise InputError(msg) from problem
    return huggingface_hub


def _kept(hub: Any, repository: str, revision: str | None, inside: str) -> Path | None:
    """What the cache has, if it has the weights."""
    try:
        folder = Path(hub.snapshot_download(repository, revision=revision, local_files_only=True))
    except Exception:  # whatever is wrong with the cache, the network may help
        return None
    if inside:
        return folder / inside if (folder / inside).exists() else None
    held = [path.name for path in folder.iterdir()]
    has_weights = any(_has(held, patterns) for patterns in _PREFERRED)
    return folder if has_weights and shards.is_complete(folder) else None


def _chosen(files: Sequence[str], source: str) -> tuple[str, ...]:
    """The patterns of the weights.

    Raises:
        InputError: the model has none that are known.
    """
    for patterns in _PREFERRED:
        if _has(files, patterns):
            return patterns
    there = ", ".join(list(files)[:8])
    msg = (
        f"{source!r} has no weights under the usual names; there are {there}. Name one: "
        "hf:org/model/FILE@revision."
    )
    raise InputError(msg)


def _has(files: Sequence[str], patterns: Sequence[str]) -> bool:
    top = [PurePosixPath(file) for file in files if "/" not in file]
    return all(any(file.match(pattern) for file in top) for pattern in patterns)


def _is_offline() -> bool:
    from huggingface_hub import constants

    said = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return said in ("1", "ON", "YES", "TRUE") or bool(constants.HF_HUB_OFFLINE)
