"""The affine prefix gives what the plain route gives, on a zoo of models, or keeps out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from oracles import blobs, direct, values
from ravine import Line, Objective, evaluate, supervised
from ravine.objective import affine, engine, tuning

AT = np.linspace(-0.2, 1.3, 7)
CE = supervised(F.cross_entropy)
IMAGES = (torch.randn(37, 2, 6, 6, generator=torch.Generator().manual_seed(0)), blobs(37)[1])
FLAT = blobs(37)
WORDS = (torch.randint(0, 500, (37, 3), generator=torch.Generator().manual_seed(0)), blobs(37)[1])


class Handmade(nn.Module):
    """x @ W.T + b, the weight seen through a view."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return (x - 0.5) / 2 @ self.w.T + self.b


class Reversed(Handmade):
    """W x: the parameter on the left."""

    def forward(self, x):
        return torch.matmul(self.w, x.T).T + self.b


class Addmm(Handmade):
    def forward(self, x):
        return torch.addmm(self.b, x, self.w.t())


class SharedLayer(nn.Module):
    """A layer used on data and on its own output: its weights must be new for the second."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.layer(torch.tanh(self.layer(x))))


class Regularised(nn.Module):
    """The first weight is read by something else too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x) * (1 + self.layer.weight.square().mean())


class Branching(nn.Module):
    """Which layers are used depends on the parameters, so not every point takes the same way."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        return self.a(x) if float(self.b.bias.detach().sum()) > 0 else self.b(x) + self.a(x)


class InPlaceInput(nn.Module):
    """Writes to its own view of the data before the first layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        view = x.view(-1, 6)
        view.mul_(0.5)
        return self.layer(view)


class BothMove(nn.Module):
    """A product of two parameters is not affine."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return x @ (self.a @ self.b)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x):
        return torch.func.functional_call(self.inner, dict(self.inner.named_parameters()), (x,))


class InputGradient(nn.Module):
    """Needs gradients through the first layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            slope = torch.autograd.grad(torch.tanh(self.layer(x)).sum(), x)[0]
        return self.layer(slope)


ZOO = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)
        ),
        FLAT,
        True,
    ),
    "linear": (lambda: nn.Linear(6, 4), FLAT, True),
    "no bias": (
        lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 4)),
        FLAT,
        True,
    ),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(45, 4)
        ),
        IMAGES,
        True,
    ),
    "grouped conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 4)),
        IMAGES,
        True,
    ),
    "flattened images": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), IMAGES, True),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(500, 5), nn.Flatten(), nn.Linear(15, 4)),
        WORDS,
        True,
    ),
    "x @ W.T": (Handmade, FLAT, True),
    "W @ x": (Reversed, FLAT, True),
    "addmm": (Addmm, FLAT, True),
    "shared layer": (SharedLayer, FLAT, True),
    "read twice": (Regularised, FLAT, True),
    "branching": (Branching, FLAT, True),
    "functional call": (Functional, FLAT, True),
    "writes to its input": (InPlaceInput, FLAT, False),
    "both move": (BothMove, FLAT, False),
    "input gradient": (InputGradient, FLAT, False),
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4))),
        FLAT,
        False,
    ),
}


def ends(build):
    torch.manual_seed(0)
    model = build()
    start = copy.deepcopy(model.state_dict())
    end = {n: t + torch.randn_like(t) for n, t in start.items()}
    return model, start, end


@pytest.fixture
def eager_prefix(monkeypatch):
    """Whether it pays or not, the prefix is used where it may be, and its batches are counted."""
    monkeypatch.setattr(affine, "LEAST_DEPTH", 1)
    monkeypatch.setattr(tuning, "_pays", lambda *_: True)
    answered = []
    product = affine.AffinePrefix._product

    def counted(self, func, args, kwargs):
        found = product(self, func, args, kwargs)
        answered.append(found is not None)
        return found

    monkeypatch.setattr(affine.AffinePrefix, "_product", counted)
    return answered


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("batch_size", [10, 1000])
def test_the_zoo_gives_what_the_plain_route_gives(eager_prefix, name, batch_size):
    build, data, applies = ZOO[name]
    model, start, end = ends(build)
    J = Objective(model, CE, data, dtype=torch.float64, batch_size=batch_size)
    curve = evaluate(J, along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), plain(model, start, end, data), rtol=1e-10)
    assert any(eager_prefix) == applies


def plain(model, start, end, data):
    """The curve by explicit parameters; ``direct`` where the inputs are numbers."""
    if data[0].is_floating_point() and not isinstance(model, InputGradient | InPlaceInput):
        return direct(model, start, end, AT, data)
    curve = []
    for alpha in AT:
        there = copy.deepcopy(model).double().eval()
        there.load_state_dict(
            {n: (1 - alpha) * t.double() + alpha * end[n].double() for n, t in start.items()}
        )
        inputs = data[0].double() if data[0].is_floating_point() else data[0]
        curve.append(F.cross_entropy(there(inputs.clone()), data[1]).item())
    return np.array(curve)


def test_the_ends_stay_bitwise(eager_prefix):
    model, start, end = ends(ZOO["mlp"][0])
    curve = evaluate(Objective(model, CE, FLAT), along=Line(start, end), at=[0, 0.5, 1])
    assert any(eager_prefix)
    for state, found in ((start, values(curve)[0]), (end, values(curve)[2])):
        assert Objective(model, CE, FLAT)(state)["data"] == found


@pytest.mark.parametrize("examples", [7, 20])
def test_blocks_and_splits_do_not_mix_their_outputs(eager_prefix, monkeypatch, examples):
    monkeypatch.setattr(engine, "BLOCK_EXAMPLES", examples)
    model, start, end = ends(ZOO["mlp"][0])
    splits = {"a": FLAT, "b": blobs(50, seed=2)}
    curve = evaluate(
        Objective(model, CE, splits, dtype=torch.float64, batch_size=6),
        along=Line(start, end),
        at=AT,
    )
    assert any(eager_prefix)
    for name, data in splits.items():
        np.testing.assert_allclose(
            values(curve, split=name), direct(model, start, end, AT, data), rtol=1e-12
        )


def test_beyond_its_memory_it_keeps_out(eager_prefix, monkeypatch):
    monkeypatch.setattr(tuning, "AFFINE_BYTES", 10 * 8 * 2 * 8 * 2)  # two batches of ten
    model, start, end = ends(ZOO["mlp"][0])
    curve = evaluate(
        Objective(model, CE, FLAT, dtype=torch.float64, batch_size=10),
        along=Line(start, end),
        at=AT,
    )
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, FLAT), rtol=1e-12)
    assert True in eager_prefix
    assert False in eager_prefix


def test_a_frozen_first_layer_is_data():
    model, start, end = ends(ZOO["mlp"][0])
    end = {**end, "1.weight": start["1.weight"]}
    curve = evaluate(Objective(model, CE, FLAT, dtype=torch.float64), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, FLAT), rtol=1e-12)


def test_a_model_that_hides_its_reads_is_measured_by_the_plain_route(eager_prefix):
    """Reading memory behind torch's back gives stale values; the first batch's check sees it."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x):
            return self.layer(x) + self.window.sum()

    torch.manual_seed(0)
    model = Hidden()
    start = copy.deepcopy(model.state_dict())
    end = {n: t + torch.randn_like(t) for n, t in start.items()}

    def per_example(model, batch):
        if not hasattr(model, "window"):
            # shares memory; later reads do not name the parameter
            model.window = model.layer.weight.detach()
        return CE(model, batch)

    curve = evaluate(
        Objective(model, per_example, FLAT, dtype=torch.float64), along=Line(start, end), at=AT
    )
    expected = []
    for alpha in AT:
        weight, bias = ((1 - alpha) * start[n].double() + alpha * end[n].double() for n in start)
        expected.append(
            F.cross_entropy(F.linear(FLAT[0].double(), weight, bias) + weight.sum(), FLAT[1]).item()
        )
    np.testing.assert_allclose(values(curve), expected, rtol=1e-10)


def test_a_prefix_that_fails_gives_way_to_the_plain_route(eager_prefix, monkeypatch):
    def broken(self, func, args, kwargs):
        raise IndexError

    monkeypatch.setattr(affine.AffinePrefix, "_product", broken)
    model, start, end = ends(ZOO["mlp"][0])
    curve = evaluate(Objective(model, CE, FLAT, dtype=torch.float64), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, FLAT), rtol=1e-12)


def test_batches_that_are_written_to_are_given_as_copies():
    x, y = blobs(37)
    before = x.clone()
    model, start, end = ends(InPlaceInput)
    curve = evaluate(Objective(model, CE, (x, y)), along=Line(start, end), at=AT)
    assert torch.equal(x, before)
    np.testing.assert_allclose(values(curve), plain(model, start, end, (x, y)), rtol=1e-5)
