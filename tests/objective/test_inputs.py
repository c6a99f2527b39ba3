"""Batches of any make, and models that keep something of their weights: right, or refused.

Kinds, and the siblings tried:
- layouts of a batch: tuple, dict, named tuple, dataclass, plain object, nested list, PIL-like
  image, sparse (COO, CSR), jagged, packed sequence, ragged array; what cannot be read (a generator)
  is named;
- how many examples there are: one bag, one graph, a list of images, a list of examples;
- recompute: one image a batch, lists, objects, one value a channel, all of them so;
- streams: endless by repetition, cut to a length, finite;
- state made of weights: in eval(), at the first call, in a dict, an object or a buffer, by the
  caller's earlier use;
- what the caller has around a measurement: inference mode, another device, another dtype, kept
  parametrisations.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
import warnings
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from oracles import blobs, mlp
from ravine import InputError, Line, Objective, average, evaluate, supervised
from ravine.objective.batches import Batch, map_tensors, rows_of
from ravine.objective.fingerprint import Fingerprint

DATA = blobs(43)


class Named(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Data:
    x: torch.Tensor
    y: torch.Tensor


class Plain:
    def __init__(self, x, y):
        self.x, self.y = x, y


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


class Mapped(dict):
    pass


LAYOUTS: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda x, y: (x, y), tuple),
    "dict": (lambda x, y: {"x": x, "y": y, 3: "kept"}, lambda q: (q["x"], q["y"])),
    "dict of one's own": (lambda x, y: Mapped(x=x, y=y), lambda q: (q["x"], q["y"])),
    "named": (Named, tuple),
    "dataclass": (Data, lambda q: (q.x, q.y)),
    "object": (Plain, lambda q: (q.x, q.y)),
    "slots": (Slotted, lambda q: (q.x, q.y)),
    "nested": (lambda x, y: [{"in": Data(x, y)}], lambda q: (q[0]["in"].x, q[0]["in"].y)),
    "examples": (
        lambda x, y: list(zip(x, y, strict=True)),
        lambda q: (torch.stack([e[0] for e in q]), torch.stack([e[1] for e in q])),
    ),
}


def cut(data, sizes):
    """Batches of these sizes, until the data end."""
    first, parts = 0, []
    for size in sizes:
        parts.append(tuple(part[first : first + size] for part in data))
        first += size
    return [part for part in parts if len(part[0])]


def shifted(model, by):
    return {n: t + by if t.is_floating_point() else t for n, t in model.state_dict().items()}


def naive(model, state, batches, loss):
    """The mean over all values, batch after batch, in float64."""
    model = copy.deepcopy(model).double().train()
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        return torch.cat([loss(model, batch).flatten() for batch in batches]).mean().item()


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y, reduction="none")


class TestLayouts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("check", [True, False])
    def test_every_layout_gives_the_mean_of_a_loop(self, layout, check):
        make, parts = LAYOUTS[layout]
        batches = cut(DATA, [10, 20, 1, 12])
        model, state = mlp(), shifted(mlp(), 0.05)
        J = Objective(
            model,
            lambda m, q: cross_entropy(m, *parts(q)),
            [make(*batch) for batch in batches],
            dtype=torch.float64,
            check_data=check,
        )
        right = naive(model, state, batches, lambda m, q: cross_entropy(m, *q))
        assert J(state)["data"] == pytest.approx(right, rel=1e-9)

    @pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "nested"])
    def test_the_order_of_examples_does_not_change_their_fingerprint(self, layout):
        make, _ = LAYOUTS[layout]
        order = torch.randperm(43, generator=torch.Generator().manual_seed(0))
        turned = tuple(part[order] for part in DATA)
        whole = Fingerprint().add(make(*DATA))
        parts = Fingerprint()
        for batch in cut(turned, [10, 33]):
            parts.add(make(*batch))
        assert whole == parts
        assert whole != Fingerprint().add(make(DATA[0] + 1e-6, DATA[1]))

    def test_the_callers_objects_stay_as_they_are(self):
        held = Plain(*DATA)
        moved = map_tensors(lambda tensor: tensor * 2, held)
        assert type(moved) is Plain
        assert torch.equal(held.x, DATA[0])
        assert torch.equal(moved.x, 2 * DATA[0])

    def test_random_examples_inside_an_object_are_seen(self):
        class Noisy:
            def __iter__(self):
                yield Plain(torch.rand(5, 6), torch.zeros(5, dtype=torch.long))

        J = Objective(mlp(), lambda m, q: cross_entropy(m, q.x, q.y), Noisy())
        with pytest.raises(InputError, match="not the same"):
            J(mlp())

    def test_what_cannot_be_read_is_named(self):
        batches = [{"x": DATA[0], "y": DATA[1], "more": (n for n in range(3))}]
        options = dict(dtype=torch.float64)
        J = Objective(mlp(), lambda m, q: cross_entropy(m, q["x"], q["y"]), batches, **options)
        with pytest.raises(InputError, match="type generator.*check_data=False"):
            J(mlp())
        J = Objective(
            mlp(),
            lambda m, q: cross_entropy(m, q["x"], q["y"]),
            batches,
            check_data=False,
            **options,
        )
        right = naive(mlp(), mlp().state_dict(), [DATA], lambda m, q: cross_entropy(m, *q))
        assert J(mlp())["data"] == pytest.approx(right, rel=1e-9)

    def test_a_batch_that_contains_itself_is_refused(self):
        around: list[Any] = [DATA[0]]
        around.append(around)
        with pytest.raises(InputError, match="contains itself"):
            rows_of(around)

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
    @pytest.mark.parametrize("form", ["dense", "coo", "csr"])
    def test_sparse_inputs(self, form):
        generator = torch.Generator().manual_seed(1)
        links = (torch.rand(43, 43, generator=generator) > 0.9).float()
        made = {"dense": links, "coo": links.to_sparse(), "csr": links.to_sparse_csr()}[form]
        layer = nn.Linear(6, 4)

        def per_example(model, q):
            return F.cross_entropy(q[0] @ model(q[1]), q[2], reduction="none")

        found = Objective(layer, per_example, [(made, *DATA)], dtype=torch.float64)(layer)["data"]
        wide = copy.deepcopy(layer).double()
        right = F.cross_entropy(links.double() @ wide(DATA[0].double()), DATA[1]).item()
        assert found == pytest.approx(right, rel=1e-9)

    @pytest.mark.parametrize("form", ["packed", "jagged", "ragged"])
    def test_sequences_of_several_lengths(self, form):
        rows = [DATA[0][:3], DATA[0][3:8], DATA[0][8:10]]
        ragged = np.empty(3, dtype=object)
        ragged[:] = [row.numpy() for row in rows]
        made = {
            "packed": lambda: pack_sequence(rows, enforce_sorted=False),
            "jagged": lambda: torch.nested.nested_tensor(rows, layout=torch.jagged),
            "ragged": lambda: ragged,
        }[form]()
        layer = nn.Linear(6, 4)

        def each(q):
            if isinstance(q, PackedSequence):
                return torch.nn.utils.rnn.unpack_sequence(q)
            return q.unbind() if isinstance(q, torch.Tensor) else map(torch.from_numpy, q)

        def per_example(model, q):
            pooled = [model(row.to(model.weight)).mean(0) for row in each(q[0])]
            return F.cross_entropy(torch.stack(pooled), q[1], reduction="none")

        J = Objective(layer, per_example, [(made, DATA[1][:3])], dtype=torch.float64)
        right = per_example(copy.deepcopy(layer).double(), (ragged, DATA[1][:3])).mean().item()
        assert J(layer)["data"] == pytest.approx(right, rel=1e-9)


class TestCounts:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ((torch.zeros(5, 2), torch.zeros(5)), (5, True)),
            ((torch.zeros(7, 2), torch.zeros(1)), (7, False)),
            ({"text": ["a", "b", "c"]}, (3, True)),
            (([torch.zeros(3, 8)] * 2, [{"boxes": torch.zeros(4, 4)}] * 2), (2, True)),
            ([("a", 1), ("b", 2), ("c", 3)], (3, True)),
            ({"x": torch.zeros(4, 2), "size": 7, "name": "graph"}, (4, True)),
        ],
    )
    def test_what_is_written_on_a_batch(self, content, expected):
        assert rows_of(content) == expected

    def test_one_bag_is_one_example(self):
        bags = [
            (DATA[0][:7], DATA[1][:1]),
            (DATA[0][7:20], DATA[1][1:2]),
            (DATA[0][20:], DATA[1][2:3]),
        ]

        def loss(model, q):
            pooled = model(q[0].to(model.weight)).mean(0, keepdim=True)
            return F.cross_entropy(pooled, q[1], reduction="none")

        layer = nn.Linear(6, 4)
        ends = [shifted(layer, 0.0), shifted(layer, 0.3)]
        curve = evaluate(
            Objective(layer, loss, bags, dtype=torch.float64), along=Line(*ends), at=[0, 1]
        )
        right = [naive(layer, end, bags, loss) for end in ends]
        np.testing.assert_allclose(curve["loss"].values.ravel(), right, rtol=1e-9)
        assert int(curve["n_examples"].values.ravel()[0]) == 3

    def test_one_number_for_a_batch_of_several_is_no_loss_of_each(self):
        J = Objective(mlp(), lambda m, q: cross_entropy(m, *q).mean()[None], [DATA])
        with pytest.raises(InputError, match="one value per example"):
            J(mlp())

    def test_clusters_of_bags_are_one_id_a_bag(self):
        bags = [(DATA[0][:7], DATA[1][:1]), (DATA[0][7:20], DATA[1][1:2])]

        def loss(model, q):
            return F.cross_entropy(model(q[0]).mean(0, keepdim=True), q[1], reduction="none")

        assert Objective(nn.Linear(6, 4), loss, bags, clusters=[0, 1])(nn.Linear(6, 4))["data"] > 0
        for wrong in ([0], [0, 1, 2]):
            with pytest.raises(InputError, match="ids"):
                Objective(nn.Linear(6, 4), loss, bags, clusters=wrong)(nn.Linear(6, 4))

    def test_positions_without_a_value_are_no_zeros(self):
        holes = torch.tensor([[False, True], [False, False], [True, True]])

        def per_example(model, q):
            values = (model.weight * q[0]).expand(3, 2)
            return torch.where(holes, torch.nan, values)

        layer = nn.Linear(1, 1, bias=False)
        curve = evaluate(
            Objective(layer, per_example, [(torch.tensor([[1.0], [2.0], [9.0]]),)]),
            along=Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}),
            at=[0, 1],
        )
        np.testing.assert_allclose(curve["loss"].values.ravel(), [0, 5 / 3], rtol=1e-6)
        assert int(curve["n_examples"].values.ravel()[0]) == 3


def updated(model, batches, call):
    """``update_bn`` in float64, batches weighted by what the layer was given."""
    model = copy.deepcopy(model).double().train()
    norm = next(m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    norm.reset_running_stats()
    seen = 0
    with torch.no_grad():
        for batch in batches:
            seen += len(batch[0])
            norm.momentum = len(batch[0]) / seen
            call(model, batch)
    return model.eval()


class TestRecompute:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout(self, layout):
        make, parts = LAYOUTS[layout]
        model, batches = mlp(norm=True), cut(DATA, [10, 20, 13])
        J = Objective(
            model,
            lambda m, q: cross_entropy(m, *parts(q)),
            [make(*batch) for batch in batches],
            buffers="recompute",
            dtype=torch.float64,
        )
        wide = updated(model, batches, lambda m, q: m(q[0].double()))
        with torch.no_grad():
            right = F.cross_entropy(wide(DATA[0].double()), DATA[1]).item()
        assert J(model)["data"] == pytest.approx(right, rel=1e-9)

    def test_one_image_a_batch_counts(self):
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
        generator = torch.Generator().manual_seed(0)
        images = [(torch.randn(1, 1, 6 + n, 7, generator=generator) * 3 + 1,) for n in range(4)]

        def loss(m, q):
            return m(q[0]).square().mean((1, 2, 3))

        J = Objective(model, loss, images, buffers="recompute", dtype=torch.float64)
        wide = updated(model, images, lambda m, q: m(q[0].double()))
        right = torch.cat([loss(wide, (q[0].double(),)) for q in images]).mean().item()
        assert J(model)["data"] == pytest.approx(right, rel=1e-9)

    def test_a_batch_of_one_value_is_left_out_and_said(self):
        model, batches = mlp(norm=True), cut(DATA, [20, 1, 22])
        ends = [shifted(model, 0.0), shifted(model, 0.1)]
        J = Objective(model, supervised(F.cross_entropy), batches, buffers="recompute")
        curve = evaluate(J, along=Line(*ends), at=[0, 0.5, 1])
        assert curve.attrs["statistics_from"] == "2 batches of 20 to 22; 1 of one value left out"
        without = updated(model, [batches[0], batches[2]], lambda m, q: m(q[0].double()))
        right = F.cross_entropy(without(DATA[0].double()), DATA[1]).item()
        assert curve["loss"].values[0, 0] == pytest.approx(right, rel=1e-5)

    def test_no_batch_with_a_variance_is_refused(self):
        batches = cut(DATA, [1] * 5)
        J = Objective(mlp(norm=True), supervised(F.cross_entropy), batches, buffers="recompute")
        with pytest.raises(InputError, match="no variance.*larger batches"):
            J(mlp(norm=True))


class Repeating(IterableDataset):
    def __init__(self, times=None):
        self.times = times

    def __iter__(self):
        count = 0
        while self.times is None or count < self.times:
            yield from zip(*DATA, strict=True)
            count += 1


class TestStreams:
    def test_an_endless_one_is_asked_for_a_length(self):
        loader = DataLoader(Repeating(), batch_size=43)
        for check in (True, False):
            J = Objective(mlp(), supervised(F.cross_entropy), loader, check_data=check)
            with pytest.raises(InputError, match=r"same 43 examples 64 times.*examples=10_000"):
                J(mlp())

    def test_a_length_is_kept_to_the_example(self):
        loader = DataLoader(Repeating(), batch_size=10)
        J = Objective(mlp(), supervised(F.cross_entropy), loader, examples=43, dtype=torch.float64)
        right = naive(mlp(), mlp().state_dict(), [DATA], lambda m, q: cross_entropy(m, *q))
        assert J(mlp())["data"] == pytest.approx(right, rel=1e-9)

    def test_a_finite_one_is_read_whole(self):
        J = Objective(mlp(), supervised(F.cross_entropy), DataLoader(Repeating(3), batch_size=10))
        right = naive(mlp(), mlp().state_dict(), [DATA], lambda m, q: cross_entropy(m, *q))
        assert J(mlp())["data"] == pytest.approx(right, rel=1e-5)

    def test_texts_of_several_lengths_want_a_collate_function(self):
        class Texts(Dataset):
            def __len__(self):
                return 5

            def __getitem__(self, index):
                return torch.zeros(index + 1, dtype=torch.long)

        with pytest.raises(InputError, match="DataLoader with your own collate_fn"):
            Objective(mlp(), lambda m, q: q.sum(1), Texts())(mlp())


class Merging(nn.Linear):
    """As loralib does: evaluation mode adds the update to the weight."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs))
        self.up = nn.Parameter(torch.randn(outputs, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up @ self.down
            self.merged = not mode
        return self

    def forward(self, x):
        update = 0 if self.merged else x @ self.down.t() @ self.up.t()
        return F.linear(x, self.weight, self.bias) + update


class Filtered(nn.Linear):
    """As equivariant layers do: evaluation mode keeps the expanded weight."""

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self._buffers.pop("filter", None)
        else:
            self.register_buffer("filter", self.weight.detach().tanh())
        return self

    def forward(self, x):
        return F.linear(x, self.weight.tanh() if self.training else self.filter, self.bias)


class Cell:
    kept = None


class Keeping(nn.Linear):
    """Keeps what it made at the first call, in an attribute, a dict or an object."""

    def __init__(self, inputs, outputs, place="attribute"):
        super().__init__(inputs, outputs)
        self.place, self.kept, self.memo, self.cell = place, None, {}, Cell()

    def forward(self, x):
        made = {"attribute": self.kept, "dict": self.memo.get("kept"), "object": self.cell.kept}
        weight = made[self.place]
        if weight is None or self.training:
            weight = self.weight.tanh()
            if self.place == "attribute":
                self.kept = weight
            elif self.place == "dict":
                self.memo["kept"] = weight
            else:
                self.cell.kept = weight
        return F.linear(x, weight, self.bias)


def with_layer(layer, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(layer(6, 8), nn.Tanh(), nn.Linear(8, 4))


KEEPERS = {
    "merged in eval()": Merging,
    "filter of eval()": Filtered,
    "attribute": Keeping,
    "dict": lambda *sizes: Keeping(*sizes, place="dict"),
    "object": lambda *sizes: Keeping(*sizes, place="object"),
    "weight norm": lambda *sizes: parametrizations.weight_norm(nn.Linear(*sizes)),
}


class TestState:
    def curve(self, model, ends, **options):
        J = Objective(model, supervised(F.cross_entropy), DATA, dtype=torch.float64, **options)
        return evaluate(J, along=Line(*ends), at=[0, 0.5, 1])["loss"].values.ravel()

    @pytest.mark.parametrize("kind", KEEPERS)
    def test_what_is_made_of_weights_is_made_at_every_point(self, kind):
        layer = KEEPERS[kind]
        with torch.random.fork_rng():
            ends = [with_layer(layer, seed).state_dict() for seed in (1, 2)]
            model = with_layer(layer, 3)
        middle = {n: (t + ends[1][n]) / 2 for n, t in ends[0].items()}
        right = [
            naive(model, state, [DATA], lambda m, q: cross_entropy(m, *q))
            for state in (ends[0], middle, ends[1])
        ]
        np.testing.assert_allclose(self.curve(model, ends), right, rtol=1e-6)

    def test_what_cannot_be_given_back_is_refused(self):
        class Elsewhere(nn.Linear):
            """Keeps what it made in a dict that belongs to no model."""

            def forward(self, x):
                return F.linear(x, kept.setdefault(self, self.weight.tanh()), self.bias)

        kept = weakref.WeakKeyDictionary()
        with torch.random.fork_rng():
            ends = [with_layer(Elsewhere, seed).state_dict() for seed in (1, 2)]
            model = with_layer(Elsewhere)
        with pytest.raises(InputError, match="made of other weights"):
            self.curve(model, ends)

    def test_what_the_callers_own_use_left_behind_is_refused_by_name(self):
        with torch.random.fork_rng():
            model = with_layer(Keeping).eval()
            with torch.no_grad():
                model(DATA[0])
        with pytest.raises(InputError, match=r"keeps '0\.kept', which training mode"):
            Objective(model, supervised(F.cross_entropy), DATA)(shifted(model, 0.1))

    def test_a_model_that_is_merged_already_is_refused(self):
        with torch.random.fork_rng():
            model = with_layer(Merging)
        state = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match="evaluation mode changes the model's parameters"):
            Objective(model.eval(), supervised(F.cross_entropy), DATA)(state)

    def test_parametrisations_that_the_caller_keeps_do_not_reach_the_points(self):
        with torch.random.fork_rng():
            layer = KEEPERS["weight norm"]
            ends = [with_layer(layer, seed).state_dict() for seed in (1, 2)]
            model = with_layer(layer, 3)
        plain = self.curve(model, ends)
        with parametrize.cached():
            assert np.array_equal(self.curve(model, ends), plain)

    def test_an_average_has_statistics_for_a_policy_that_wants_them(self):
        models = [mlp(seed, norm=True) for seed in (0, 1)]
        models[1][1].running_mean += 1
        J = Objective(models[0], supervised(F.cross_entropy), DATA, buffers="interpolate")
        states = [model.state_dict() for model in models]
        middle = evaluate(J, along=Line(*states), at=[0.5])["loss"].values.ravel()
        assert J(average(states))["data"] == pytest.approx(middle[0], rel=1e-6)


class Interrupt:
    """Raises at a line of the leaving of a mode, as Ctrl-C may; then no more."""

    def __init__(self, number):
        self.countdown = number

    def __call__(self, frame, event, argument):
        code = frame.f_code
        leaves = code.co_name == "__exit__" and "contextlib" not in code.co_filename
        if not leaves or self.countdown < 0:
            return None
        if event in ("call", "line"):
            self.countdown -= 1
            if self.countdown < 0:
                raise KeyboardInterrupt
        return self


def surroundings():
    """What a measurement may have left changed."""
    modes = (
        torch._C._len_torch_function_stack(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )
    switches = torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")
    generators = (
        torch.get_rng_state().numpy().tobytes(),
        str(np.random.get_state()),  # noqa: NPY002  what a caller's code draws from
        random.getstate(),
    )
    return *modes, *switches, *generators, list(warnings.filters)


class TestSurroundings:
    @pytest.mark.parametrize("around", ["inference", "meta", "float64"])
    def test_what_the_caller_has_on_changes_nothing(self, around):
        J = Objective(mlp(), supervised(F.cross_entropy), DATA)
        state = shifted(mlp(), 0.1)
        plain = J(state)
        if around == "float64":
            torch.set_default_dtype(torch.float64)
            try:
                assert J(state) == plain
            finally:
                torch.set_default_dtype(torch.float32)
            return
        with torch.inference_mode() if around == "inference" else torch.device("meta"):
            assert J(state) == plain

    @pytest.mark.parametrize("number", range(0, 30, 3))
    def test_an_interrupt_while_a_mode_is_taken_off_leaves_none(self, number):
        J = Objective(mlp(dropout=0.5), supervised(F.cross_entropy), DATA, dropout="fixed")
        left = Interrupt(number)
        before = surroundings()
        J(state := shifted(mlp(dropout=0.5), 0.1))
        sys.settrace(left)
        try:
            J(state)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert surroundings() == before
        assert left.countdown < 0  # it came

    def test_a_lazy_layer_is_refused_until_it_has_a_shape(self):
        with pytest.raises(InputError, match="run the model on one batch first"):
            Objective(nn.Sequential(nn.LazyLinear(3)), supervised(F.mse_loss), DATA)

    def test_a_value_that_only_the_meta_device_has_is_refused(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = mlp()
                self.register_buffer("scale", torch.ones(1), persistent=False)

            def forward(self, x):
                return self.net(x * self.scale)

        state = Scaled().state_dict()
        model = Scaled().to("meta")
        with pytest.raises(InputError, match="'scale' has no value"):
            Objective(model, supervised(F.cross_entropy), DATA)(state)

    @pytest.mark.parametrize("way", ["vmap", "grad", "jvp"])
    def test_functions_that_transform_the_model(self, way):
        from torch.func import grad, jvp, vmap

        ways = {
            "vmap": lambda m, q: vmap(lambda x: m(x[None]).square().sum())(q[0]),
            "grad": lambda m, q: vmap(grad(lambda x: m(x[None])[0, 0]))(q[0]).square().sum(1),
            "jvp": lambda m, q: jvp(m, (q[0],), (torch.ones_like(q[0]),))[1].square().sum(1),
        }
        found = Objective(mlp(), ways[way], DATA, dtype=torch.float64)(mlp())["data"]
        right = (
            ways[way](mlp().double().requires_grad_(False), (DATA[0].double(), DATA[1]))
            .mean()
            .item()
        )
        assert found == pytest.approx(right, rel=1e-9)


@st.composite
def problems(draw):
    """A model, a layout and batches of random sizes."""
    return (
        draw(st.sampled_from([None, *KEEPERS])),
        draw(st.sampled_from(list(LAYOUTS))),
        draw(st.lists(st.integers(1, 20), min_size=1, max_size=6)),
        draw(st.integers(0, 1000)),
        draw(st.sampled_from([0.0, 0.3, 1.0])),
    )


def agrees_with_a_loop(problem) -> None:
    kind, layout, sizes, seed, alpha = problem
    make, parts = LAYOUTS[layout]
    layer = nn.Linear if kind is None else KEEPERS[kind]
    with torch.random.fork_rng():
        start, end = (with_layer(layer, seed + n).state_dict() for n in (0, 1))
        model = with_layer(layer, seed + 2)
    batches = cut(DATA, sizes)
    J = Objective(
        model,
        lambda m, q: cross_entropy(m, *parts(q)),
        [make(*batch) for batch in batches],
        dtype=torch.float64,
    )
    state = {n: (1 - alpha) * t.double() + alpha * end[n].double() for n, t in start.items()}
    found = evaluate(J, along=Line(start, end), at=[0.7, alpha])["loss"].sel(alpha=alpha).item()
    right = naive(model, state, batches, lambda m, q: cross_entropy(m, *q))
    assert found == pytest.approx(right, rel=1e-6)


QUIET = dict(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@settings(max_examples=12, **QUIET)
@given(problems())
def test_models_batches_and_layouts_at_random(problem):
    agrees_with_a_loop(problem)


@pytest.mark.calibration
@settings(max_examples=1000, **QUIET)
@given(problems())
def test_a_thousand_models_batches_and_layouts_at_random(problem):
    agrees_with_a_loop(problem)


SOFT = (DATA[0], torch.softmax(torch.randn(43, 4, generator=torch.Generator().manual_seed(1)), 1))

#: A criterion, its data, and whether the model's outputs go through a logarithm first.
CRITERIA = {
    "classes": (nn.CrossEntropyLoss(), DATA, False),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), DATA, False),
    "soft classes": (nn.CrossEntropyLoss(), SOFT, False),
    "log-likelihood": (nn.NLLLoss(), DATA, True),
    "margin": (nn.MultiMarginLoss(p=2, margin=0.7), DATA, False),
    "squares": (nn.MSELoss(), SOFT, False),
    "Huber": (nn.HuberLoss(delta=0.3), SOFT, False),
    "binary": (nn.BCEWithLogitsLoss(), SOFT, False),
    "Kullback-Leibler": (nn.KLDivLoss(reduction="batchmean"), SOFT, True),
    "Poisson": (nn.PoissonNLLLoss(), SOFT, False),
}


class LogSoftmax(nn.Module):
    """A network whose outputs are logarithms of probabilities."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return F.log_softmax(self.net(x), 1)


@st.composite
def policies(draw):
    """A criterion, a policy for running statistics, dropout, batches and a place on the line."""
    return (
        draw(st.sampled_from(list(CRITERIA))),
        draw(st.sampled_from([None, "start", "end", "interpolate", "recompute"])),
        draw(st.sampled_from([0.0, 0.5])),
        draw(st.integers(1, 43)),
        draw(st.integers(0, 1000)),
        draw(st.sampled_from([0.0, 0.3, 1.0])),
    )


def with_buffers_of(policy, model, start, end, alpha, inputs):
    """The state between two states, statistics by a policy; all inputs in one batch."""
    state = {}
    for name, tensor in start.items():
        other = end[name]
        if not tensor.is_floating_point():
            state[name] = tensor
        elif policy in ("start", "end") and "running" in name:
            state[name] = (tensor if policy == "start" else other).double()
        else:
            state[name] = (1 - alpha) * tensor.double() + alpha * other.double()
    if policy == "recompute":
        moved = copy.deepcopy(model).double()
        moved.load_state_dict(state)
        hidden = [m for m in moved.modules() if isinstance(m, nn.Linear)][0](inputs.double())
        name = next(n for n in state if "running_mean" in n)
        state[name] = hidden.mean(0).detach()
        state[name.replace("mean", "var")] = hidden.var(0).detach()
    return state


def policies_agree_with_a_loop(drawn) -> None:
    kind, policy, dropout, size, seed, alpha = drawn
    criterion, data, logarithm = CRITERIA[kind]
    models = [mlp(seed + n, norm=policy is not None, dropout=dropout) for n in (0, 1, 2)]
    if policy is not None:
        for n, model in enumerate(models):
            with torch.random.fork_rng():
                torch.manual_seed(seed + n)
                model[1].running_mean.normal_()
                model[1].running_var.uniform_(0.5, 2)
    if logarithm:
        models = [LogSoftmax(model) for model in models]
    model, start, end = models[2], models[0].state_dict(), models[1].state_dict()
    J = Objective(
        model,
        supervised(criterion),
        data,
        dtype=torch.float64,
        buffers=policy,
        batch_size=len(data[0]) if policy == "recompute" else size,
    )
    at = [alpha, 0.7]
    found = evaluate(J, along=Line(start, end), at=at)["loss"].sel(alpha=alpha).item()
    exact = copy.deepcopy(model).double()
    exact.load_state_dict(with_buffers_of(policy, model, start, end, alpha, data[0]))
    targets = data[1].double() if data[1].is_floating_point() else data[1]
    with torch.no_grad():
        right = criterion(exact.eval()(data[0].double()), targets).item()
    assert found == pytest.approx(right, rel=1e-6, abs=1e-9)


@settings(max_examples=12, **QUIET)
@given(policies())
def test_losses_and_policies_at_random(drawn):
    policies_agree_with_a_loop(drawn)


@pytest.mark.calibration
@settings(max_examples=1000, **QUIET)
@given(policies())
def test_a_thousand_losses_and_policies_at_random(drawn):
    policies_agree_with_a_loop(drawn)


def test_batches_say_what_they_weigh():
    images = [torch.zeros(3, 8, dtype=torch.uint8)] * 2
    assert Batch(0, (images, Plain(torch.zeros(4), "abc"))).nbytes == 2 * 24 + 16 + 3
