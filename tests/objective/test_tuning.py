"""What the engine measures and chooses: never another number, never a broken model."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from oracles import blobs
from ravine import InputError, Line, Objective, evaluate, supervised
from ravine.objective import tuning
from ravine.objective.replica import Replica


class Convolutions(nn.Module):
    """Two convolutions and a linear layer; ``rigid`` code can do with the usual layout only."""

    def __init__(self, *, rigid=False):
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(128, 5)
        self.rigid = rigid

    def forward(self, x):
        h = self.two(self.one(x).relu())
        return self.out(h.view(len(h), -1) if self.rigid else h.flatten(1))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(2000, 3, 8, 8), torch.randint(5, (2000,))


def walked(model, data, at=21, **options):
    torch.manual_seed(1)
    ends = [
        {name: torch.randn_like(p) * 0.2 for name, p in model.named_parameters()} for _ in range(2)
    ]
    J = Objective(model, supervised(F.cross_entropy), data, **options)
    return evaluate(J, along=Line(*ends), at=np.linspace(0, 1, at))


def clock(monkeypatch, seconds):
    """Passes take what ``seconds(examples, channels_last)`` says."""

    def taken(forward, batch, point):
        return seconds(batch.size, forward.replica.channels_last)

    monkeypatch.setattr(tuning, "_seconds", taken)


class TestBatchSize:
    def test_the_one_that_leaves_no_cache_is_chosen(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-3 + 1e-5 * n * (1 if n <= 128 else 3))
        curve = walked(Convolutions(), images)
        assert curve.attrs["batch_size"] == 128

    def test_a_short_measurement_is_not_delayed(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-8 * n)
        curve = walked(Convolutions(), images)
        assert curve.attrs["batch_size"] == 256

    def test_a_given_one_stays(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-3 + 1e-5 * n)
        curve = walked(Convolutions(), images, batch_size=100)
        assert curve.attrs["batch_size"] == 100

    def test_none_is_chosen_for_a_loss_that_depends_on_it(self, images):
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, 5),
            nn.BatchNorm1d(5, affine=False, track_running_stats=False),
        )
        with pytest.raises(InputError, match="depends on which others are in its batch"):
            walked(model, images)
        assert walked(model, images, batch_size=64).attrs["batch_size"] == 64


class TestLayout:
    def test_channels_last_gives_the_same_curve(self, images, monkeypatch):
        usual = walked(Convolutions(), images, batch_size=100)
        laid = []
        monkeypatch.setattr(
            Replica,
            "lay_out",
            lambda self, *, channels_last, was=Replica.lay_out: (
                laid.append(channels_last),
                was(self, channels_last=channels_last),
            ),
        )
        clock(monkeypatch, lambda n, last: 1e-4 * n * (0.5 if last else 1))
        fast = walked(Convolutions(), images, batch_size=100)
        assert laid == [True]
        np.testing.assert_allclose(fast["loss"], usual["loss"], rtol=2e-6)
        np.testing.assert_array_equal(fast["error"], usual["error"])
        # the probes' tiny changes reach these weights too
        assert float(fast["loss_noise_floor"].min()) > 0

    def test_code_that_cannot_have_it_is_left_alone(self, images, monkeypatch):
        clock(monkeypatch, lambda n, last: 1e-4 * n * (2 if last else 1))
        usual = walked(Convolutions(rigid=True), images, batch_size=100)
        clock(monkeypatch, lambda n, last: 1e-4 * n * (0.5 if last else 1))
        same = walked(Convolutions(rigid=True), images, batch_size=100)
        np.testing.assert_array_equal(same["loss"], usual["loss"])

    def test_no_gain_no_change(self, images, monkeypatch):
        clock(monkeypatch, lambda n, last: 1e-4 * n * (2 if last else 1))
        usual = walked(Convolutions(), images, batch_size=100)
        clock(monkeypatch, lambda n, last: 1e-4 * n)
        same = walked(Convolutions(), images, batch_size=100)
        np.testing.assert_array_equal(same["loss"], usual["loss"])

    def test_the_callers_model_keeps_its_layout(self, images, monkeypatch):
        clock(monkeypatch, lambda n, last: 1e-4 * n * (0.5 if last else 1))
        model = Convolutions()
        strides = {name: p.stride() for name, p in model.named_parameters()}
        walked(model, images, batch_size=100)
        assert {name: p.stride() for name, p in model.named_parameters()} == strides

    def test_a_perturbation_reaches_weights_of_either_layout(self):
        replica = Replica(Convolutions(), torch.float32, torch.device("cpu"))
        zero, one = (
            {n: torch.full_like(p, v) for n, p in replica.params.items()} for v in (1.0, 2.0)
        )
        replica.span([zero, one])
        for last in (False, True):
            replica.lay_out(channels_last=last)
            replica.move_to((0.5, 0.5))
            assert all(bool((p == 1.5).all()) for p in replica.params.values())
            replica.perturb(torch.Generator().manual_seed(0))
            assert all(bool((p != 1.5).any()) for p in replica.params.values())


class TestAgree:
    @pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e9])
    def test_it_is_relative_at_any_scale(self, scale):
        """An absolute tolerance would let anything pass where losses are small."""
        one = scale * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        assert tuning.agree(one * (1 + 1e-4), one)
        assert not tuning.agree(one * 1.01, one)
        assert not tuning.agree(one.flip(0), one)

    def test_rounding_of_small_values_among_large_ones_is_let_pass(self):
        assert tuning.agree(torch.tensor([1.0, 1e-7]), torch.tensor([1.0, 3e-7]))

    def test_shapes_and_what_is_not_finite(self):
        nan, inf = float("nan"), float("inf")
        assert not tuning.agree(torch.ones(3), torch.ones(1))
        assert tuning.agree(torch.tensor([nan, inf, 1.0]), torch.tensor([nan, inf, 1.0]))
        assert not tuning.agree(torch.tensor([nan, 1.0]), torch.tensor([1.0, 1.0]))
        assert tuning.agree(torch.zeros(0), torch.zeros(0))

    def test_small_losses_that_depend_on_their_batch_are_seen(self, images):
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, 5),
            nn.BatchNorm1d(5, affine=False, track_running_stats=False),
        )

        def tiny(model, batch):
            return 1e-7 * F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        torch.manual_seed(1)
        names = dict(model.named_parameters())
        ends = [{n: torch.randn_like(p) for n, p in names.items()} for _ in range(2)]
        with pytest.raises(InputError, match="depends on which others are in its batch"):
            evaluate(Objective(model, tiny, images), along=Line(*ends), at=np.linspace(0, 1, 21))

    def test_a_loss_of_nothing_but_rounding_depends_on_no_batch(self):
        """Residuals of a solution: whether a product of many or few rows leaves 0 or 1e-15."""
        torch.manual_seed(2)
        x, model = torch.randn(64, 50), nn.Linear(50, 3)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        y = (x.double() @ start["weight"].double().T + start["bias"].double()).float()
        line = Line(start, {name: p + 1 for name, p in start.items()})
        per_example = supervised(F.mse_loss)
        curve = evaluate(Objective(model, per_example, (x, y)), along=line, at=[0, 1])
        assert 0 < float(curve["loss"][0, 0]) < 1e-12


class Tables(nn.Module):
    """Scores of the next token by the token: an embedding and a linear layer."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(50, 8), nn.Linear(8, 50)

    def forward(self, ids):
        return self.out(self.table(ids))

    @classmethod
    def at(cls, alpha):
        """A model at a point of ``ENDS``."""
        model = cls()
        model.load_state_dict({n: torch.lerp(p, LAST[n], float(alpha)) for n, p in FIRST.items()})
        return model.requires_grad_(requires_grad=False)


KEPT = weakref.WeakKeyDictionary()


class Keeping(Tables):
    """Keeps the table of its first call where nobody looks for it."""

    def forward(self, ids):
        table = KEPT.setdefault(self, self.table.weight.detach().clone())
        return self.out(table[ids])


class Drawing(Tables):
    """Drops half of its features in evaluation mode too."""

    def forward(self, ids):
        return self.out(F.dropout(self.table(ids), 0.5, training=True))


def next_tokens(model, batch):
    scores = model(batch[0])[:, :-1]
    return F.cross_entropy(scores.flatten(0, 1), batch[0][:, 1:].flatten(), reduction="none")


FIRST, LAST = (
    {
        n: torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        for n, p in Tables().named_parameters()
    }
    for seed in (0, 1)
)
ENDS, AT = Line(FIRST, LAST), np.linspace(0, 1, 5)


@pytest.fixture
def texts():
    """Four of 100 tokens."""
    return (torch.randint(50, (4, 100), generator=torch.Generator().manual_seed(2)),)


class TestBudget:
    """What looking before measuring costs, in evaluations of examples."""

    @staticmethod
    def spent(count, points, source=None, **options):
        seen = []

        def counting(model, batch):
            seen.append(len(batch[1]))
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        torch.manual_seed(0)
        data = torch.randn(count, 6), torch.randint(4, (count,))
        model = nn.Linear(6, 4)
        ends = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(2)]
        J = Objective(model, counting, data if source is None else source(data), **options)
        evaluate(J, along=Line(*ends), at=np.linspace(0, 1, points))
        return sum(seen) - count * points

    @pytest.mark.parametrize(("count", "points"), [(5000, 201), (5000, 21), (1000, 41)])
    def test_at_most_a_twentieth_of_a_measurement_that_is_not_short(self, count, points):
        assert self.spent(count, points, batch_size=256) <= max(0.05 * count * points, 2 * count)

    @pytest.mark.parametrize(("count", "points"), [(300, 5), (100, 5), (60, 3)])
    def test_at_most_two_passes_over_few_examples(self, count, points):
        assert self.spent(count, points, batch_size=64) <= 2.2 * count

    def test_a_few_long_texts_are_looked_at_by_few_passes(self, texts):
        """Two for determinism, two for kept weights, one for the first layer, ten for rounding."""
        seen = []

        def counting(model, batch):
            seen.append(len(batch[0]) * (model.table.weight.dtype == torch.float32))
            return next_tokens(model, batch)

        curve = evaluate(Objective(Tables(), counting, texts, batch_size=1), along=ENDS, at=AT)
        assert sum(seen) / len(texts[0]) <= len(AT) + 16 / 4
        loop = [next_tokens(Tables.at(alpha), texts).double().mean() for alpha in AT]
        np.testing.assert_allclose(curve["loss"].values[:, 0], loop, rtol=1e-6)

    def test_a_pass_that_is_long_leaves_no_batch_size_to_time(self, texts, monkeypatch):
        monkeypatch.setattr(tuning, "_LONG_FORWARD", 0.0)
        monkeypatch.setattr(tuning, "_LONG_CHOICE", 0.0)
        monkeypatch.setattr(tuning, "_timed_batch_sizes", lambda _: pytest.fail("it was timed"))
        J = Objective(Tables(), next_tokens, tuple(part[:2] for part in texts))
        assert evaluate(J, along=ENDS, at=AT).attrs["batch_size"] == 2

    @pytest.mark.parametrize("size", [None, 1, 3])
    def test_few_looks_find_what_many_found(self, texts, size):
        """Weights that are kept from the first point, and a draw that nothing turns off."""
        options = {"batch_size": size}
        with pytest.raises(InputError, match="after a visit to"):
            evaluate(Objective(Keeping(), next_tokens, texts, **options), along=ENDS, at=AT)
        with pytest.raises(InputError, match="is random"):
            evaluate(Objective(Drawing(), next_tokens, texts, **options), along=ENDS, at=AT)

    @pytest.mark.parametrize("size", [None, 1, 3])
    @pytest.mark.parametrize("empty", [0, 1], ids=["each place has a value", "the last has none"])
    def test_few_looks_find_what_cancels(self, texts, size, empty):
        def cancelling(model, batch):
            rows = (next_tokens(model, batch) + 1e4) - 1e4
            return F.pad(rows.reshape(len(batch[0]), -1), (0, empty), value=float("nan"))

        J = Objective(Tables(), cancelling, texts, batch_size=size)
        found = evaluate(J, along=ENDS, at=AT)
        exact = Objective(Tables(), next_tokens, texts, dtype=torch.float64)
        error = found["loss"] - evaluate(exact, along=ENDS, at=AT)["loss"]
        assert (abs(error) <= 2 * found["loss_noise_floor"]).all()
        assert float(abs(error).max()) > 1e-6

    def test_a_loaders_large_batches_are_cut(self):
        from torch.utils.data import DataLoader, TensorDataset

        def loader(data):
            return DataLoader(TensorDataset(*data), batch_size=300)

        assert self.spent(300, 5, loader) <= 2.2 * 300

    def test_a_batch_that_must_stay_whole_does(self):
        """A function that needs all of its batch is given all of it, in the trials too."""
        whole = [tuple(part[i : i + 50] for part in blobs(150)) for i in range(0, 150, 50)]

        def needs_fifty(model, batch):
            if len(batch[1]) != 50:
                raise RuntimeError("fifty or nothing")
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        model = nn.Linear(6, 4)
        ends = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(2)]
        J = Objective(model, needs_fifty, whole)
        assert evaluate(J, along=Line(*ends), at=[0, 0.3, 1])["n_examples"] == 150


class TestPlan:
    def test_groups_cover_the_points_in_order(self):
        groups = tuning.Plan(batch_size=1, group=4).groups(10)
        assert [list(group) for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    def test_it_is_frozen(self):
        with pytest.raises(AttributeError):
            tuning.Plan(batch_size=1).batch_size = 2  # pyright: ignore[reportAttributeAccessIssue]

    def test_an_embedding_that_is_tied_is_not_watched(self):
        """Looking at every call pays only where it spares something."""
        tied = nn.Sequential(nn.Embedding(5000, 8), nn.Linear(8, 5000, bias=False))
        tied[1].weight = tied[0].weight
        ids = torch.randint(0, 5000, (40,))
        J = Objective(tied, supervised(F.cross_entropy), (ids, ids))
        ends = [{"0.weight": torch.randn(5000, 8)} for _ in range(2)]
        measured = J.measure(
            [Line(*ends).start, Line(*ends).end], [(1 - a, a) for a in np.linspace(0, 1, 9)]
        )
        assert measured.plans["data"].affine is None

    @pytest.mark.parametrize(("batch_size", "spared"), [(2000, {"0.weight", "0.bias"}), (20, None)])
    def test_a_wide_first_layer_is_spared_where_batches_are_large(self, batch_size, spared):
        model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 4))
        data = torch.randn(2000, 784), torch.randint(4, (2000,))
        J = Objective(model, supervised(F.cross_entropy), data, batch_size=batch_size)
        ends = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(2)]
        measured = J.measure(Line(*ends).corners, [(1 - a, a) for a in np.linspace(0, 1, 9)])
        assert measured.plans["data"].affine == spared
