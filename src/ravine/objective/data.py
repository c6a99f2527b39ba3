"""Splits: named sources of examples, read in batches, the same examples at every pass.

A curve compares points, so all points must see the same examples. A source that gives others on a
second pass (augmentation, shuffling with ``drop_last``, an iterator that runs dry) is found out
before the measurement where that is cheap, and by the fingerprint of the pass itself in any case.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ravine.errors import InputError
from ravine.objective.batches import count_examples, is_array
from ravine.objective.fingerprint import Fingerprint

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
        if isinstance(source, tuple) and source and all(is_array(part) for part in source):
            self.tensors = self._checked(source)
        elif isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            source = DataLoader(source, batch_size=batch_size)
        elif isinstance(source, Tensor | np.ndarray | str | bytes) or not isinstance(
            source, Iterable
        ):
            hint = "Wrap it in a tuple, (inputs,) or (inputs, targets)." if is_array(source) else ""
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


def _flat(indices: Iterable[Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(
        i if isinstance(i, list | tuple) else (i,) for i in indices
    )
