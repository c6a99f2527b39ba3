"""Sources: the same examples at every pass, or a refusal that says why."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from oracles import blobs, mlp
from ravine import InputError, Line, Objective, evaluate, resolve, supervised
from ravine.objective.data import Split
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.grouping import Grouping
from ravine.objective.members import Members
from ravine.objective.randomness import preserved_rng


class Augmented(Dataset):
    """Items with noise from one of the global generators."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([float(index) + self.draw()]), index % 2


class Stream(IterableDataset):
    def __init__(self, passes):
        self.passes = passes

    def __iter__(self):
        return iter(self.passes.pop(0) if self.passes else [])


def probe(source):
    Split.of("data", source).require_repeatable(4)


def numbers_in(
    source, size, of=lambda batch: len(batch[0] if isinstance(batch, list | tuple) else batch)
):
    """The examples' own numbers, batch by batch, of a function that gives one loss for each."""
    held = list(Split.of("x", source).batches(size))
    members = Members(Grouping(), "x", held)
    members.learn([{"loss": torch.zeros(of(batch.content))} for batch in held], [], "a point")
    return [numbers.tolist() for numbers in members.examples]


DATA = TensorDataset(*blobs(23))


@pytest.mark.parametrize(
    "source",
    [
        blobs(23),
        DATA,
        DataLoader(DATA, batch_size=5),
        DataLoader(DATA, batch_size=5, shuffle=True),  # another order, the same examples
        DataLoader(DATA, batch_size=5, drop_last=True),  # the same three are dropped each time
        DataLoader(DATA, batch_size=None),
        [blobs(5), blobs(7, seed=1)],
        (blobs(5), blobs(7, seed=1)),
    ],
)
def test_sources_that_repeat_themselves_pass(source):
    probe(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (DataLoader(DATA, batch_size=5, shuffle=True, drop_last=True), "drop_last"),
        (DataLoader(DATA, batch_size=5, sampler=WeightedRandomSampler([1.0] * 23, 23)), "sampler"),
        (Augmented(lambda: float(torch.rand(()))), "augmentation"),
        (DataLoader(Augmented(random.random)), "augmentation"),
        (
            DataLoader(
                Augmented(np.random.rand),  # noqa: NPY002
                collate_fn=lambda items: items,
            ),
            "augmentation",
        ),
        (DataLoader(Stream([range(5), range(5), range(3)]), batch_size=2), None),
        (DataLoader(Stream([range(6), range(5)]), batch_size=2), "6 examples, then 5"),
        (DataLoader(Stream([range(5), range(1, 6)]), batch_size=2), "as many, but not the same"),
        (DataLoader(Stream([range(5)]), batch_size=2), "gave no examples on this pass"),
    ],
)
def test_sources_that_do_not_are_refused_with_the_reason(source, reason):
    if reason is None:
        probe(source)
        return
    with pytest.raises(InputError, match=reason):
        probe(source)


def test_the_caller_may_overrule_the_probe():
    model = mlp()
    loader = DataLoader(TensorDataset(*blobs(23)), batch_size=5, shuffle=True, drop_last=True)
    with pytest.raises(InputError, match="check_data=False"):
        Objective(model, supervised(torch.nn.functional.cross_entropy), loader)(model)
    assert (
        Objective(model, supervised(torch.nn.functional.cross_entropy), loader, check_data=False)(
            model
        )["data"]
        > 0
    )


def test_a_loader_that_runs_dry_between_passes_is_found_by_the_measurement():
    source = DataLoader(Stream([[DATA[i] for i in range(8)]] * 3), batch_size=4)
    model = mlp()
    J = Objective(model, supervised(torch.nn.functional.cross_entropy), source)
    with pytest.raises(InputError, match="examples"):
        J(model)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.ones(3, 2), "Wrap it in a tuple"),
        (np.ones((3, 2)), "Wrap it in a tuple"),
        (iter([blobs(5)]), "read only once"),
        ((batch for batch in [blobs(5)]), "read only once"),
        (3, "got int"),
        ("train", "got str"),
        ((torch.ones(3, 2), torch.ones(4)), r"one length; got \[3, 4\]"),
        ((torch.ones(0, 2), torch.ones(0)), "empty"),
        ((torch.tensor(1.0),), "one length"),
    ],
)
def test_things_that_are_no_source(source, said):
    with pytest.raises(InputError, match=said):
        Split.of("data", source)


@pytest.mark.parametrize(
    "source", [[], TensorDataset(torch.ones(0, 6), torch.ones(0)), DataLoader(DATA.tensors[0][:0])]
)
def test_an_empty_data_set_is_refused(source):
    model = mlp()
    with pytest.raises(InputError, match=r"empty|no examples"):
        Objective(model, supervised(torch.nn.functional.cross_entropy), source)(model)


def test_fingerprints_see_values_and_types_but_neither_order_nor_batching():
    x, y = blobs(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    whole = Fingerprint().add((x, y))
    parts = Fingerprint()
    for rows in order.split(7):
        parts.add((x[rows], y[rows]))
    assert whole == parts
    changed = y.clone()
    changed[3] += 1
    swapped = y[order]
    others = [(x, changed), (x, swapped), (x.double(), y), (x[:49], y[:49]), (x + 1e-6, y), (y, x)]
    assert len({str(Fingerprint().add(other)) for other in [(x, y), *others]}) == 7


def test_fingerprints_of_dictionaries_and_text():
    batch = {"ids": torch.arange(6).reshape(3, 2), "text": ["a", "b", "c"]}
    turned = {"text": ["c", "a", "b"], "ids": batch["ids"][[2, 0, 1]]}
    assert Fingerprint().add(batch) == Fingerprint().add(turned)
    assert Fingerprint().add(batch) != Fingerprint().add({**batch, "text": ["a", "b", "d"]})


def test_global_generators_are_preserved_even_by_an_error():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    expected = float(torch.rand(())), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002

    def interrupted():
        with preserved_rng():
            torch.rand(9), np.random.rand(9), random.random()  # noqa: NPY002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (float(torch.rand(())), np.random.rand(), random.random()) == expected  # noqa: NPY002


class TestNumbers:
    """Half-samples follow the example's number: errors depend on no order, batching or shard."""

    data = blobs(203)

    def errors(self, source, **options):
        model = mlp()
        ends = [{n: t + shift for n, t in model.state_dict().items()} for shift in (0.0, 0.1)]
        J = Objective(model, supervised(F.cross_entropy), source, dtype=torch.float64, **options)
        return evaluate(J, along=Line(*ends), at=[0.0, 0.4, 1.0])

    @pytest.mark.parametrize(
        "loader",
        [
            lambda data: DataLoader(data, batch_size=30),
            lambda data: DataLoader(data, batch_size=17, shuffle=True),
            lambda data: DataLoader(data, batch_size=17, shuffle=True, num_workers=2),
            lambda data: DataLoader(
                data,
                batch_sampler=[
                    list(range(202, 100, -1)),
                    [0, 7],
                    list(range(1, 7)),
                    list(range(8, 101)),
                ],
            ),
            lambda data: DataLoader(data, sampler=list(range(202, -1, -1)), batch_size=50),
            lambda data: data,
        ],
        ids=["in order", "shuffled", "workers", "batch sampler", "backwards", "dataset"],
    )
    def test_a_loader_gives_the_errors_of_the_tensors_behind_it(self, loader):
        by_tensors = self.errors(self.data)
        by_loader = self.errors(loader(TensorDataset(*self.data)))
        for name in ("loss", "loss_stderr", "loss_replicates", "error_replicates"):
            np.testing.assert_allclose(by_loader[name], by_tensors[name], rtol=1e-9, atol=1e-12)

    def test_rounds_of_a_shuffled_loader_are_paired(self):
        """Every round of ``resolve`` reads the examples in another order."""
        model = mlp()
        ends = [{n: t + shift for n, t in model.state_dict().items()} for shift in (-0.4, 0.4)]
        loader = DataLoader(TensorDataset(*self.data), batch_size=20, shuffle=True)
        found = [
            resolve(
                Objective(model, supervised(F.cross_entropy), source, dtype=torch.float64),
                along=Line(*ends),
                tolerance=1e-6,
            )
            for source in (self.data, loader)
        ]
        assert found[1].sizes["alpha"] > 25  # more than one round
        np.testing.assert_allclose(
            found[1]["loss_replicates"], found[0]["loss_replicates"], rtol=1e-8, atol=1e-10
        )

    def test_shards_of_the_data_are_numbered_as_the_whole_is(self):
        data = TensorDataset(*self.data)
        numbers = [
            np.concatenate([batch.examples for batch in Split.of("x", loader).batches(9)])
            for loader in (
                DataLoader(data, sampler=range(0, 203, 2), batch_size=8),
                DataLoader(data, sampler=range(1, 203, 2), batch_size=8),
            )
        ]
        assert sorted(np.concatenate(numbers)) == list(range(203))

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            (blobs(5), [[0, 1], [2, 3], [4]]),
            ([blobs(2), blobs(3)], [[0, 1], [2, 3, 4]]),
            (DataLoader(Stream([range(5)]), batch_size=3), [[0, 1, 2], [3, 4]]),
            (
                DataLoader([blobs(2), blobs(3)], batch_size=None),
                [[0, 1], [2**20 + i for i in range(3)]],
            ),
        ],
    )
    def test_each_kind_of_source(self, source, expected):
        assert numbers_in(source, 2) == expected

    def test_a_stream_is_numbered_by_what_comes_back(self):
        """Seven instances of a bag are one example, and one loss."""
        bags = [(torch.zeros(7, 2), torch.zeros(1)), (torch.zeros(4, 2), torch.zeros(2))]
        assert numbers_in(bags, 2, of=lambda batch: len(batch[1])) == [[0], [1, 2]]

    def test_keys_that_are_no_numbers_get_one_of_their_own(self):
        class Keyed(Dataset):
            def __len__(self):
                return 3

            def __getitem__(self, key):
                return torch.tensor([float(len(key))])

        loader = DataLoader(Keyed(), sampler=["a", "bb", "ccc"], batch_size=2)
        first, second = (
            [b.examples.tolist() for b in Split.of("x", loader).batches(2)] for _ in range(2)
        )
        assert first == second
        assert len({number for batch in first for number in batch}) == 3

    def test_the_callers_loader_is_as_before(self):
        loader = DataLoader(TensorDataset(*self.data), batch_size=20, shuffle=True)
        held = dict(vars(loader))
        list(Split.of("x", loader).batches(1))
        assert vars(loader) == held

    def test_a_loader_with_an_iter_of_its_own_is_numbered_as_it_comes(self):
        class Own(DataLoader):
            def __iter__(self):
                return iter(
                    [tuple(part[:4] for part in blobs(9)), tuple(part[4:] for part in blobs(9))]
                )

        batches = list(Split.of("x", Own(TensorDataset(*blobs(9)), batch_size=5)).batches(1))
        assert [len(batch.content[0]) for batch in batches] == [4, 5]
        assert numbers_in(Own(TensorDataset(*blobs(9)), batch_size=5), 1) == [
            [0, 1, 2, 3],
            [4, 5, 6, 7, 8],
        ]
