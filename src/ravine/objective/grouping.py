"""Grouping: what belongs together if data were not drawn one by one: clusters and strata."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.moments import Membership, Moments, numbers_of_ids, numbers_of_values

#: One id per example (for each split, where there are several), a function of a batch, or the name
#: of an entry that the caller's function returns.
Ids = Sequence[Any] | np.ndarray | Tensor | Mapping[str, Any] | Callable[[Any], Any] | str

_STABLE: Final = "an example's id must be the same whenever it is read"

#: What one batch gave: the shape of a quantity, and the entries that hold ids.
_Given = tuple[tuple[int, ...], Mapping[str, Tensor]]
_Met = tuple[Batch, np.ndarray, _Given]


def ROWS(_: Any) -> None:  # noqa: N802  a name for a choice, which is compared and never called
    """Clusters: the rows of values returned as (rows, positions), each an example's own."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """How the examples were drawn.

    Attributes:
        clusters: what is independent when a value is not: the document of a token, say.
        strata: what was balanced by design: the class of an image, say.
    """

    clusters: Ids | None = None
    strata: Ids | None = None

    @property
    def names(self) -> frozenset[str]:
        """Entries of what the caller's function returns that are ids and no quantities."""
        return frozenset(ids for ids in (self.clusters, self.strata) if isinstance(ids, str))

    def taken(self, found: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Take the ids out of what the caller's function returned, batch by batch.

        Raises:
            InputError: an entry is not there.
        """
        for name in self.names:
            if name not in found[0]:
                msg = (
                    f"clusters or strata are to be read from the entry {name!r} of what "
                    f"per_example returns; it returned {sorted(found[0])}"
                )
                raise InputError(msg)
        return [{name: batch.pop(name) for name in self.names} for batch in found]

    def membership(
        self,
        split: str,
        held: Sequence[Batch],
        examples: Sequence[np.ndarray],
        given: Sequence[_Given],
        kept: np.ndarray | None = None,
    ) -> tuple[Membership, frozenset[int]]:
        """Where the values of a block belong, and the numbers of its clusters.

        Args:
            split: the examples' split.
            held: the block's batches.
            examples: for each batch, its examples' own numbers.
            given: for each batch, the shape of the quantity and its ids.
            kept: (values,) whether there is a value; None where there is one everywhere.

        Returns:
            The membership of the values that there are; no clusters where values are independent.

        Raises:
            InputError: as many ids as there are neither values nor examples.
        """
        batches = list(zip(held, examples, given, strict=True))
        chosen = slice(None) if kept is None else kept
        if self.clusters is None:
            parts = [numbers_of_values(rows, shape) for _, rows, (shape, _) in batches]
            members, units = Membership.of(np.concatenate(parts)[chosen]), frozenset()
        else:
            if self.clusters is ROWS:
                parts = [_rows_of_values(rows, shape) for _, rows, (shape, _) in batches]
                numbers = np.concatenate(parts)[chosen]
            else:
                ids = self._ids_of("clusters", self.clusters, split, batches)
                numbers = numbers_of_ids(ids)[chosen]
            members = Membership.of(numbers, clustered=True)
            units = frozenset(np.unique(numbers).tolist())
        if self.strata is not None:
            strata = self._ids_of("strata", self.strata, split, batches)
            if kept is not None:
                strata = [one for one, is_kept in zip(strata, kept, strict=True) if is_kept]
            members = members.within(strata)
        return members, units

    @staticmethod
    def _ids_of(what: str, source: Ids, split: str, batches: Sequence[_Met]) -> list[Hashable]:
        return [
            one for batch, rows, of in batches for one in _ids(what, source, split, batch, rows, of)
        ]

    def require_all_used(self, split: str, examples: int) -> None:
        """Check ids that are given as arrays against the examples that a pass gave.

        Raises:
            InputError: there are more ids than examples.
        """
        for what, ids in (("clusters", self.clusters), ("strata", self.strata)):
            if ids is None or isinstance(ids, str) or callable(ids):
                continue
            found = len(ids[split] if isinstance(ids, Mapping) else ids)
            if found > examples:
                msg = (
                    f"{what} has {found} ids for the {examples} examples of split {split!r}; "
                    "expected one each"
                )
                raise InputError(msg)

    def require_lengths(self, lengths: Mapping[str, int]) -> None:
        """Check ids that are given as arrays against the splits.

        Args:
            lengths: split → examples; 0 where that is not known.

        Raises:
            InputError: ids for other splits, or not one for each example.
        """
        for what, ids in (("clusters", self.clusters), ("strata", self.strata)):
            if ids is None or isinstance(ids, str) or callable(ids):
                continue
            for split, count in lengths.items():
                found = len(_array(what, ids, split, several=len(lengths) > 1))
                if count and found != count:
                    msg = (
                        f"{what} has {found} ids for the {count} examples of split {split!r}; "
                        "expected one each"
                    )
                    raise InputError(msg)


def ids_of(what: str, ids: Any, split: str) -> list[Hashable]:
    """Ids that are given as arrays: one for each example of a split.

    Args:
        what: "clusters" or "strata".
        ids: one id per example, or split → that.
        split: whose.
    """
    return _listed(what, list(_array(what, ids, split)))


def _array(what: str, ids: Any, split: str, *, several: bool = False) -> Any:
    """The ids of one split."""
    if isinstance(ids, Mapping):
        if split not in ids:
            msg = f"{what} has no ids for split {split!r}; it has {', '.join(map(repr, ids))}"
            raise InputError(msg)
        return _array(what, ids[split], split)
    if several:
        msg = f"there are several splits: give {what} as a dict, split → one id per example"
        raise InputError(msg)
    if hasattr(ids, "to_numpy"):  # a column of a table: by place, not by its labels
        ids = ids.to_numpy()
    flat = isinstance(ids, np.ndarray | Tensor) and not ids.ndim
    if flat or not hasattr(ids, "__len__") or not hasattr(ids, "__getitem__"):
        msg = (
            f"{what} must be one id per example, a function of a batch, or the name of an entry "
            f"that per_example returns; got {type(ids).__name__}"
        )
        raise InputError(msg)
    return ids


def _ids(
    what: str, source: Any, split: str, batch: Batch, numbers: np.ndarray, given: _Given
) -> list[Hashable]:
    """One id for each value of a batch."""
    shape, entries = given
    values, rows = int(np.prod(shape)), len(numbers)
    if isinstance(source, str):
        found = _listed(what, entries[source].reshape(-1))
    elif callable(source):
        found = _called(what, source, batch)
    else:
        held = _array(what, source, split)
        if numbers.max(initial=-1) >= len(held):
            msg = (
                f"{what} has {len(held)} ids, and split {split!r} has an example number "
                f"{numbers.max()}; expected one id for each example"
            )
            raise InputError(msg)
        found = _listed(what, [held[int(number)] for number in numbers])
    if len(found) == values:
        return found
    if len(found) == rows and shape and shape[0] == rows:
        return [one for one in found for _ in range(values // rows)]
    msg = (
        f"{what} gave {len(found)} ids for a batch of {rows} examples with {values} values; "
        "expected one per value, or one per example where each has a row of values"
    )
    raise InputError(msg)


def _rows_of_values(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """For each value, the number of its row."""
    if not shape or shape[0] != len(numbers):
        return numbers_of_values(numbers, shape)
    return np.repeat(numbers.astype(np.uint64), int(np.prod(shape[1:])))


def _called(what: str, source: Callable[[Any], Any], batch: Batch) -> list[Hashable]:
    """The ids that a function gives for a batch: the same ones whenever it is asked."""
    found, again = (_listed(what, source(batch.content)) for _ in range(2))
    if found != again:
        msg = (
            f"{what}: the function gave other ids when it was asked twice for one batch; {_STABLE}"
        )
        raise InputError(msg)
    return found


def _listed(what: str, ids: Any) -> list[Hashable]:
    """Ids as plain numbers and strings, so that equal ones are equal whatever held them."""
    flat = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else ids
    single = isinstance(flat, np.ndarray) and not flat.ndim
    if single or isinstance(flat, str | bytes) or not isinstance(flat, Iterable):
        msg = f"{what} must be one id per example; got {type(ids).__name__} for a batch"
        raise InputError(msg)
    found = [one.item() if _is_scalar(one) else one for one in flat]
    for number, one in enumerate(found):
        if not isinstance(one, int | str):
            msg = (
                f"{what} must be whole numbers or strings, one id per example; got "
                f"{_described(one)} at place {number} of a batch"
            )
            raise InputError(msg)
    return found


def _is_scalar(one: Any) -> bool:
    """Whether it is an array or a tensor of one number."""
    return hasattr(one, "item") and np.ndim(one) == 0


def _described(one: Any) -> str:
    if one is None or isinstance(one, float):
        return repr(one)
    return f"a {type(one).__name__}"


def require_same_groups(split: str, before: Moments, now: Moments) -> None:
    """Check that another pass over the same examples put them into the same clusters and strata.

    Args:
        split: their split.
        before: what the first pass gave.
        now: what this pass gave.

    Raises:
        InputError: it did not.
    """
    if before.strata != now.strata or not np.array_equal(before.sizes, now.sizes):
        msg = f"the clusters or strata of split {split!r} changed between two passes; {_STABLE}"
        raise InputError(msg)
