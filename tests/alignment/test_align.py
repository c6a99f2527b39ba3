"""Alignment: permuted copies come back bit for bit, and what cannot be followed stays in place."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import (
    IMAGES,
    ROWS,
    SEQUENCES,
    ZOO,
    Attention,
    Grouped,
    Maxout,
    MultiHead,
    NormedMlp,
    Residual,
    made,
)

import ravine
from ravine.alignment.align import _moved
from ravine.alignment.matching import shuffled
from ravine.alignment.structure import Structure, structure_of
from ravine.alignment.tracing import arguments, shell_of, traced

#: Of every axis of a tensor that is permuted, where each index comes from.
Moves = dict[str, list[tuple[int, Tensor]]]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def rearranged(model: nn.Module, moves: Moves) -> dict[str, Tensor]:
    tensors = state(model)
    for name, axes in moves.items():
        for axis, order in axes:
            tensors[name] = tensors[name].index_select(axis, order)
    return tensors


def order(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def within(blocks: Tensor, size: int) -> Tensor:
    """The order of blocks of so many indices each."""
    return (blocks[:, None] * size + torch.arange(size)).flatten()


def positions(channels: Tensor, count: int) -> Tensor:
    return within(channels, count)


def structure(model: nn.Module, batch: Any) -> Structure:
    shell = shell_of(model)
    own = ravine.Checkpoint.read(model)
    running = {name for name in own.buffers if "running" in name}
    return structure_of(traced(shell, *arguments(shell, batch)), own.ties, running)


def assert_same(found: ravine.Checkpoint, model: nn.Module) -> None:
    expected = ravine.Checkpoint.read(model).tensors
    differing = [name for name in expected if not torch.equal(found.tensors[name], expected[name])]
    assert differing == []


# --- permuted by hand -----------------------------------------------------------------------------


def mlp_moves() -> tuple[nn.Module, Any, Moves]:
    a, b = order(12, 1), order(9, 2)
    moves: Moves = {name: [(0, a)] for name in ("a.weight", "a.bias", "n.weight", "n.bias")}
    return (
        NormedMlp(),
        ROWS,
        moves | {"b.weight": [(0, b), (1, a)], "b.bias": [(0, b)], "c.weight": [(1, b)]},
    )


def residual_moves() -> tuple[nn.Module, Any, Moves]:
    stream, inner = order(8, 1), order(10, 2)
    statistics = ("weight", "bias", "running_mean", "running_var")
    moves: Moves = {f"norm.{name}": [(0, stream)] for name in statistics}
    moves |= {f"inner_norm.{name}": [(0, inner)] for name in statistics}
    moves |= {"stem.weight": [(0, stream)], "stem.bias": [(0, stream)]}
    moves |= {"inner.weight": [(0, inner), (1, stream)], "inner.bias": [(0, inner)]}
    moves |= {"outer.weight": [(0, stream), (1, inner)], "outer.bias": [(0, stream)]}
    return Residual(), IMAGES, moves | {"head.weight": [(1, positions(stream, 4))]}


def grouped_moves() -> tuple[nn.Module, Any, Moves]:
    channels, groups, up = order(8, 1), order(3, 2), order(6, 3)
    # the channels of each group in an order of their own
    each = torch.stack([order(5, 10 + group) for group in range(3)])
    out = (groups[:, None] * 5 + each).flatten()
    moves: Moves = {
        f"{n}.{p}": [(0, channels)] for n in ("stem", "depthwise") for p in ("weight", "bias")
    }
    moves |= {
        "into.weight": [(0, within(groups, 4)), (1, channels)],
        "into.bias": [(0, within(groups, 4))],
    }
    moves |= {"groups.weight": [(0, out)], "groups.bias": [(0, out)]}
    moves |= {"up.weight": [(0, out), (1, up)], "up.bias": [(0, up)], "head.weight": [(1, up)]}
    return Grouped(), IMAGES, moves


def maxout_moves() -> tuple[nn.Module, Any, Moves]:
    a, b = order(12, 1), order(8, 2)
    pieces = torch.stack([order(3, 10 + unit) for unit in range(12)])
    first = (a[:, None] * 3 + pieces).flatten()
    moves: Moves = {"a.weight": [(0, first)], "a.bias": [(0, first)]}
    moves |= {"b.weight": [(0, within(b, 3)), (1, a)], "b.bias": [(0, within(b, 3))]}
    return Maxout(), ROWS, moves | {"c.weight": [(1, b)]}


def attention_moves() -> tuple[nn.Module, Any, Moves]:
    """Heads of keys in another order, the queries of each too, and features within heads."""
    stream, keys = order(12, 1), order(2, 5)
    queries = torch.stack([order(3, 10), order(3, 11)])
    heads = (keys[:, None] * 3 + queries).flatten()
    values = torch.stack([order(4, 20), order(4, 21)])
    kept = (keys[:, None] * 4 + values).flatten()
    read = (heads.reshape(2, 3, 1) * 4 + values[:, None, :]).flatten()
    moves: Moves = {"embed.weight": [(0, stream)], "embed.bias": [(0, stream)]}
    moves |= {
        "norm.weight": [(0, stream)],
        "norm.bias": [(0, stream)],
        "head.weight": [(1, stream)],
    }
    moves |= {"q.weight": [(0, within(heads, 4)), (1, stream)], "q.bias": [(0, within(heads, 4))]}
    moves |= {"k.weight": [(0, within(keys, 4)), (1, stream)], "k.bias": [(0, within(keys, 4))]}
    moves |= {"v.weight": [(0, kept), (1, stream)], "v.bias": [(0, kept)]}
    return (
        Attention(2),
        SEQUENCES,
        moves | {"o.weight": [(0, stream), (1, read)], "o.bias": [(0, stream)]},
    )


def multi_head_moves() -> tuple[nn.Module, Any, Moves]:
    """Two heads exchanged in queries, keys and values; values' features in another order, too."""
    heads = within(torch.tensor([1, 0]), 4)
    values = (torch.tensor([[1], [0]]) * 4 + torch.stack([order(4, 1), order(4, 2)])).flatten()
    stacked = torch.cat([heads, 8 + heads, 16 + values])
    moves: Moves = {f"attention.in_proj_{p}": [(0, stacked)] for p in ("weight", "bias")}
    return MultiHead(), SEQUENCES, moves | {"attention.out_proj.weight": [(1, values)]}


@pytest.mark.parametrize(
    "make",
    [mlp_moves, residual_moves, grouped_moves, maxout_moves, attention_moves, multi_head_moves],
)
def test_a_copy_permuted_by_hand_comes_back_bit_for_bit(make: Any) -> None:
    torch.manual_seed(0)
    model, batch, moves = make()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    permuted = rearranged(model, moves)
    before = model(batch)
    after = torch.func.functional_call(model, permuted, (batch,))
    assert torch.allclose(before, after, atol=1e-5), "the test's own permutation is wrong"
    found = ravine.align(permuted, to=model, model=model, batch=batch)
    assert found.before > 0
    assert found.after == 0
    assert_same(found, model)


def test_hidden_states_of_every_gate_move_together() -> None:
    model, batch = made("recurrent")
    units = order(6, 1)
    gates = within(torch.arange(4), 6).reshape(4, 6)[:, units].flatten()
    moves: Moves = {
        "lstm.weight_hh_l0": [(0, gates), (1, units)],
        "lstm.weight_ih_l0": [(0, gates)],
    }
    moves |= {"lstm.bias_ih_l0": [(0, gates)], "lstm.bias_hh_l0": [(0, gates)]}
    taken = torch.cat([units, 6 + torch.arange(6)])
    moves |= {f"lstm.weight_ih_l1{way}": [(1, taken)] for way in ("", "_reverse")}
    assert_same(ravine.align(rearranged(model, moves), to=model, model=model, batch=batch), model)


class States(nn.Module):
    """The last states of two layers, one way or both, read in one of several ways."""

    def __init__(self, read: Any, width: int) -> None:
        super().__init__()
        self.gru, self.read = nn.GRU(5, 6, 2, batch_first=True, bidirectional=True), read
        self.start, self.head = nn.Parameter(torch.zeros(4, 1, 6)), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = self.start.expand(-1, len(x), -1).contiguous()
        return self.head(self.read(self.gru(x, start)[1]))


def both_ways(states: Tensor) -> Tensor:
    return torch.cat([states[-2], states[-1]], 1)


def all_in_a_row(states: Tensor) -> Tensor:
    return states.transpose(0, 1).flatten(1)


@pytest.mark.parametrize(("read", "layers"), [(both_ways, (2, 3)), (all_in_a_row, (0, 1, 2, 3))])
def test_the_states_of_each_layer_and_direction_have_an_order_of_their_own(
    read: Any, layers: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = States(read, 6 * len(layers))
    with torch.no_grad():
        model.start.normal_()
    orders = [order(6, seed) for seed in range(4)]
    moves: Moves = {}
    for number, units in enumerate(orders):
        name = f"l{number // 2}{'_reverse' * (number % 2)}"
        gates = within(torch.arange(3), 6).reshape(3, 6)[:, units].flatten()
        moves |= {
            f"gru.{kind}_{name}": [(0, gates)] for kind in ("weight_ih", "bias_ih", "bias_hh")
        }
        moves[f"gru.weight_hh_{name}"] = [(0, gates), (1, units)]
    below = torch.cat([orders[0], 6 + orders[1]])
    for way in ("", "_reverse"):
        moves[f"gru.weight_ih_l1{way}"].append((1, below))
    read_at = torch.cat([6 * place + orders[layer] for place, layer in enumerate(layers)])
    permuted = rearranged(model, moves | {"head.weight": [(1, read_at)]})
    starts = [model.start[layer, :, orders[layer]] for layer in range(4)]
    permuted["start"] = torch.stack(starts).detach()
    after = torch.func.functional_call(model, permuted, (SEQUENCES,))
    assert torch.allclose(model(SEQUENCES), after, atol=1e-5), "the test's own permutation is wrong"
    assert_same(ravine.align(permuted, to=model, model=model, batch=SEQUENCES), model)


# --- every symmetry that a structure has ----------------------------------------------------------


#: Of kinds that are permuted by hand above, or akin to others here.
AKIN = {
    "mlp with layer norm",
    "residual convolutions",
    "grouped and depthwise",
    "maxout",
    "attention",
    "grouped queries",
    "multi-head module",
    "encoder layer",
    "other norms",
    "mixer",
    "learned queries",
}
KINDS = [pytest.param(name, marks=pytest.mark.calibration if name in AKIN else ()) for name in ZOO]


@pytest.mark.parametrize("name", KINDS)
def test_any_order_of_the_units_found_is_the_same_function_and_comes_back(name: str) -> None:
    model, batch = made(name)
    found = structure(model, batch)
    own = ravine.Checkpoint.read(model)
    copy = _moved(found, own, own, shuffled(found.units, 3))
    assert any(one.is_free for one in found.units)
    aligned = ravine.align(copy, to=model, model=model, batch=batch)
    assert aligned.error <= aligned.rounding
    assert_same(aligned, model)


@pytest.mark.parametrize("name", ["residual convolutions", "recurrent"])
def test_activations_find_the_order_too(name: str) -> None:
    model, batch = made(name)
    found = structure(model, batch)
    own = ravine.Checkpoint.read(model)
    copy = _moved(found, own, own, shuffled(found.units, 5))
    aligned = ravine.align(copy, to=model, model=model, batch=batch, method="activations")
    assert_same(aligned, model)


class Masked(nn.Module):
    """Scores of later positions are set to −∞, or to the least number, before the softmax."""

    def __init__(self, masked: float) -> None:
        super().__init__()
        self.embed, self.masked = nn.Linear(5, 8), masked
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        parts = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k, v = parts
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(2, 3)).masked_fill(later, self.masked)
        return self.head((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min])
def test_masked_scores_do_not_count_as_activations(masked: float) -> None:
    torch.manual_seed(0)
    a, b = Masked(masked), Masked(masked)
    aligned = ravine.align(b, to=a, model=a, batch=SEQUENCES, method="activations")
    assert aligned.after < aligned.before
    found = structure(a, SEQUENCES)
    own = ravine.Checkpoint.read(a)
    copy = _moved(found, own, own, shuffled(found.units, 5))
    assert_same(ravine.align(copy, to=a, model=a, batch=SEQUENCES, method="activations"), a)


@pytest.mark.parametrize("name", ["grouped queries"])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_the_distance_never_grows(name: str, method: Any) -> None:
    (a, batch), (b, _) = made(name, 1), made(name, 2)
    aligned = ravine.align(b, to=a, model=a, batch=batch, method=method)
    assert aligned.after <= aligned.before
    again = ravine.align(aligned, to=a, model=a, batch=batch, method=method)
    assert again.after <= aligned.after


def test_one_hidden_layer_is_matched_as_well_as_any_order_can() -> None:
    torch.manual_seed(0)
    model, other = (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(2))
    a, b = state(model), state(other)
    squares = []
    for chosen in itertools.permutations(range(5)):
        p = torch.tensor(chosen)
        moved = {
            "0.weight": b["0.weight"][p],
            "0.bias": b["0.bias"][p],
            "2.weight": b["2.weight"][:, p],
        }
        moved["2.bias"] = b["2.bias"]
        squares.append(sum(float((a[n] - moved[n]).double().square().sum()) for n in a))
    found = ravine.align(b, to=a, model=model, batch=torch.randn(4, 3))
    assert found.after == pytest.approx(min(squares) ** 0.5, rel=1e-6)


# --- the caller's things, and what is refused -----------------------------------------------------


def test_the_caller_s_model_points_and_random_numbers_are_left_alone() -> None:
    (a, batch), (b, _) = made("residual convolutions", 1), made("residual convolutions", 2)
    a.train()
    before, theirs, draws = state(a), state(b), torch.get_rng_state()
    ravine.align(b, to=a, model=a, batch=batch)
    assert a.training
    assert torch.equal(torch.get_rng_state(), draws)
    for kept, model in ((before, a), (theirs, b)):
        assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


class Sorted(nn.Module):
    """Units whose order decides: each is added to all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.a(x).cumsum(1))))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_model_whose_hook_keeps_a_product_of_weights_can_be_traced() -> None:
    """Such tensors have a gradient, and torch copies none that do."""
    norm = nn.utils.weight_norm
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))
    start = state(model)
    moves = {name: [(0, order(8, 1))] for name in ("0.bias", "0.weight_g", "0.weight_v")}
    end = rearranged(model, {**moves, "2.weight": [(1, order(8, 1))]})
    found = ravine.align(end, to=start, model=model, batch=torch.randn(9, 6))
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in start.items())


def test_axes_that_cannot_be_followed_stay_in_place() -> None:
    torch.manual_seed(0)
    a, b = Sorted(), Sorted()
    aligned = ravine.align(b, to=a, model=a, batch=ROWS)
    assert torch.equal(aligned.tensors["a.weight"], b.a.weight)
    assert aligned.permuted == 1
    assert aligned.after < aligned.before
    assert "cumsum" in aligned.kept["a.weight, axis 0"]
    assert "c.weight, axis 1" not in aligned.kept


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(5, 9), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.nn.functional.fold(self.a(x)[..., None], (1, 1), (1, 1)).flatten(1))


def test_an_unknown_operation_is_named() -> None:
    torch.manual_seed(0)
    a, b = Strange(), Strange()
    aligned = ravine.align(b, to=a, model=a, batch=ROWS)
    assert aligned.permuted == 0
    assert aligned.after == aligned.before
    assert set(aligned.kept) == {"a.weight, axis 0", "a.bias, axis 0", "c.weight, axis 1"}


# --- branches that are stacked --------------------------------------------------------------------


class Branches(nn.Module):
    """Layers side by side, put together, and read by another.

    Args:
        join: what is made of their outcomes.
        width: of what it makes.
    """

    def __init__(self, join: Any, width: int) -> None:
        super().__init__()
        self.b = nn.ModuleList([nn.Linear(5, 8) for _ in range(3)])
        self.c = nn.Linear(width, 2)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.join([torch.relu(layer(x)) for layer in self.b]))


def in_a_row(take: Any) -> Any:
    """Branches stacked along axis 1, something done to the stack, and all units in a row."""
    return lambda outcomes: take(torch.stack(outcomes, 1)).flatten(1)


#: What is made of three branches, and which of them the layer after it reads first, second
#: and third.
APART: dict[str, tuple[Any, list[int]]] = {
    "first axis": (lambda outcomes: torch.stack(outcomes).permute(1, 0, 2).flatten(1), [0, 1, 2]),
    "last axis": (lambda outcomes: torch.stack(outcomes, -1).mT.flatten(1), [0, 1, 2]),
    "concatenated": (lambda outcomes: torch.cat(outcomes, 1).view(-1, 3, 8).flatten(1), [0, 1, 2]),
    "flipped": (in_a_row(lambda stack: stack.flip(1)), [2, 1, 0]),
    "rolled": (in_a_row(lambda stack: stack.roll(1, 1)), [2, 0, 1]),
    "chosen": (in_a_row(lambda stack: stack[:, [2, 0, 1]]), [2, 0, 1]),
    "split": (in_a_row(lambda stack: torch.cat(stack.split([1, 2], 1)[::-1], 1)), [1, 2, 0]),
    "every other": (
        in_a_row(lambda stack: torch.cat([stack[:, ::2], stack[:, 1:2]], 1)),
        [0, 2, 1],
    ),
    "unbound": (lambda outcomes: torch.cat(torch.stack(outcomes).unbind()[::-1], 1), [2, 1, 0]),
    "normalised": (in_a_row(lambda stack: nn.functional.layer_norm(stack, (8,))), [0, 1, 2]),
}


@pytest.mark.parametrize("name", APART)
def test_each_of_several_stacked_branches_has_an_order_of_its_own(name: str) -> None:
    join, read = APART[name]
    torch.manual_seed(0)
    model = Branches(join, 24)
    orders = [order(8, seed) for seed in range(3)]
    columns = torch.cat([8 * place + orders[number] for place, number in enumerate(read)])
    moves: Moves = {"c.weight": [(1, columns)]}
    for number, one in enumerate(orders):
        moves |= {f"b.{number}.weight": [(0, one)], f"b.{number}.bias": [(0, one)]}
    aligned = ravine.align(rearranged(model, moves), to=model, model=model, batch=ROWS)
    assert_same(aligned, model)
    assert (aligned.permuted, aligned.kept) == (3, {})


#: What mixes branches unit by unit, so that they have one order.
TIED: dict[str, Any] = {
    "sum": lambda outcomes: torch.stack(outcomes).sum(0),
    "largest": lambda outcomes: torch.stack(outcomes, 1).amax(1),
    "running sum": lambda outcomes: torch.stack(outcomes, 1).cumsum(1)[:, -1],
    "sorted": lambda outcomes: torch.stack(outcomes, 1).sort(1)[0][:, 0],
}


@pytest.mark.parametrize("name", TIED)
def test_branches_that_are_mixed_unit_by_unit_share_one_order(name: str) -> None:
    torch.manual_seed(0)
    model = Branches(TIED[name], 8)
    one = order(8, 1)
    moves: Moves = {f"b.{number}.weight": [(0, one)] for number in range(3)}
    moves |= {f"b.{number}.bias": [(0, one)] for number in range(3)} | {"c.weight": [(1, one)]}
    aligned = ravine.align(rearranged(model, moves), to=model, model=model, batch=ROWS)
    assert_same(aligned, model)
    assert (aligned.permuted, aligned.kept) == (1, {})


class PerBranch(nn.Module):
    """A weight for each branch, and normalised and grouped concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.ModuleList([nn.Linear(5, 8) for _ in range(3)])
        self.w = nn.Parameter(torch.randn(3, 8, 6))
        self.norm = nn.GroupNorm(3, 18)
        self.c = nn.Linear(18, 2)

    def forward(self, x: Tensor) -> Tensor:
        stack = torch.stack([torch.relu(layer(x)) for layer in self.b])
        made = torch.einsum("nbh,nho->bno", stack, self.w)
        return self.c(torch.relu(self.norm(made.flatten(1))))


def test_what_is_inside_a_stack_is_told_apart_too() -> None:
    torch.manual_seed(0)
    model = PerBranch()
    moves: Moves = {}
    weight = state(model)["w"]
    hidden, out = [order(8, seed) for seed in range(3)], [order(6, seed) for seed in range(3, 6)]
    for number, one in enumerate(hidden):
        moves |= {f"b.{number}.weight": [(0, one)], f"b.{number}.bias": [(0, one)]}
        weight[number] = weight[number][one][:, out[number]]
    columns = torch.cat([6 * number + one for number, one in enumerate(out)])
    moves |= {
        "c.weight": [(1, columns)],
        "norm.weight": [(0, columns)],
        "norm.bias": [(0, columns)],
    }
    copy = rearranged(model, moves) | {"w": weight}
    aligned = ravine.align(copy, to=model, model=model, batch=ROWS)
    assert_same(aligned, model)
    assert (aligned.permuted, aligned.kept) == (6, {})


# --- what is kept in order is named ---------------------------------------------------------------


class Between(nn.Module):
    """Something done to hidden units of which the order counts.

    Args:
        act: of the hidden units and the layer that reads them.
        width: of what that layer reads.
    """

    def __init__(self, act: Any, width: int = 8) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(5, 8), nn.Linear(width, 2)
        self.act = act

    def forward(self, x: Tensor) -> Any:
        return self.act(torch.relu(self.a(x)), self.c)


#: What is done, the width that is read after it, and a word of the reason.
KEPT: dict[str, tuple[Any, int, str]] = {
    "given out beside": (lambda h, c: (c(h), h), 8, "output of the model"),
    "given out by name": (lambda h, c: {"y": c(h), "h": h}, 8, "output of the model"),
    "neighbours": (lambda h, c: c(_neighbours(h)), 8, "depends on its order"),
    "pooled": (lambda h, c: c(nn.functional.max_pool1d(h[:, None], 2)[:, 0]), 4, "max_pool"),
    "one of them": (lambda h, c: c(h * h[:, 0, None]), 8, "select"),
    "numbered": (lambda h, c: c(h * torch.arange(8.0)), 8, "arange"),
    "rolled": (lambda h, c: c(h.roll(1, 1)), 8, "roll"),
}


def _neighbours(hidden: Tensor) -> Tensor:
    return nn.functional.local_response_norm(hidden[..., None], 3)[..., 0]


@pytest.mark.parametrize("name", KEPT)
def test_units_that_are_kept_in_order_are_named(name: str) -> None:
    act, width, reason = KEPT[name]
    torch.manual_seed(0)
    a, b = Between(act, width), Between(act, width)
    aligned = ravine.align(b, to=a, model=a, batch=ROWS)
    assert_same(aligned, b)
    assert aligned.permuted == 0
    assert reason in aligned.kept["a.weight, axis 0"]
    assert aligned.kept["a.weight, axis 0"] == aligned.kept["a.bias, axis 0"]


def test_classes_are_not_named_and_parts_are_said_to_be() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    assert structure(plain, ROWS).kept == {}
    decoder = nn.Sequential(nn.Linear(5, 18), nn.Unflatten(1, (2, 3, 3)), nn.Conv2d(2, 1, 2))
    kept = structure(decoder, ROWS).kept
    assert set(kept) == {"0.weight, axis 0", "0.bias, axis 0"}
    assert all(why.startswith("in part: ") for why in kept.values())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else -self.a(x)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.dropout(self.a(x), 0.5, True))


def refused(match: str, b: Any = None, **given: Any) -> None:
    model = given.pop("model", None) or NormedMlp()
    asked = {"to": model, "model": model, "batch": ROWS} | given
    with pytest.raises(ravine.InputError, match=match):
        ravine.align(model if b is None else b, **asked)


def test_bad_input_is_one_sentence() -> None:
    refused("not points of the same space", b=nn.Linear(2, 2))
    refused("batch is missing", batch=None)
    refused("what the model is called with", batch=(ROWS, ROWS))
    refused("fails on this batch", batch=torch.randn(3, 4))
    refused("method must be", method="magic")
    refused("starts must be at least 1", starts=0)
    refused("starts must be at least 1", starts=1.5)
    refused("seed must be a whole number", seed="a")
    refused("no finite number on the batch", batch=torch.full((3, 5), torch.nan))
    refused("torch.nn.Module", model="mlp", to=NormedMlp(), b=NormedMlp())
    refused("control flow", model=Branching())
    refused("other outputs on the same input", model=Noisy())
    broken = state(NormedMlp()) | {"a.bias": torch.full((12,), float("nan"))}
    refused("NaN or infinity in 'a.bias'", b=broken)


class Halving(nn.Module):
    """As long as an entry is large: PyTorch prints the graph up to there."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return self.a(x)


def test_control_flow_that_cannot_be_traced_is_one_sentence_and_no_page(capfd: Any) -> None:
    refused("control flow", model=Halving())
    assert capfd.readouterr() == ("", "")


def test_named_arguments_and_wrappers_fit() -> None:
    model, batch = made("gpt2")
    found = ravine.align(model, to=model, model=nn.DataParallel(model), batch={"input_ids": batch})
    assert found.after == 0
