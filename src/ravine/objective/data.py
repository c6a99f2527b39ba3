"""Splits: named sources of examples, read in batches, the same examples at every pass.

A curve compares points, so all points must see the same examples. A source that gives others on a
second pass (augmentation, shuffling with ``drop_last``, an iterator that runs dry) is found out
before the measurement where that is cheap, and by the fingerprint of the pass itself in any case.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ravine.errors import InputError
from ravine.objective.batches import Batch, count_examples, is_array
from ravine.objective.endless import Watch
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.randomness import stable_seed

_READ: Final = 256  # examples at a time, where nothing is computed of them
_PROBED_ITEMS: Final = 4  # items of a Dataset that are fetched twice


@dataclass(frozen=True)
class Split:
    """One named source of examples; reading it changes nothing here.

    Attributes:
        name: how results call it.
        source: a map-style Dataset, a DataLoader, or any iterable of batches that can be iterated
            again; of a tuple of tensors, the tuple.
        tensors: of one length, if the source is a tuple of them; else None.
        limit: how many examples of a stream to read; None for all.
    """

    name: str
    source: Any
    tensors: tuple[Tensor, ...] | None = None
    limit: int | None = None

    @classmethod
    def of(cls, name: str, source: Any, limit: int | None = None) -> Split:
        """A split of a source as the caller gave it.

        Args:
            name: how results call it.
            limit: how many examples to read, of a source that does not say how many it has.
            source: a tuple of tensors or arrays of one length, a map-style Dataset, a DataLoader,
                or any iterable of batches that can be iterated again.

        Raises:
            InputError: not one of these, empty, of unequal lengths, or an iterator (readable only
                once).
        """
        if isinstance(source, tuple) and source and all(is_array(part) for part in source):
            return cls(name, source, _tensors_of(name, source))
        kind = type(source).__name__
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            return cls(name, source)
        if isinstance(source, Tensor | np.ndarray | str | bytes) or not isinstance(
            source, Iterable
        ):
            hint = "Wrap it in a tuple, (inputs,) or (inputs, targets)." if is_array(source) else ""
            msg = (
                f"split {name!r} must be a tuple of tensors, a Dataset, a DataLoader or an "
                f"iterable of batches; got {kind}. {hint}"
            ).rstrip()
            raise InputError(msg)
        if isinstance(source, Iterator):
            msg = (
                f"split {name!r} is an iterator ({kind}), which can be read only once; give a list "
                "of batches, a Dataset or a DataLoader"
            )
            raise InputError(msg)
        return cls(name, source, limit=limit)

    def __len__(self) -> int:
        """How many examples a pass is expected to give; 0 where the source does not say."""
        if self.tensors is not None:
            return len(self.tensors[0])
        if self._is_indexed:
            dataset: Any = self.source
            if isinstance(dataset, DataLoader):
                dataset = dataset.dataset
            try:
                return len(dataset)
            except TypeError:  # a data set may be indexed and have no length
                return 0
        if isinstance(self.source, list | tuple):
            return sum(count_examples(content) for content in self.source)
        return self.limit or 0

    @property
    def is_stream(self) -> bool:
        """Whether only its end tells how long it is."""
        has_length = self.tensors is not None or isinstance(self.source, list | tuple)
        return not has_length and not self._is_indexed and not _says_length(self.source)

    @property
    def count(self) -> int:
        """How many examples there are for certain; 0 where that is not known beforehand."""
        if isinstance(self.source, list | tuple) and self.tensors is None:
            return 0  # what per_example returns decides
        return 0 if self.limit else len(self)

    def batches(self, size: int, first: int = 0) -> Iterator[Batch]:
        """One pass over the source.

        Args:
            size: examples in a batch, where the batches are made here: of tensors and of a Dataset.
            first: number of the batch to begin with; those before are not read, where there is a
                way around them.

        Yields:
            The batches in order.
        """
        if self.tensors is not None:
            yield from self._slices(self.tensors, size, first)
        elif self._is_indexed:
            made = not isinstance(self.source, DataLoader)
            yield from _indexed(self._loader(size) if made else self.source, first)
        else:
            running = _running(self.source)
            limited = self.limit is not None and self.is_stream
            every = _up_to(self.limit or 0, running) if limited else running
            yield from itertools.islice(every, first, None)

    def _loader(self, size: int) -> DataLoader[Any]:
        """A loader of a bare Dataset."""

        def collate(items: list[Any]) -> Any:
            try:
                return default_collate(items)
            except (RuntimeError, TypeError) as problem:
                msg = (
                    f"the items of split {self.name!r} cannot be stacked into a batch ({problem}): "
                    "texts or images of several sizes, or objects. Pass a DataLoader with your own "
                    "collate_fn, or with batch_size=1, instead of the Dataset."
                )
                raise InputError(msg) from problem

        return DataLoader(self.source, batch_size=size, collate_fn=collate)

    @property
    def makes_batches(self) -> bool:
        """Whether the size of the batches is chosen here."""
        return self.tensors is not None or (
            self._is_indexed and not isinstance(self.source, DataLoader)
        )

    @property
    def worth_reading_ahead(self) -> bool:
        """Whether reading takes time that no one else spends.

        It does not from tensors at hand, nor from a loader with workers.
        """
        if isinstance(self.source, DataLoader):
            return self.source.num_workers == 0
        return self.tensors is None and not isinstance(self.source, list | tuple)

    @property
    def generators(self) -> list[torch.Generator]:
        """The caller's own generators, which a pass over a loader draws from."""
        loader = self.source
        if not isinstance(loader, DataLoader):
            return []
        batching = loader.batch_sampler
        owners = [loader, loader.sampler, batching, getattr(batching, "sampler", None)]
        found = [getattr(owner, "generator", None) for owner in owners]
        return [generator for generator in found if isinstance(generator, torch.Generator)]

    def require_repeatable(self, size: int, tick: Callable[[int], None] = lambda _: None) -> None:
        """Look for a source that gives other examples on a second pass.

        Args:
            size: as in ``batches``.
            tick: told how many examples of a stream have been looked at since it was last told.

        Raises:
            InputError: it does, with the reason.
        """
        if self.tensors is not None or isinstance(self.source, list | tuple):
            return
        if not self._is_indexed:
            first, again = (self._fingerprint(size, tick) for _ in range(2))
            self.require_same(first, again)
            return
        loader = self.source
        if not isinstance(loader, DataLoader):
            loader = self._loader(size)
        self._probe_items(loader, self._probed_indices(loader))

    def holds_the_same_as(self, other: Split) -> bool:
        """Whether another split has just these examples, in whatever order; both are read."""
        one, two = (split._fingerprint(_READ, lambda _: None) for split in (self, other))
        return one.count > 0 and one == two

    def require_same(self, before: Fingerprint | None, seen: Fingerprint) -> None:
        """Compare a whole pass with one before it.

        Args:
            before: the examples of the pass before; None if there was none.
            seen: those of this pass.

        Raises:
            InputError: the examples differ, or there were none.
        """
        if seen.count == 0:
            again = " on this pass" if before else ""
            msg = (
                f"split {self.name!r} gave no examples{again}; expected a source that can be read "
                "again"
            )
            raise InputError(msg)
        if before is not None and before != seen:
            what = f"{before.count} examples, then {seen.count}"
            if before.count == seen.count:
                what = "as many, but not the same"
                if seen.whole:
                    what += (
                        ". (What belongs to which example of a batch cannot be told here, so "
                        "batches are compared whole: give them in the same order on every pass)"
                    )
            reason = f"two passes gave {what}"
            raise self._unrepeatable(reason)

    @property
    def _is_indexed(self) -> bool:
        """Whether examples are fetched by their index."""
        source = self.source
        if isinstance(source, DataLoader):
            return not isinstance(source.dataset, IterableDataset)
        return isinstance(source, Dataset) and not isinstance(source, IterableDataset)

    @staticmethod
    def _slices(tensors: Sequence[Tensor], size: int, begin: int) -> Iterator[Batch]:
        count = len(tensors[0])
        for number, first in enumerate(range(begin * size, count, size), begin):
            content = tuple(tensor[first : first + size] for tensor in tensors)
            yield Batch(number, content, np.arange(first, min(first + size, count)))

    def read(
        self, size: int, *, strict: bool = True, first: int = 0
    ) -> tuple[Iterator[Batch], Fingerprint]:
        """One pass over the source, and a fingerprint that takes in what has been read.

        Args:
            size: as in ``batches``.
            strict: whether what cannot be read is an error.
            first: as in ``batches``.

        Returns:
            The batches in order; the fingerprint, which grows with them.
        """
        seen = Fingerprint(strict=strict)
        return self._watched(size, seen, first), seen

    def _watched(self, size: int, seen: Fingerprint, first: int) -> Iterator[Batch]:
        watch = Watch() if self.is_stream and self.limit is None else None
        for batch in self.batches(size, first):
            total, count = seen.total, seen.count
            seen.add(batch.content)
            digest = (seen.total - total) % (1 << 64)
            reason = watch.saw(digest, seen.count - count) if watch else ""
            if reason:
                msg = (
                    f"split {self.name!r} seems to be a stream without an end: {reason}. Say how "
                    "many examples to read from its start: Objective(..., examples=10_000)."
                )
                raise InputError(msg)
            yield batch

    def _fingerprint(self, size: int, tick: Callable[[int], None]) -> Fingerprint:
        batches, seen = self.read(size)
        for batch in batches:
            tick(batch.size)
        return seen

    def _probed_indices(self, loader: DataLoader[Any]) -> list[Any]:
        """What a loader asks its Dataset for: a few of it, if it is the same on every pass."""
        drawn = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
        one, two = (list(_flat(drawn)) for _ in range(2))
        if _multiset(one) != _multiset(two):
            reason = (
                "its sampler draws other examples each time (shuffle with drop_last, or with "
                "replacement)"
            )
            raise self._unrepeatable(reason)
        if not one:
            msg = f"split {self.name!r} is empty"
            raise InputError(msg)
        last = len(one) - 1
        places = {round(i * last / (_PROBED_ITEMS - 1)) for i in range(_PROBED_ITEMS)}
        return [one[place] for place in sorted(places)]

    def _probe_items(self, loader: DataLoader[Any], indices: list[Any]) -> None:
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
            "curve can only be compared on the same examples; turn this off, or pass "
            "Objective(..., check_data=False)."
        )


def _tensors_of(name: str, parts: Sequence[Any]) -> tuple[Tensor, ...]:
    tensors = tuple(torch.as_tensor(part) for part in parts)
    lengths = [len(tensor) if tensor.ndim else None for tensor in tensors]
    if len(set(lengths)) != 1 or lengths[0] is None:
        msg = f"the tensors of split {name!r} must have one length; got {lengths}"
        raise InputError(msg)
    if lengths[0] == 0:
        msg = f"split {name!r} is empty"
        raise InputError(msg)
    return tensors


def _running(contents: Iterable[Any], first: int = 0) -> Iterator[Batch]:
    """The batches of a stream; examples are numbered as they come, once their values are known."""
    for number, content in enumerate(contents, first):
        yield Batch(number, content)


def _indexed(loader: DataLoader[Any], first: int) -> Iterator[Batch]:
    """The batches of a loader; its examples are numbered by their index in the Dataset."""
    drawn: deque[Any] = deque()
    if type(loader).__iter__ is not DataLoader.__iter__:  # it may draw no indices, or others
        yield from itertools.islice(_indexed_from(loader, drawn, 0), first, None)
        return
    yield from _indexed_from(loader, drawn, first)


def _indexed_from(loader: DataLoader[Any], drawn: deque[Any], first: int) -> Iterator[Batch]:
    watched = copy.copy(loader)
    place = "batch_sampler" if loader.batch_sampler is not None else "sampler"
    # a loader refuses other samplers once it is made; this one draws the same, and takes note
    vars(watched)[place] = _Noting(getattr(loader, place), drawn, first)
    vars(watched)["_iterator"] = None  # that of persistent workers belongs to the caller's loader
    # a loader with an __iter__ of its own may draw no indices
    for batch in _running(watched, first):
        yield _numbered(batch, drawn.popleft()) if drawn else batch


def _numbered(batch: Batch, indices: Any) -> Batch:
    """The batch with its examples' numbers: of indices, or of an item that is itself a batch."""
    if isinstance(indices, str) or not isinstance(indices, Iterable):
        return replace(batch, item=_number_of(indices))
    numbers = np.array([_number_of(index) for index in indices], dtype=np.int64)
    return replace(batch, examples=numbers)


def _number_of(index: Any) -> int:
    """An index as a number; of a key that is none, a number made of its text."""
    try:
        return operator.index(index)
    except TypeError:
        return stable_seed(index)


class _Noting:
    """A sampler that notes the indices it gives, in the order in which batches will come."""

    def __init__(self, sampler: Any, drawn: deque[Any], first: int) -> None:
        self._sampler = sampler
        self._drawn = drawn
        self._first = first

    def __iter__(self) -> Iterator[Any]:
        for indices in itertools.islice(self._sampler, self._first, None):
            self._drawn.append(indices)
            yield indices

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def _multiset(indices: list[Any]) -> Counter[Any]:
    try:
        return Counter(indices)
    except TypeError:  # indices that cannot be hashed, such as slices
        return Counter(map(repr, indices))


def _says_length(source: Any) -> bool:
    try:
        return len(source) >= 0
    except Exception:  # a loader of a stream has a length, and raises
        return False


def _up_to(limit: int, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of the first examples; one whose examples cannot be counted counts as one."""
    left = limit
    for batch in batches:
        rows = batch.size if batch.is_counted else 1
        yield batch.first(left) if batch.is_counted else batch
        left -= rows
        if left <= 0:
            return


def _flat(indices: Iterable[Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(
        i if isinstance(i, list | tuple) else (i,) for i in indices
    )
