"""A random part of the examples: nested, of any order, in whole clusters, equal in strata."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import ravine
from ravine.objective.sampling import drawn

N = 1000
X, Y = torch.ones(N, 1), torch.arange(float(N))[:, None]


def objective(data, **policies):
    loss = policies.pop("loss", ravine.supervised(F.mse_loss))
    return ravine.Objective(nn.Linear(1, 1, bias=False), loss, data, **policies)


def labels_of(J):
    """The targets that a pass gives, in order."""
    return torch.cat([batch.content[1].flatten() for batch in J.splits[0].batches(64)]).numpy()


class TestDrawn:
    @pytest.mark.parametrize("grouped", ["none", "clusters", "strata", "both"])
    def test_larger_parts_hold_smaller_ones(self, grouped):
        clusters = np.arange(N) // 3 if grouped in ("clusters", "both") else None
        strata = np.arange(N) // 300 if grouped in ("strata", "both") else None
        before = np.array([], int)
        for wanted in (1, 7, 50, 333, N):
            now = drawn(N, wanted, 5, clusters, strata)
            assert np.isin(before, now).all()
            assert wanted <= len(now) <= wanted + (2 if clusters is not None else 0)
            assert (np.diff(now) > 0).all()
            before = now

    def test_every_example_is_as_likely(self):
        hits = np.zeros(40)
        for seed in range(2000):
            hits[drawn(40, 10, seed)] += 1
        # 2,000 draws of a quarter: five binomial errors
        assert np.abs(hits - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)

    def test_clusters_are_whole(self):
        clusters = np.random.default_rng(0).integers(0, 60, N)
        part = np.isin(np.arange(N), drawn(N, 100, 1, clusters))
        for one in range(60):
            assert part[clusters == one].all() or not part[clusters == one].any()

    def test_strata_have_equal_shares(self):
        strata = np.sort(np.random.default_rng(0).choice(3, N, p=(0.7, 0.2, 0.1)))
        part = drawn(N, 200, 1, strata=strata)
        share = np.bincount(strata[part]) / np.bincount(strata)
        assert np.abs(share - 0.2).max() < 0.01


class TestSampled:
    def sources(self):
        pairs = TensorDataset(X, Y)
        return {
            "tensors": (X, Y),
            "dataset": pairs,
            "loader": DataLoader(pairs, batch_size=30),
            "shuffled": DataLoader(pairs, batch_size=30, shuffle=True),
        }

    def test_the_same_examples_whatever_the_source(self):
        parts = {
            name: np.sort(labels_of(objective(source).sampled(100)))
            for name, source in self.sources().items()
        }
        for found in parts.values():
            assert len(found) == 100
            np.testing.assert_array_equal(found, parts["tensors"])

    def test_another_seed_draws_others(self):
        one, other = (labels_of(objective((X, Y), seed=seed).sampled(100)) for seed in (0, 1))
        assert len(np.intersect1d(one, other)) < 40

    def test_the_mean_is_of_those_examples(self):
        J = objective((X, Y)).sampled(100)
        expected = float((labels_of(J).astype(float) ** 2).mean())
        assert J({"weight": torch.tensor([[0.0]])})["data"] == pytest.approx(expected, rel=1e-6)

    def test_no_more_than_there_are(self):
        J = objective({"train": (X, Y), "valid": (X[:50], Y[:50])})
        assert [len(split) for split in J.sampled(100).splits] == [100, 50]
        assert [len(split) for split in J.sampled({"train": 5, "valid": 7}).splits] == [5, 7]

    def test_ids_go_with_their_examples(self):
        ids = np.arange(N) // 2
        J = objective((X, Y), clusters=ids, strata=np.arange(N) % 2 * 0).sampled(100)
        line = ravine.Line({"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[9.0]])})
        curve = ravine.evaluate(J, along=line, at=[0.0, 1.0])
        assert curve["n_examples"].item() == 100
        assert curve["n_units"].item() == 50
        labels = labels_of(J).reshape(-1, 2)
        np.testing.assert_array_equal(labels[:, 0] + 1, labels[:, 1])

    def test_what_cannot_be_drawn_is_refused(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(zip(X, Y, strict=True))

        class Squares(Dataset):
            def __len__(self):
                return N

            def __getitem__(self, place):
                return X[place], Y[place]

        assert len(objective(Squares()).sampled(10).splits[0]) == 10
        made = [(X[:500], Y[:500]), (X[500:], Y[500:])]
        for source in (made, DataLoader(Stream(), batch_size=10)):
            with pytest.raises(ravine.InputError, match="cannot be drawn one by one"):
                objective(source).sampled(10)
        weighted = torch.utils.data.WeightedRandomSampler(torch.ones(N), N)
        for loader in (
            DataLoader(Squares(), batch_size=7, drop_last=True),
            DataLoader(Squares(), batch_size=7, sampler=weighted),
            DataLoader(Squares(), batch_size=None),
        ):
            with pytest.raises(ravine.InputError, match="has a sampler or batches of its own"):
                objective(loader, check_data=False).sampled(10)
        with pytest.raises(ravine.InputError, match="clusters must be given as one id per example"):
            objective((X, Y), clusters=lambda batch: batch[1].flatten().long()).sampled(10)
        with pytest.raises(ravine.InputError, match="draws masks batch by batch"):
            objective((X, Y), dropout="fixed").sampled(10)
        with pytest.raises(ravine.InputError, match=r"has the splits \['data'\]; got .*'train'"):
            objective((X, Y)).sampled({"train": 10})
        with pytest.raises(ravine.InputError, match="examples must be a positive integer; got 0"):
            objective((X, Y)).sampled(0)
