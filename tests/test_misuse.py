"""What was used before, edited since, or is another thing than was asked for: right, or refused."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oracles import blobs, direct, mlp, values
from ravine import (
    InputError,
    Line,
    Objective,
    Plane,
    average,
    causal_lm,
    cli,
    compare,
    evaluate,
    load_objective,
    metrics,
    resolve,
    supervised,
    task_arithmetic,
)

AT = [0.0, 0.5, 1.0]
CE = supervised(F.cross_entropy)
DATA = blobs()


class Helper:
    """An object that is no module, and may keep another."""

    def __init__(self, helper=None):
        self.kept, self.helper = None, helper


class Kept(nn.Module):
    """Keeps what it makes at the first call: of its weights, of its input, or at random."""

    def __init__(self, of, place):
        super().__init__()
        self.a, self.b, self.of, self.place = nn.Linear(6, 6), nn.Linear(6, 4), of, place
        self.kept, self.memo, self.listed = None, {}, []
        self.nested = {"filters": [None, 1.0]}
        self.helpers = {"object": Helper(), "inner object": Helper(Helper())}

    def made(self, x):
        if self.of == "weights":
            return self.a.weight.detach().tanh()
        return torch.ones(6, 6, dtype=x.dtype) if self.of == "shape" else torch.randn(6, 6).to(x)

    def forward(self, x):
        if self.place == "none":
            self.kept = self.made(x) if self.kept is None else self.kept
        elif self.place == "lacking":
            self.kept = vars(self).get("kept")
            if self.kept is None:
                self.kept = self.made(x)
        elif self.place == "list":
            if not self.listed:
                self.listed.append(self.made(x))
        elif self.place == "nested":
            filters = self.nested["filters"]
            filters[0] = self.made(x) if filters[0] is None else filters[0]
            self.kept = filters[0]
        elif "object" in self.place:
            helper = self.helpers[self.place]
            helper = helper.helper or helper
            helper.kept = self.made(x) if helper.kept is None else helper.kept
            self.kept = helper.kept
        elif len(x) not in self.memo:
            self.memo[len(x)] = self.made(x)
        held = {"list": self.listed[:1], "dict": [self.memo.get(len(x))]}
        weight = held.get(self.place, [self.kept])[0]
        return self.b(F.linear(self.a(x), weight))


PLACES = ("none", "lacking", "list", "dict", "nested", "object", "inner object")


def ends_of(model, scale=0.5):
    start = {name: t.clone() for name, t in model.state_dict().items()}
    return start, {name: t + scale * torch.randn_like(t) for name, t in start.items()}


def by_copies(model, ends):
    """The loss of a copy for each point, which has been nowhere else."""
    found = []
    for alpha in AT:
        there = copy.deepcopy(model)
        there.load_state_dict({n: (1 - alpha) * t + alpha * ends[1][n] for n, t in ends[0].items()})
        found.append(F.cross_entropy(there(DATA[0]), DATA[1]).item())
    return found


def curve(model, ends, **options):
    J = Objective(model, CE, DATA, dtype=torch.float64, **options)
    return values(evaluate(J, along=Line(*ends), at=AT))


@pytest.mark.parametrize("place", PLACES)
def test_what_was_made_of_the_weights_of_an_earlier_use_is_refused(place):
    torch.manual_seed(0)
    fresh = Kept("weights", place)
    ends = ends_of(fresh)
    np.testing.assert_allclose(curve(fresh, ends), by_copies(fresh, ends), rtol=1e-5)
    used = copy.deepcopy(fresh)
    used(DATA[0])
    with pytest.raises(InputError, match=r"an earlier use of it made of other weights"):
        curve(used, ends)


class Scaling:
    """A hook that keeps what it made of the weights at its first call."""

    norm = None

    def __call__(self, module, inputs, output):
        self.norm = module.weight.detach().norm() if self.norm is None else self.norm
        return output / self.norm

    def called(self, module, inputs, output):
        return self(module, inputs, output)


@pytest.mark.parametrize("how", ["an object", "its method"])
def test_what_a_hook_keeps_is_made_at_every_point_or_refused(how):
    torch.manual_seed(0)
    fresh = mlp()
    fresh[0].register_forward_hook(Scaling() if how == "an object" else Scaling().called)
    ends = ends_of(fresh)
    np.testing.assert_allclose(curve(fresh, ends), by_copies(fresh, ends), rtol=1e-5)
    fresh(DATA[0])
    with pytest.raises(InputError, match=r"an earlier use of it made of other weights"):
        curve(fresh, ends)


@pytest.mark.parametrize("place", PLACES)
def test_what_was_made_of_anything_else_is_a_constant(place):
    torch.manual_seed(0)
    model = Kept("shape", place)
    ends = ends_of(model)
    expected = curve(model, ends)
    model(DATA[0])
    np.testing.assert_allclose(curve(model, ends), expected, rtol=1e-12)


class Views(nn.Module):
    """Keeps views of a parameter, which a loop over load_state_dict finds up to date."""

    def __init__(self, place):
        super().__init__()
        self.a, self.w, self.place = nn.Linear(6, 6), nn.Parameter(torch.randn(9, 6)), place
        view = self.w if place == "with a gradient" else self.w.data
        self.kept = view.t()[:, 2:6] if place == "transposed" else view[2:6]
        self.nested = {"of tuples": [(self.kept.detach(),)]}
        self.helper = Helper(Helper())
        self.helper.helper.kept = self.kept.detach()
        self.partial = functools.partial(torch.mul, self.kept.detach())
        if place == "buffer":
            self.register_buffer("buffer", self.w.data[2:6], persistent=False)

    def forward(self, x):
        held = {
            "transposed": lambda: self.kept.t(),
            "nested": lambda: self.nested["of tuples"][0][0],
            "object": lambda: self.helper.helper.kept,
            "partial": lambda: self.partial(1.0),
            "buffer": lambda: self.buffer,
        }
        return F.linear(self.a(x), held.get(self.place, lambda: self.kept)())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "place",
    ["attribute", "with a gradient", "transposed", "nested", "object", "partial", "buffer"],
)
def test_views_of_a_parameter_are_at_its_point(place, dtype):
    torch.manual_seed(0)
    model = Views(place)
    ends = ends_of(model)
    found = []
    with torch.no_grad():
        for alpha in AT:
            model.load_state_dict(
                {n: (1 - alpha) * t + alpha * ends[1][n] for n, t in ends[0].items()}
            )
            found.append(F.cross_entropy(model(DATA[0]), DATA[1]).item())
    J = Objective(model, CE, DATA, dtype=dtype, batch_size=50)
    np.testing.assert_allclose(values(evaluate(J, along=Line(*ends), at=AT)), found, rtol=1e-5)


@pytest.mark.parametrize("how", ["deep inside", "another type"])
def test_memory_shared_with_a_parameter_that_no_copy_can_follow_is_refused(how):
    model = Views("attribute")
    if how == "deep inside":
        model.helper = Helper(Helper(Helper()))
        model.helper.helper.helper.kept = model.w.data[2:6]
    else:
        model.kept = model.w.data.view(torch.int32)
    with pytest.raises(InputError, match="shares memory with the parameter 'w'"):
        curve(model, ends_of(model))


def test_weights_that_torch_normalises_by_its_older_hook_need_no_run_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4)))
    ends = ends_of(model, 0.1)
    for name in ("0.weight_u", "0.weight_v"):
        ends[1][name] = ends[0][name]
    np.testing.assert_allclose(
        curve(model, ends, buffers="interpolate"), by_copies(model.eval(), ends), rtol=1e-5
    )


def test_what_was_drawn_at_the_first_call_stays():
    torch.manual_seed(0)
    model = Kept("chance", "none")
    model(DATA[0])
    ends = ends_of(model)
    np.testing.assert_allclose(curve(model, ends), by_copies(model, ends), rtol=1e-5)


def test_a_mean_that_runs_on_in_an_attribute_is_refused():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.mean = nn.Linear(6, 6), nn.Linear(6, 4), None

        def forward(self, x):
            h = self.a(x)
            now = h.detach().mean(0)
            self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
            return self.b(h - self.mean)

    model = Running()
    with pytest.raises(InputError, match="keeps 'mean' from batch to batch"):
        curve(model, ends_of(model), batch_size=20)


class Graph(nn.Module):
    """One layer of a graph network: a sparse matrix that no state dict has."""

    def __init__(self, layout, *, saved=False):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)
        edges = torch.zeros(6, 6)
        edges[[0, 2, 4], [1, 3, 0]] = 1.5
        matrix = {
            "coo": edges.to_sparse(),
            "csr": edges.to_sparse_csr(),
            "attribute": edges.to_sparse_csr(),
            "dense": edges,
        }[layout]
        if layout == "attribute":
            self.edges = matrix
        else:
            self.register_buffer("edges", matrix, persistent=saved)

    def forward(self, x):
        return self.b((self.edges @ self.a(x).t()).t())


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", ["coo", "csr", "attribute"])
def test_a_sparse_matrix_of_the_model_stays_as_it_is(layout):
    torch.manual_seed(0)
    dense = Graph("dense")
    ends = ends_of(dense)
    expected = curve(dense, ends)
    np.testing.assert_allclose(curve(Graph(layout), ends), expected, rtol=1e-10)


def test_a_sparse_matrix_in_a_state_dict_is_refused_with_a_way_on():
    model = Graph("coo", saved=True)
    with pytest.raises(InputError, match="persistent=False"):
        curve(model, (model.state_dict(), model.state_dict()))


@pytest.mark.parametrize("how", ["scripted", "traced", "a part"])
def test_scripted_models_are_measured_in_the_precision_asked_for(how):
    torch.manual_seed(0)
    plain = mlp()
    made = {
        "scripted": lambda: torch.jit.script(plain),
        "traced": lambda: torch.jit.trace(plain, DATA[0]),
        "a part": lambda: nn.Sequential(*[torch.jit.script(part) for part in plain]),
    }
    model = made[how]()
    ends = ends_of(model)
    np.testing.assert_allclose(curve(model, ends), direct(plain, *ends, AT, DATA), rtol=1e-10)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (DATA[1] + 9, "from 9 to"),
        (DATA[1].to(torch.int8), "int8"),
        (F.one_hot(DATA[1]), "int64"),
        (DATA[1][:, None].float(), "float32"),
    ],
)
def test_targets_that_the_loss_does_not_take_are_one_sentence(targets, said):
    with pytest.raises(InputError, match=rf"cross_entropy failed on .*{said}"):
        Objective(mlp(), CE, (DATA[0], targets))(mlp())


def test_what_is_no_slice_no_objective_and_no_store_is_named():
    model = mlp()
    J, ends = Objective(model, CE, DATA), ends_of(model)
    for along in ("x", ends, [Line(*ends)], None):
        with pytest.raises(InputError, match="along must be a slice"):
            evaluate(J, along=along, at=AT)
    with pytest.raises(InputError, match="along must be a slice"):
        resolve(J, along={"one": Line(*ends)})
    with pytest.raises(InputError, match="expected a ravine.Objective"):
        evaluate(model, along=Line(*ends), at=AT)
    with pytest.raises(InputError, match="store must be the path"):
        evaluate(J, along=Line(*ends), at=AT, store=True)
    with pytest.raises(InputError, match="tolerance"):
        resolve(J, along=Line(*ends), tolerance="fine")
    assert average(point for point in ends).keys() == average(list(ends)).keys()


def test_results_that_were_edited_are_refused():
    model = mlp()
    found = evaluate(Objective(model, CE, DATA), along=Line(*ends_of(model)), at=AT)
    with pytest.raises(InputError, match="lacks 'loss_replicates'"):
        metrics.verdict(found.drop_vars("loss_replicates"))
    with pytest.raises(InputError, match="lacks 'loss_stderr'"):
        metrics.verdict(found.drop_vars("loss_stderr"))
    with pytest.raises(InputError, match="one alpha twice"):
        metrics.verdict(found.isel(alpha=[0, 0, 1]))
    with pytest.raises(InputError, match="no points"):
        metrics.verdict(found.isel(alpha=[]))


def test_no_share_is_said_to_rise_by_more_than_one():
    x = torch.linspace(0, 1, 200, dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()

    def wrong(model, batch):
        there = model.weight.reshape(())
        return ((there > 0.4) & (there < 0.6) & (batch[0] > 0.99)).double()

    J = Objective(model, wrong, (x,))
    line = Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    found = evaluate(J, along=line, at=np.linspace(0, 1, 41))
    for what in ("barrier", "rise", "minimum", "nonconvex"):
        assert metrics.decide(found, what).upper <= 1


def test_labels_that_are_shifted_already_are_refused():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = nn.Embedding(9, 9)

        def forward(self, input_ids):
            return self.scores(input_ids)

    torch.manual_seed(0)
    model, ids = Table(), torch.randint(0, 9, (6, 8))
    part = ids.clone()
    part[:, :3] = -100

    def loss(batch):
        return Objective(model, causal_lm(), [batch])(model)["data"]

    def right(first):
        scores = model(ids)[:, first - 1 : -1].reshape(-1, 9)
        return F.cross_entropy(scores, ids[:, first:].reshape(-1)).item()

    assert loss({"input_ids": ids, "labels": ids}) == pytest.approx(right(1), rel=1e-5)
    assert loss({"input_ids": ids, "labels": part}) == pytest.approx(right(3), rel=1e-5)
    for labels in (ids[:, 1:], part[:, 1:]):
        with pytest.raises(InputError, match="shifted by one place already"):
            loss({"input_ids": ids[:, :-1], "labels": labels})


def test_an_objective_itself_may_be_named(tmp_path):
    (tmp_path / "made.py").write_text(
        "import ravine, torch\n"
        "loss = ravine.supervised(torch.nn.functional.mse_loss)\n"
        "J = ravine.Objective(torch.nn.Linear(1, 1), loss, (torch.ones(3, 1), torch.ones(3, 1)))\n"
    )
    assert load_objective(f"{tmp_path}/made.py:J").splits[0].name == "data"
    with pytest.raises(InputError, match="FROM:TO:COUNT"):
        cli.parse_alpha("0:inf:5")


def test_a_part_of_other_shapes_is_not_pointed_out():
    sequence = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    with pytest.raises(InputError, match="not points of the same space") as refused:
        Line(nn.Linear(5, 4), sequence)
    assert "holds such a model" not in str(refused.value)
    with pytest.raises(InputError, match="holds such a model under '0'"):
        Line(nn.Linear(6, 8), sequence)


@pytest.mark.parametrize("scale", [float("nan"), "1", None])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(InputError, match="scale must be a finite number"):
        task_arithmetic({"w": torch.zeros(1)}, [{"w": torch.ones(1)}], scale)


def test_ends_that_differ_are_told_apart_in_the_headline():
    def offset(model, batch):
        return 1e6 + model.weight.reshape(()) + 0 * batch[0]

    model = nn.Linear(1, 1, bias=False).double()
    J = Objective(model, offset, (torch.zeros(40, dtype=torch.float64),))
    line = Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    headline = metrics.verdict(evaluate(J, along=line, at=np.linspace(0, 1, 11))).headline
    assert "from 1000000 to 1000001" in headline


def test_two_shares_differ_by_one_at_most():
    def wrong(model, batch):
        return (model.weight.reshape(()) > 0.5).double() + 0 * batch[0]

    model = nn.Linear(1, 1, bias=False).double()
    J = Objective(model, wrong, (torch.zeros(50, dtype=torch.float64),))
    found = compare(J, {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    assert (found.answer, found.difference, found.upper) == ("worse", 1.0, 1.0)
    assert 0.9 < found.lower < 1


@pytest.mark.parametrize("size", [None, 20])
def test_weights_that_a_pass_changes_are_refused_unless_it_makes_the_same_of_them(size):
    class Writes(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.linear, self.change = nn.Linear(6, 4), change

        def forward(self, x):
            self.change(self.linear.weight.data)
            return self.linear(x)

    torch.manual_seed(0)
    shrinking = Writes(lambda weight: weight.mul_(0.9))
    with pytest.raises(InputError, match="parameters change while it runs"):
        curve(shrinking, ends_of(shrinking), batch_size=size)
    unit = Writes(lambda weight: weight.div_(weight.norm()))
    ends = ends_of(unit)
    np.testing.assert_allclose(curve(unit, ends, batch_size=size), by_copies(unit, ends), rtol=1e-5)


def test_a_function_of_something_else_is_refused_at_once():
    for wrong in (lambda model: 0, lambda *, model, batch: 0, lambda model, batch, state: 0):
        with pytest.raises(InputError, match="called with model and batch, which"):
            Objective(mlp(), wrong, DATA)
    Objective(mlp(), lambda *given: CE(*given), DATA)


def test_a_flat_plane_has_no_lowest_point():
    model = nn.Linear(2, 1, bias=False).double()
    x = torch.rand(40, dtype=torch.float64)
    J = Objective(model, lambda model, batch: batch[0] + 0 * model.weight.sum(), (x,))
    corners = [{"weight": torch.tensor([place])} for place in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    at = {"alpha": np.linspace(0, 1, 4), "beta": np.linspace(0, 1, 4)}
    headline = metrics.verdict(evaluate(J, along=Plane(*corners), at=at)).headline
    assert "is flat at" in headline
    assert "lowest" not in headline
