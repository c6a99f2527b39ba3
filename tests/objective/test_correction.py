"""REPAIR: between two networks each unit has the statistics that lie between the ends'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ravine


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )


def data(count: int = 300) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :2] * 2).sin()


def ends() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append({name: p.detach() for name, p in network().named_parameters()})
    return found[0], found[1]


def folded(middle: dict[str, Tensor], x: Tensor) -> Tensor:
    """The corrected network at α = ½ by another route: scales folded into weights by layer."""
    a, b = ends()
    statistics = []
    for point in (a, b):
        h, found = x, []
        for layer in (0, 2):
            h = h @ point[f"{layer}.weight"].T + point[f"{layer}.bias"]
            found.append((h.mean(0), h.std(0, correction=0)))
            h = h.relu()
        statistics.append(found)
    h = x
    for number, layer in enumerate((0, 2)):
        out = h @ middle[f"{layer}.weight"].T + middle[f"{layer}.bias"]
        mean = (statistics[0][number][0] + statistics[1][number][0]) / 2
        spread = (statistics[0][number][1] + statistics[1][number][1]) / 2
        h = (((out - out.mean(0)) / out.std(0, correction=0)) * spread + mean).relu()
    return h @ middle["4.weight"].T + middle["4.bias"]


def test_the_middle_is_what_folded_weights_give() -> None:
    x, y = data()
    plain = ravine.Objective(network(), ravine.supervised(F.mse_loss), (x, y), batch_size=300)
    line = ravine.Line(*ends())
    curve = ravine.evaluate(plain.repaired(), along=line, at=[0.0, 0.5, 1.0], progress=False)
    middle = {name: (p + ends()[1][name]) / 2 for name, p in ends()[0].items()}
    expected = (folded(middle, x) - y).square().mean()
    assert float(curve["loss"].sel(alpha=0.5).item()) == pytest.approx(float(expected), rel=1e-5)


def test_the_ends_are_their_own_networks_and_the_caller_s_model_is_untouched() -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    plain = ravine.Objective(model, ravine.supervised(F.mse_loss), data())
    line = ravine.Line(*ends())
    raw = ravine.evaluate(plain, along=line, at=[0.0, 0.5, 1.0], progress=False)
    repaired = ravine.evaluate(plain.repaired(), along=line, at=[0.0, 0.5, 1.0], progress=False)
    for alpha in (0.0, 1.0):
        one, other = (c["loss"].sel(alpha=alpha).item() for c in (raw, repaired))
        assert one == pytest.approx(other, rel=1e-6)
    assert float(raw["loss"].sel(alpha=0.5).item()) != float(repaired["loss"].sel(alpha=0.5).item())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert repaired.attrs["correction"] == "repair"
    assert "REPAIR" in str(ravine.metrics.verdict(repaired))


def test_a_network_whose_units_have_cancelled_is_brought_back() -> None:
    """w and −w in the first layer: nothing is left in the middle, and no scale brings it back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 1))
    a = {name: p.detach().clone() for name, p in model.named_parameters()}
    b = a | {
        "0.weight": 0.1 * a["0.weight"],
        "3.weight": 10 * a["3.weight"],
        "0.bias": 0.1 * a["0.bias"],
    }
    x = torch.randn(64, 1, 8, 8)
    data = (x, torch.zeros(64, 1))
    J = ravine.Objective(model, ravine.supervised(F.mse_loss), data)  # noqa: N806
    curve = ravine.evaluate(J.repaired(), along=ravine.Line(a, b), at=[0.0, 0.5], progress=False)
    # both ends' units are multiples of each other, so the corrected middle has exactly the mean of
    # their outputs
    first = F.conv2d(x, a["0.weight"], a["0.bias"])
    middle = (0.55 * first).relu().flatten(1) @ (5.5 * a["3.weight"]).T + a["3.bias"]
    assert float(curve["loss"].sel(alpha=0.5).item()) == pytest.approx(
        float(middle.square().mean()), rel=1e-4
    )


def test_running_statistics_are_recomputed_instead() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    squared = ravine.supervised(F.mse_loss)
    J = ravine.Objective(model, squared, data(), buffers="interpolate")  # noqa: N806
    assert J.repaired().buffers == "recompute"
    with pytest.raises(ravine.InputError, match="choose buffers='recompute'"):
        ravine.Objective(
            model, ravine.supervised(F.mse_loss), data(), buffers="end", correction="repair"
        )


def test_bad_input_is_refused() -> None:
    with pytest.raises(ravine.InputError, match="correction must be one of"):
        ravine.Objective(network(), ravine.supervised(F.mse_loss), data(), correction="magic")
    lone = ravine.Objective(
        nn.Linear(4, 2), ravine.supervised(F.mse_loss), data(), correction="repair"
    )
    with pytest.raises(ravine.InputError, match="before the last one"):
        lone(nn.Linear(4, 2))


def test_results_are_the_same_in_any_order_of_points() -> None:
    plain = ravine.Objective(network(), ravine.supervised(F.mse_loss), data()).repaired()
    line = ravine.Line(*ends())
    one = ravine.evaluate(plain, along=line, at=[0.0, 0.25, 0.5], progress=False)
    other = ravine.evaluate(plain, along=line, at=[0.25], progress=False)
    np.testing.assert_array_equal(one["loss"].sel(alpha=0.25), other["loss"].sel(alpha=0.25).item())
