"""Recipes: their numbers are pinned by hash, and each one trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ravine
from ravine.paper.data import load
from ravine.paper.models import LSTM, MPDBM, ConvNetwork, Network
from ravine.paper.recipe import Momentum, canonical
from ravine.paper.recipes import NAMES, recipe
from ravine.paper.training import Training, train

#: A changed hash is a changed experiment: old outcomes are then not found again. Change one on
#: purpose only.
PINNED = {
    "maxout-mnist full": "5c443cf34aedd34a",
    "maxout-mnist desk": "d6e61afd1b2a4622",
    "maxout-mnist quick": "98e3a1091f53e9cc",
    "maxout-plain-mnist full": "db00b99742084d4a",
    "maxout-plain-mnist desk": "4983ec40e956f222",
    "maxout-plain-mnist quick": "70339d248ad53d02",
    "maxout-trunk-mnist full": "dc4f3fd1da69f6ed",
    "maxout-trunk-mnist desk": "84d1f5abe8356369",
    "maxout-trunk-mnist quick": "d8148cb9aca25b0f",
    "relu-mnist full": "259e6c8c2f25d83e",
    "relu-mnist desk": "02ad65660b7dfe75",
    "relu-mnist quick": "1eff66a1fe416088",
    "relu-plain-mnist full": "e0a244abe19f30bb",
    "relu-plain-mnist desk": "62b151a33e04c472",
    "relu-plain-mnist quick": "601f648ce8bc952e",
    "sigmoid-mnist full": "94737bf13a7b21bb",
    "sigmoid-mnist desk": "aa06cef09e2ed8e6",
    "sigmoid-mnist quick": "99227cb24a84dff0",
    "conv-cifar10 full": "04a1fddab9a59764",
    "conv-cifar10 desk": "9651a831204e0c60",
    "conv-cifar10 quick": "67fee4fa379b0521",
    "mpdbm-mnist full": "4115678ab2306bd1",
    "mpdbm-mnist desk": "6ecce8767d8cc642",
    "mpdbm-mnist quick": "01f75f1154316f6b",
    "mpdbm-small-mnist full": "a183f1210682f685",
    "mpdbm-small-mnist desk": "fb473a38c31e0437",
    "mpdbm-small-mnist quick": "843b3454608b2727",
    "mpdbm-tiny-mnist full": "48fdebd635446ebc",
    "mpdbm-tiny-mnist desk": "4f6be0a9d5f90eba",
    "mpdbm-tiny-mnist quick": "8223557a2e6b4ea0",
    "lstm-small-ptb full": "b4e384dcc59b6f1d",
    "lstm-small-ptb desk": "1179dec12fd8c655",
    "lstm-small-ptb quick": "b0b4dea11643c7d5",
    "lstm-medium-ptb full": "9df0d64fc5931de2",
    "lstm-medium-ptb desk": "a1b12e3619d1a0c9",
    "lstm-medium-ptb quick": "d2d62fb36e4f1b66",
    "lstm-large-ptb full": "d989eefca9e5932f",
    "lstm-large-ptb desk": "98cff5b82e414f82",
    "lstm-large-ptb quick": "7269e94d35a1dda9",
}


@pytest.mark.parametrize("profile", ["full", "desk", "quick"])
@pytest.mark.parametrize("name", NAMES)
def test_hashes_are_pinned(name, profile):
    assert recipe(name, profile).hash[:16] == PINNED[f"{name} {profile}"]


def test_the_hash_sees_every_number():
    full = recipe("maxout-mnist")
    first, *others = full.phases
    changed = [
        recipe("maxout-mnist", seed=1),
        recipe("relu-mnist"),
        replace(full, batch_size=101),
        replace(full, phases=(replace(first, momentum=Momentum(0.5, 0.7, 251)), *others)),
        replace(full, phases=(replace(first, clip=5.0), *others)),
        replace(full, network=replace(full.network, layers=full.network.layers[:2])),
    ]
    assert len({full.hash, *(other.hash for other in changed)}) == 1 + len(changed)
    assert len({full.folder, *(other.folder for other in changed)}) == 1 + len(changed)


def test_desk_differs_from_full_in_its_last_epoch_only():
    for name in set(NAMES) - {"conv-cifar10"}:  # the one scaled arm
        full, desk = recipe(name), recipe(name, "desk")
        if isinstance(full.network, MPDBM):  # a whole pass is too long for a desk
            share = 25 if name == "mpdbm-tiny-mnist" else 10
            assert (desk.train, desk.valid) == (full.train // share, full.valid // 10)
            full = replace(full, train=desk.train, valid=desk.valid)
        if name == "maxout-trunk-mnist":  # many pairs take minutes by a fifth of the images
            assert desk.train == full.train // 5
            full = replace(full, train=desk.train)
        phases = tuple(
            replace(one, epochs=other.epochs)
            for one, other in zip(desk.phases, full.phases, strict=True)
        )
        assert replace(desk, profile="full", phases=phases) == full


def test_canonical_json_names_types():
    assert canonical(recipe("relu-mnist")).count('"type":"Layer"') == 3


def images(chosen):
    """Examples for two updates, with labels."""
    chosen = replace(chosen, train=2 * chosen.batch_size, valid=10)
    generator = torch.Generator().manual_seed(0)
    count, width = chosen.train + chosen.valid, chosen.network.inputs
    examples = torch.rand(count, width, generator=generator), torch.arange(count) % 10
    return chosen, {"train": examples, "test": examples}


def few_images(chosen):
    """Two batches of four, because the whole network takes seconds for more."""
    return images(replace(chosen, batch_size=4))


def text(chosen):
    """Words for two updates; the window is short, for speed."""
    network = replace(chosen.network, window=3)
    chosen = replace(
        chosen, train=7 * chosen.batch_size, valid=2 * chosen.batch_size, network=network
    )
    words = torch.arange(chosen.train) % network.words
    return chosen, {split: (words,) for split in ("train", "valid", "test")}


#: Architecture → a recipe and data made up for two updates.
MADE_UP = {Network: images, ConvNetwork: few_images, MPDBM: images, LSTM: text}


@pytest.mark.parametrize("profile", ["full", pytest.param("desk", marks=pytest.mark.long), "quick"])
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_takes_two_steps(name, profile, tmp_path):
    job = Training(*MADE_UP[type(recipe(name).network)](recipe(name, profile)), tmp_path)
    before = {name: tensor.detach().clone() for name, tensor in job.params.items()}
    job.epoch()
    assert job.state.update == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in job.params.values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in job.params.items())


def test_quick_learns(tmp_path):
    run = train(recipe("relu-plain-mnist", "quick"), tmp_path)
    assert run.test_errors[0] < 0.1 * 360
    path = ravine.project(run.trajectory, onto=ravine.Line(run.start, run.solution))
    assert path.attrs["length"] > 1
    assert "null_residual" in path


def test_ravine_measures_what_the_trainer_saw(tmp_path):
    """A second route: the monitor's sums, and an Objective, over a trained net's examples."""
    quick = recipe("relu-mnist", "quick")
    run = train(replace(quick, phases=(replace(quick.phases[0], epochs=3),)), tmp_path)
    inputs, labels = load("digits")["train"]
    valid = inputs[1077:1437], labels[1077:1437]
    J = ravine.Objective(
        quick.network.build(0), ravine.supervised(F.cross_entropy), {"valid": valid}
    )  # noqa: N806
    curve = ravine.evaluate(J, along=ravine.Line(run.start, run.solution), at=[0.0, 1.0])
    seen = run.history.swap_dims(record="step").sel(step=[0, run.best_step], split="valid")
    np.testing.assert_allclose(curve["loss"].sel(split="valid"), seen["loss"], rtol=1e-6)
    np.testing.assert_allclose(curve["error"].sel(split="valid"), seen["error"], atol=1e-12)
    assert float(curve["loss"][0, 0]) == pytest.approx(np.log(10), abs=0.01)
    noisy = ravine.Objective(
        quick.network.build(0),
        ravine.supervised(F.cross_entropy),
        {"valid": valid},
        dropout="resample",
    )
    assert float(
        ravine.evaluate(noisy, along=ravine.Line(run.start, run.solution), at=[1.0])["loss"][0, 0]
    ) == (
        pytest.approx(float(seen["objective"][-1]), rel=0.05)  # other masks
    )


def test_unknown_names_are_refused():
    with pytest.raises(ravine.InputError, match="there is no recipe 'vgg'; there are maxout-mnist"):
        recipe("vgg")
    with pytest.raises(
        ravine.InputError, match="there is no profile 'fast'; there are quick, desk, full"
    ):
        recipe("maxout-mnist", "fast")  # pyright: ignore[reportArgumentType]
