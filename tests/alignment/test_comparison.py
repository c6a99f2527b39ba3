"""Lines as they are, aligned, and repaired: whether the barrier fell is decided by measurement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import ROWS, TOKENS, NormedMlp, Tied, made

import ravine


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )


def of_teacher(teacher: nn.Module, model: nn.Module) -> ravine.Objective:
    """The square distance from what the teacher says, so that it has loss 0."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    data = {"train": (x, teacher(x).detach())}
    return ravine.Objective(model, ravine.supervised(F.mse_loss), data)


def permuted(state: dict[str, Tensor], first: Tensor, second: Tensor) -> dict[str, Tensor]:
    return {
        "0.weight": state["0.weight"][first],
        "0.bias": state["0.bias"][first],
        "2.weight": state["2.weight"][second][:, first],
        "2.bias": state["2.bias"][second],
        "4.weight": state["4.weight"][:, second],
        "4.bias": state["4.bias"],
    }


def test_a_barrier_that_was_only_the_order_of_the_units_is_gone() -> None:
    torch.manual_seed(0)
    model = mlp(8)
    a = {name: 2 * p.detach() for name, p in model.named_parameters()}
    model.load_state_dict(a)
    b = permuted(a, torch.randperm(8), torch.randperm(8))
    noise = {name: p + 0.01 * torch.randn_like(p) for name, p in b.items()}
    found = ravine.compare_alignment(
        of_teacher(model, mlp(8)), {"a": a, "b": noise}, np.linspace(0, 1, 9)
    )
    decided = ravine.metrics.decide(found, "barrier", above=0.02)
    assert [one.answer for one in decided.values()] == ["shown", "excluded", "excluded"]
    lengths = found["length"].values
    assert lengths[1] < lengths[0] / 10
    assert "2 sets of units matched by weights" in found.attrs["alignment"]


def test_two_units_twice_whose_four_orders_all_keep_a_barrier_keep_it() -> None:
    """b is a with signs turned in the first layer and in what reads it: no order undoes that."""
    torch.manual_seed(3)
    model = mlp(2)
    a = {name: 3 * p.detach() for name, p in model.named_parameters()}
    model.load_state_dict(a)
    turned = ("0.weight", "0.bias", "2.weight")
    b = {name: -p if name in turned else p for name, p in a.items()}
    objective = of_teacher(model, mlp(2))
    both = (torch.tensor([0, 1]), torch.tensor([1, 0]))
    lines = {
        f"{one.tolist()}, {two.tolist()}": ravine.Line(a, permuted(b, one, two))
        for one, two in itertools.product(both, both)
    }
    every = ravine.evaluate(objective, along=lines, at=np.linspace(0, 1, 9))
    assert {one.answer for one in ravine.metrics.decide(every, "barrier", above=0.02).values()} == {
        "shown"
    }
    found = ravine.compare_alignment(objective, {"a": a, "b": b}, np.linspace(0, 1, 9))
    aligned = ravine.metrics.decide(found, "barrier", above=0.02)["a – b, aligned"]
    assert aligned.answer == "shown"
    assert found["length"].values[1] == pytest.approx(every["length"].values.min(), rel=1e-6)


def test_lines_are_those_of_python_and_share_their_examples() -> None:
    torch.manual_seed(0)
    a, b = NormedMlp(), NormedMlp()
    data = (ROWS, torch.zeros(9, 3))
    J = ravine.Objective(NormedMlp(), ravine.supervised(F.mse_loss), data)  # noqa: N806
    found = ravine.compare_alignment(J, {"a": a, "b": b}, [0.0, 0.5, 1.0])
    moved = ravine.align(b, to=a, model=a, batch=ROWS)
    by_hand = ravine.evaluate(J, along=ravine.Line(a, moved), at=[0.0, 0.5, 1.0])
    np.testing.assert_allclose(found["loss"].sel(line="a – b, aligned"), by_hand["loss"], rtol=1e-6)
    assert ravine.metrics.shared_end(found) is None


def test_recomputed_statistics_are_the_repair() -> None:
    (a, batch), (b, _) = made("residual convolutions", 1), made("residual convolutions", 2)
    data = (torch.randn(40, 3, 8, 8), torch.zeros(40, 5))
    squared = ravine.supervised(F.mse_loss)
    J = ravine.Objective(a, squared, data, buffers="interpolate")  # noqa: N806
    names = [
        str(n)
        for n in ravine.compare_alignment(J, {"a": a, "b": b}, [0.0, 0.5, 1.0])["line"].values
    ]
    assert names == ["a – b", "a – b, aligned", "a – b, aligned and repaired"]
    again = ravine.compare_alignment(J.with_buffers("recompute"), {"a": a, "b": b}, [0.0, 0.5, 1.0])
    assert [str(n) for n in again["line"].values] == names[:2]
    del batch


def test_an_objective_shows_how_its_model_is_called() -> None:
    torch.manual_seed(0)
    a, b = Tied(), Tied()

    def per_example(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(
            model(x=batch["tokens"]).transpose(1, 2), batch["tokens"], reduction="none"
        )

    J = ravine.Objective(Tied(), per_example, [{"tokens": TOKENS}])  # noqa: N806
    found = ravine.align(b, to=a, objective=J)
    expected = ravine.align(b, to=a, model=a, batch=TOKENS)
    assert all(torch.equal(found.tensors[n], t) for n, t in expected.tensors.items())
    with pytest.raises(ravine.InputError, match="not both"):
        ravine.align(b, to=a, objective=J, model=a)
    silent = ravine.Objective(
        a, lambda model, batch: batch[0].sum(1) + model.up.bias.sum(), (torch.ones(4, 2),)
    )
    with pytest.raises(ravine.InputError, match="never calls the model"):
        ravine.align(b, to=a, objective=silent)


def test_a_copy_that_is_the_same_network_has_no_line() -> None:
    torch.manual_seed(0)
    teacher = mlp(4)
    J = of_teacher(teacher, mlp(4))  # noqa: N806
    a = {name: tensor.detach().clone() for name, tensor in teacher.state_dict().items()}
    order = torch.tensor([1, 2, 3, 0])
    with pytest.raises(ravine.InputError, match="one network to the last bit"):
        ravine.compare_alignment(J, {"a": a, "b": permuted(a, order, order)}, [0, 0.5, 1])
