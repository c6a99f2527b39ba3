"""Files of other tools, no checkpoints here: told by first bytes, refused with the way on."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn

from ravine.errors import InputError

_SAVE: Final = "and save it with safetensors.torch.save_file(state, 'weights.safetensors')"

#: First bytes → what such a file is, and the way on.
_BY_BYTES: Final = {
    b"GGUF": ("a GGUF file, of quantised weights", "Use the checkpoint it was converted from, or "
              "transformers' from_pretrained(folder, gguf_file=...) and save_pretrained()."),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file: weights of Keras, or a result of ravine", "Of weights, "
                           f"load them into the torch model {_SAVE}; a result opens with "
                           "ravine.open_result."),
    b"\x93NUMPY": ("a NumPy array", "Put the arrays into a dict of torch.from_numpy(...) "
                   f"{_SAVE}."),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself",
                                 "Fetch it: git lfs pull."),
    b"\x1f\x8b": ("compressed by gzip", "Unpack it first: gunzip."),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "Unpack it first: unzstd."),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "Unpack it first."),
    b"Rar!": ("a RAR archive", "Unpack it first."),
    b"SQLite format 3": ("an SQLite database", "Give a file of weights."),
    b"\x89PNG": ("an image", "Give a file of weights."),
    b"%PDF": ("a PDF", "Give a file of weights."),
}  # fmt: skip

#: File endings that decide where the first bytes do not.
_BY_NAME: Final = {
    ".msgpack": ("a msgpack file: weights of Flax", "Load them by transformers' "
                 "from_pretrained(folder, from_flax=True) and save_pretrained()."),
    ".onnx": ("an ONNX graph", "Use the checkpoint it was exported from; or read its initialisers "
              f"with onnx.numpy_helper.to_array {_SAVE}."),
    ".tflite": ("a TensorFlow Lite model", "Use the checkpoint it was converted from."),
    ".pb": ("a graph of TensorFlow", "Use the checkpoint in torch's or safetensors' format."),
    ".mlmodel": ("a Core ML model", "Use the checkpoint it was converted from."),
    ".json": ("JSON", "Give the weights, or an index of shards (*.index.json)."),
    ".yaml": ("YAML", "Give the file of the weights."),
    ".nemo": ("an archive of NeMo", "Unpack it (tar -xf) and give model_weights.ckpt."),
    ".tar.gz": ("a compressed archive", "Unpack it first: tar -xf."),
}  # fmt: skip

#: What a member of a zip archive tells: part of its name → as above.
_BY_MEMBER: Final = {
    "/code/": ("TorchScript", "Reading it would run code. If you trust it, convert it once: "
               "torch.save(torch.jit.load(path, map_location='cpu').state_dict(), new_path)."),
    ".weights.h5": ("a model of Keras", f"Load its weights into the torch model {_SAVE}."),
    "serialized_exported_program": ("an exported program (torch.export)", "Convert it once: "
                                    "torch.save(torch.export.load(path).state_dict, new_path)."),
    "models/model.json": ("an exported program (torch.export)", "Convert it once: "
                          "torch.save(torch.export.load(path).state_dict, new_path)."),
    ".npy": ("arrays of NumPy (npz)", f"Put them into a dict of torch.from_numpy(...) {_SAVE}."),
}  # fmt: skip


def reads(path: Path) -> bool:
    """Whether it is of a kind that is known, and refused."""
    return path.is_file() and _what(path) is not None


def read(path: Path, *, settled: bool = False) -> NoReturn:  # noqa: ARG001  as every format
    """Refuse it.

    Raises:
        InputError: always: what it is, and how to make a checkpoint of it.
    """
    what, way = _what(path) or ("of an unknown kind", "")
    msg = f"{str(path)!r} is not a checkpoint that ravine reads: it is {what}. {way}"
    raise InputError(msg)


def _what(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as file:
            start = file.read(64)
        members = _members(path) if start.startswith(b"PK") else ()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None  # the formats say what is wrong with it
    for mark, answer in _BY_BYTES.items():
        if start.startswith(mark):
            return answer
    for mark, answer in _BY_MEMBER.items():
        if any(mark in member for member in members):
            return answer
    if start.lstrip()[:1] == b"<":
        return ("HTML or XML, a page rather than the file behind it", "Download the file itself.")
    return next((told for end, told in _BY_NAME.items() if path.name.endswith(end)), None)


def _members(path: Path) -> Iterable[str]:
    with zipfile.ZipFile(path) as archive:
        return [f"/{name}" for name in archive.namelist()]
