"""Sampling: a random part of the examples, nested in every larger one, whatever their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset

from ravine.errors import InputError
from ravine.objective.data import Split
from ravine.objective.grouping import ROWS, Grouping, ids_of
from ravine.objective.measurement import Setup
from ravine.objective.randomness import stable_seed


def sampled(setup: Setup, counts: dict[str, int]) -> tuple[tuple[Split, ...], Grouping]:
    """A random part of each split's examples, and how these belong together.

    Which ones they are depends on the objective's seed and on their numbers alone; a larger
    part holds all smaller ones. Of clusters whole ones are drawn, and of strata as large a
    share of each.

    Args:
        setup: of the objective.
        counts: split → how many examples; all where there are no more.

    Returns:
        The splits and their grouping, in the objective's order.

    Raises:
        InputError: the examples cannot be drawn one by one, or what is measured depends on all of
            them.
    """
    _require_separate(setup)
    splits, ids = [], {"clusters": {}, "strata": {}}
    for split in setup.splits:
        given = {name: _listed(setup.grouping, name, split) for name in ids}
        if counts[split.name] >= split.count > 0:
            rows = np.arange(split.count)
            splits.append(split)
        else:
            seed = stable_seed("examples", setup.seed, split.name)
            rows = drawn(count_of(split), counts[split.name], seed, **given)
            splits.append(_part(split, rows))
        for name, listed in given.items():
            if listed is not None:
                ids[name][split.name] = [listed[int(row)] for row in rows]
    grouping = setup.grouping
    for name, by_split in ids.items():
        if by_split:
            grouping = replace(grouping, **{name: by_split})
    return tuple(splits), grouping


def drawn(
    count: int,
    wanted: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """The numbers of a random part of some examples, in order.

    Args:
        count: of examples.
        wanted: how many; with clusters, at least so many.
        seed: of the order in which they are drawn.
        clusters: (count,) ids, whole ones of which are drawn.
        strata: (count,) ids, of each of which as large a share is drawn.

    Returns:
        (examples,) ascending, and all that a smaller part with the same seed has.

    Examples:
        >>> few, more = drawn(1000, 10, seed=3), drawn(1000, 40, seed=3)
        >>> len(few), bool(np.isin(few, more).all())
        (10, True)
        >>> drawn(6, 3, seed=0, strata="aabbcc") // 2
        array([0, 1, 2])
    """
    stream = np.random.default_rng(seed)
    unit_of = np.arange(count) if clusters is None else _numbered(clusters)
    units = int(unit_of.max()) + 1
    turn = stream.permutation(units).astype(float)
    if strata is not None:
        of_unit = np.zeros(units, dtype=np.int64)
        of_unit[unit_of] = _numbered(strata)
        turn = _share_of_stratum(turn, of_unit)
    size = np.bincount(unit_of, minlength=units)
    order = np.argsort(turn, kind="stable")
    # whole units until there are enough: the last one may bring more than was wanted
    enough = int(np.searchsorted(np.cumsum(size[order]), min(wanted, count))) + 1
    return np.flatnonzero(np.isin(unit_of, order[:enough]))


def _share_of_stratum(turn: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """How much of a unit's stratum is drawn before it: equal shares of all, side by side."""
    share = np.empty_like(turn)
    for one in range(int(stratum.max()) + 1):
        inside = np.flatnonzero(stratum == one)
        # the inverse of an order: the place that each takes in it
        rank = np.argsort(np.argsort(turn[inside]))
        share[inside] = (rank + 0.5) / len(inside)
    return share + 1e-9 * turn / len(turn)  # ties in the order of the draw


def _numbered(ids: Sequence[Hashable]) -> np.ndarray:
    number = {one: place for place, one in enumerate(Counter(ids))}
    return np.array([number[one] for one in ids])


def _listed(grouping: Grouping, what: str, split: Split) -> list[Hashable] | None:
    """The ids of a split's examples, where they are known before it is read."""
    source: Any = getattr(grouping, what)
    if source is None or source is ROWS:
        return None
    if callable(source) or isinstance(source, str):
        msg = (
            f"to draw examples {what} must be given as one id per example; a function or an entry "
            "of what per_example returns tells them too late. Give an array, or measure all "
            "examples"
        )
        raise InputError(msg)
    return ids_of(what, source, split.name)


def count_of(split: Split) -> int:
    """How many examples a split has, of which some can be drawn.

    Raises:
        InputError: that is not known before it is read, or they come in batches made before.
    """
    if split.count:
        return split.count
    msg = (
        f"the examples of split {split.name!r} cannot be drawn one by one: it is a stream, or "
        "batches that were made before. Give a tuple of tensors, a map-style Dataset or a "
        "DataLoader of one, or measure all examples"
    )
    raise InputError(msg)


def _part(split: Split, rows: np.ndarray) -> Split:
    if split.tensors is not None:
        chosen = torch.as_tensor(rows)
        tensors = tuple(tensor[chosen.to(tensor.device)] for tensor in split.tensors)
        return replace(split, source=tensors, tensors=tensors)
    source: Any = split.source
    if not isinstance(source, DataLoader):
        return replace(split, source=Subset(source, rows.tolist()))
    _require_plain(split.name, source)
    part = DataLoader(
        Subset(source.dataset, rows.tolist()),
        batch_size=source.batch_size,
        num_workers=source.num_workers,
        collate_fn=source.collate_fn,
        worker_init_fn=source.worker_init_fn,
    )
    return replace(split, source=part)


def _require_plain(name: str, loader: DataLoader[Any]) -> None:
    """Refuse a loader that chooses its examples, or makes its batches, in a way of its own."""
    sampler = type(loader.sampler) in (SequentialSampler, RandomSampler)
    batches = type(loader.batch_sampler) is BatchSampler and not loader.drop_last
    if sampler and batches and type(loader) is DataLoader:
        return
    msg = (
        f"the loader of split {name!r} has a sampler or batches of its own, or leaves out the last "
        "batch, so that examples cannot be drawn from it; give its Dataset, or measure all examples"
    )
    raise InputError(msg)


def _require_separate(setup: Setup) -> None:
    """Refuse what depends on other examples than its own."""
    if setup.is_by_example:
        return
    reason = f"dropout={setup.dropout!r} draws masks batch by batch"
    if setup.buffers == "recompute" or setup.correction is not None:
        reason = "statistics of the activations are taken over all examples"
    elif setup.is_stateful:
        reason = "a stateful loss carries its state from batch to batch"
    msg = f"a part of the examples cannot be measured by itself: {reason}; measure all of them"
    raise InputError(msg)
