"""Splits: named sources of examples, read in batches, the same examples at every pass.

A curve compares points, so all points must see the same examples. A source that gives others on a
second pass (augmentation, shuffling with ``drop_last``, an iterator that runs dry) is found out
before the measurement where that is cheap, and by the fingerprint of the pass itself in any case.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ravine.errors import InputError
from ravine.params import bytes_of

_PROBED_ITEMS: Final = 4  # items of a Dataset that are fetched twice


class Split:
    """One named source of examples.

    Args:
        name: how results call it.
        source: a tuple of tensors or arrays of one length, a map-style Dataset, a DataLoader, or
            any iterable of batches that can be iterated again.
        batch_size: examples per batch where the batches are made here (tuples and Datasets); a
            tuple's may be changed later.

    Raises:
        InputError: not one of these, empty, of unequal lengths, or an iterator (readable only
            once).
    """

    def __init__(self, name: str, source: Any, batch_size: int) -> None:
        self.name = name
        self.tensors: tuple[Tensor, ...] | None = None
        self.batch_size = batch_size
        self._seen: Fingerprint | None = None
        kind = type(source).__name__
        if isinstance(source, tuple) and source and all(_is_array(part) for part in source):
            self.tensors = self._checked(source)
        elif isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            source = DataLoader(source, batch_size=batch_size)
        elif isinstance(source, Tensor | np.ndarray | str | bytes) or not isinstance(
            source, Iterable
        ):
            hint = (
                "Wrap it in a tuple, (inputs,) or (inputs, targets)." if _is_array(source) else ""
            )
            msg = (
                f"split {name!r} must be a tuple of tensors, a Dataset, a DataLoader or an "
                "iterable of batches; "
                f"got {kind}. {hint}"
            ).rstrip()
            raise InputError(msg)
        elif isinstance(source, Iterator):
            msg = (
                f"split {name!r} is an iterator ({kind}), which can be read only once; give a list "
                "of batches, a "
                "Dataset or a DataLoader"
            )
            raise InputError(msg)
        self._source = source

    def _checked(self, parts: Sequence[Any]) -> tuple[Tensor, ...]:
        tensors = tuple(torch.as_tensor(part) for part in parts)
        lengths = [len(t) if t.ndim else None for t in tensors]
        if len(set(lengths)) != 1 or lengths[0] is None:
            msg = f"the tensors of split {self.name!r} must have one length; got {lengths}"
            raise InputError(msg)
        if lengths[0] == 0:
            msg = f"split {self.name!r} is empty"
            raise InputError(msg)
        return tensors

    def __len__(self) -> int:
        """How many examples a pass is expected to give; 0 where the source does not say."""
        if self.tensors is not None:
            return len(self.tensors[0])
        if isinstance(self._source, DataLoader) and not isinstance(
            self._source.dataset, IterableDataset
        ):
            try:
                return len(self._source.dataset)  # pyright: ignore[reportArgumentType]
            except TypeError:
                return 0
        if isinstance(self._source, list | tuple):
            return sum(count_examples(batch) for batch in self._source)
        return 0

    def batches(self, size: int | None = None) -> Iterator[Any]:
        """One pass over the source; a tuple of tensors in batches of ``size``, by default ``batch_size``."""
        if self.tensors is None:
            yield from self._source
            return
        size = size or self.batch_size
        for first in range(0, len(self), size):
            yield tuple(tensor[first : first + size] for tensor in self.tensors)

    @property
    def worth_reading_ahead(self) -> bool:
        """Whether reading takes time that no one else spends: not of tensors at hand, nor of a loader with workers."""
        if isinstance(self._source, DataLoader):
            return self._source.num_workers == 0
        return self.tensors is None and not isinstance(self._source, list | tuple)

    @property
    def generators(self) -> list[torch.Generator]:
        """The caller's own generators, which a pass over a loader draws from."""
        loader = self._source
        if not isinstance(loader, DataLoader):
            return []
        owners = [
            loader,
            loader.sampler,
            loader.batch_sampler,
            getattr(loader.batch_sampler, "sampler", None),
        ]
        found = [getattr(owner, "generator", None) for owner in owners]
        return [generator for generator in found if isinstance(generator, torch.Generator)]

    def require_repeatable(self) -> None:
        """Look for a source that gives other examples on a second pass.

        Raises:
            InputError: it does, with the reason.
        """
        if self._seen is not None:
            return  # every pass is compared with the first
        if isinstance(self._source, DataLoader) and not isinstance(
            self._source.dataset, IterableDataset
        ):
            self._probe_sampler(self._source)
            self._probe_items(self._source)
        elif self.tensors is None and not isinstance(self._source, list | tuple):
            for _ in range(2):
                seen = Fingerprint()
                for batch in self.batches():
                    seen.add(batch)
                self.require_same(seen)

    def require_same(self, seen: Fingerprint) -> None:
        """Compare a whole pass with the passes before it.

        Raises:
            InputError: the examples differ, or there were none.
        """
        if seen.count == 0:
            again = " on this pass" if self._seen else ""
            msg = (
                f"split {self.name!r} gave no examples{again}; expected a source that can be read "
                "again"
            )
            raise InputError(msg)
        if self._seen is not None and self._seen != seen:
            what = (
                f"{self._seen.count} examples, then {seen.count}"
                if self._seen.count != seen.count
                else "as many, but not the same"
            )
            reason = f"two passes gave {what}"
            raise self._unrepeatable(reason)
        self._seen = seen

    def _probe_sampler(self, loader: DataLoader[Any]) -> None:
        drawn = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
        one, two = (sorted(_flat(drawn)) for _ in range(2))
        if one != two:
            reason = (
                "its sampler draws other examples each time (shuffle with drop_last, or with "
                "replacement)"
            )
            raise self._unrepeatable(reason)

    def _probe_items(self, loader: DataLoader[Any]) -> None:
        size = len(self)
        if size == 0:
            msg = f"split {self.name!r} is empty"
            raise InputError(msg)
        indices = sorted(
            {round(i * (size - 1) / (_PROBED_ITEMS - 1)) for i in range(_PROBED_ITEMS)}
        )
        prints = []
        for _ in range(2):
            items = [loader.dataset[i] for i in indices]
            batch = loader.collate_fn(items) if loader.batch_size is not None else items
            prints.append(Fingerprint().add(batch))
        if prints[0] != prints[1]:
            reason = "the same item comes out different when it is read again (augmentation?)"
            raise self._unrepeatable(reason)

    def _unrepeatable(self, reason: str) -> InputError:
        return InputError(
            f"split {self.name!r} does not give the same examples twice: {reason}. The points of a "
            "curve can only "
            "be compared on the same examples; turn this off, or pass Objective(..., "
            "check_data=False)."
        )


class Fingerprint:
    """A 64-bit hash of a multiset of examples: the same in any order and any batching.

    Every example is hashed on its own (multilinear hashing of its bytes, then splitmix64), and the
    hashes are added modulo 2⁶⁴. It tells data sets apart; it is no protection against someone who
    wants a collision.

    Examples:
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> Fingerprint().add((x,)) == Fingerprint().add((x[[2, 0]],)).add((x[1:2],))
        True
    """

    def __init__(self) -> None:
        self.total = 0
        self.count = 0

    def add(self, batch: Any) -> Fingerprint:
        """Take in one batch."""
        rows = count_examples(batch)
        if rows == 0:
            return self
        hashes = np.zeros(rows, dtype=np.uint64)
        for place, leaf in enumerate(leaves(batch)):
            words = _words(leaf, rows)
            weights = splitmix64(
                np.arange(words.shape[1], dtype=np.uint64) + np.uint64((place + 1) << 32)
            ) | np.uint64(1)
            hashes += splitmix64(words @ weights + np.uint64(place))
        self.total = (self.total + int(splitmix64(hashes).sum(dtype=np.uint64))) % (1 << 64)
        self.count += rows
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and (self.total, self.count) == (
            other.total,
            other.count,
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]  it grows

    def __str__(self) -> str:
        return f"{self.total:016x}"


@contextmanager
def preserved_rng(generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python, and some others, as they were found, however it ends."""
    states = [generator.get_state() for generator in generators]
    numpy_state = np.random.get_state()  # noqa: NPY002  the global generator is what augmentation code uses
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


def leaves(batch: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and mappings, in order; a mapping's in the order of its sorted keys."""
    if isinstance(batch, Mapping):
        for key in sorted(batch, key=str):
            yield from leaves(batch[key])
    elif isinstance(batch, list | tuple) and not _is_text(batch):
        for part in batch:
            yield from leaves(part)
    else:
        yield batch


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with ``function`` applied to its tensors; nested tuples, lists and mappings keep their type."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        mapped = {key: map_tensors(function, value) for key, value in batch.items()}
        if type(batch) is dict:
            return mapped
        other = copy.copy(
            batch
        )  # a tokenizer's BatchEncoding and its kind: same type, other values
        other.update(mapped)  # pyright: ignore[reportAttributeAccessIssue]
        return other
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, part) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, part) for part in batch)
    return batch


def count_examples(batch: Any) -> int:
    """The length along the first axis that most of the batch's tensors have; 1 where there is no tensor."""
    lengths = [len(leaf) for leaf in leaves(batch) if _is_array(leaf) and leaf.ndim]
    return max(lengths, key=lengths.count) if lengths else 1


def _is_array(part: object) -> bool:
    return isinstance(part, Tensor | np.ndarray)


def _is_text(part: object) -> bool:
    return (
        isinstance(part, list | tuple)
        and len(part) > 0
        and all(isinstance(item, str) for item in part)
    )


def _flat(indices: Iterable[Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(
        i if isinstance(i, list | tuple) else (i,) for i in indices
    )


def _words(leaf: Any, rows: int) -> np.ndarray:
    """(rows, words) of uint64: each example's bytes, padded; a leaf that is not per example counts in every row."""
    if isinstance(leaf, Tensor):
        flat = bytes_of(leaf)
        per_example = leaf.ndim > 0 and len(leaf) == rows
    elif isinstance(leaf, np.ndarray):
        flat = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        per_example = leaf.ndim > 0 and len(leaf) == rows
    elif _is_text(leaf) and len(leaf) == rows:
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in leaf)
        flat, per_example = np.frombuffer(digests, dtype=np.uint8), True
    else:
        flat, per_example = np.frombuffer(repr(leaf).encode(), dtype=np.uint8), False
    table = flat.reshape(rows if per_example else 1, -1)
    padded = np.pad(table, ((0, 0), (0, -table.shape[1] % 8))) if table.shape[1] % 8 else table
    words = np.ascontiguousarray(padded).view(np.uint64)
    return np.broadcast_to(words, (rows, words.shape[1]))


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood's splitmix64 (2014), elementwise on uint64: a well-mixed word for every counter."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
