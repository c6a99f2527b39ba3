"""Clusters and strata: ids by array, by function, by name, and refusals where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ravine
from oracles import blobs, mlp

DATA = blobs(120)
CE = ravine.supervised(F.cross_entropy)
DOCUMENT = np.arange(120) // 6
CLASS = DATA[1]


def with_ids(model, batch):
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return {"loss": losses, "document": batch[2], "class": batch[1]}


def curve(per_example=CE, data=DATA, **options):
    model = mlp()
    ends = [{n: t + shift for n, t in model.state_dict().items()} for shift in (0.0, 0.1)]
    J = ravine.Objective(model, per_example, data, dtype=torch.float64, **options)
    return ravine.evaluate(J, along=ravine.Line(*ends), at=[0.0, 0.4, 1.0])


ONE_WAY = {
    "array": {"clusters": DOCUMENT},
    "list of words": {"clusters": [f"document {one}" for one in DOCUMENT]},
    "tensor": {"clusters": torch.tensor(DOCUMENT)},
    "by split": {"clusters": {"data": DOCUMENT}},
}


@pytest.mark.parametrize("name", ONE_WAY)
def test_clusters_are_given_in_any_form(name):
    found = curve(**ONE_WAY[name])
    assert found["n_units"].item() == 20
    assert found["n_examples"].item() == 120
    wider = found["loss_stderr"] / curve()["loss_stderr"]
    assert ((wider > 0.5) & (wider < 2)).all()  # the documents here are no documents


def test_a_function_and_a_name_say_the_same_as_an_array():
    data = (*DATA, torch.tensor(DOCUMENT))
    by_array = curve(with_ids, data, clusters=DOCUMENT, strata=CLASS)
    by_function = curve(
        with_ids, data, clusters=lambda batch: batch[2], strata=lambda batch: batch[1]
    )
    by_name = curve(with_ids, data, clusters="document", strata="class")
    for other in (by_function, by_name):
        np.testing.assert_allclose(
            other["loss_replicates"], by_array["loss_replicates"], atol=1e-14
        )
    assert "document" in by_array
    assert "document" not in by_name  # ids are no quantity


def test_batches_and_order_do_not_matter():
    from torch.utils.data import DataLoader, TensorDataset

    options = {"clusters": DOCUMENT, "strata": CLASS}
    whole = curve(**options)
    loader = DataLoader(TensorDataset(*DATA), batch_size=17, shuffle=True)
    shuffled = curve(data=loader, **options)
    np.testing.assert_allclose(shuffled["loss_stderr"], whole["loss_stderr"], rtol=1e-9)
    np.testing.assert_allclose(shuffled["loss_replicates"], whole["loss_replicates"], atol=1e-12)


def test_one_id_an_example_goes_for_all_of_its_values():
    def rows(model, batch):
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return losses[:, None] * torch.ones(1, 3, dtype=losses.dtype)

    found = curve(rows, clusters=np.arange(120))
    assert found["n_examples"].item() == 360
    np.testing.assert_allclose(found["loss_stderr"], curve()["loss_stderr"], rtol=0.25)


def test_class_balance_is_no_error():
    """A loss that is its class's number: in a stratified draw nothing is left to err by."""

    def number(model, batch):
        return batch[1].double() + 0 * model[0].weight.sum()

    found = curve(number, strata=CLASS)
    np.testing.assert_allclose(found["loss_stderr"], 0, atol=1e-14)
    assert float(curve(number)["loss_stderr"][0, 0]) > 0.05


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clusters": np.arange(7)}, "clusters has 7 ids for the 120 examples of split 'data'"),
        ({"strata": {"valid": DOCUMENT}}, "strata has no ids for split 'data'; it has 'valid'"),
        ({"clusters": 3}, "clusters must be one id per example, a function of a batch"),
        ({"clusters": set(range(120))}, "one id per example, .*; got set"),
        ({"clusters": {"data": 3}}, "one id per example, .*; got int"),
        ({"clusters": "document"}, "from the entry 'document' of what per_example returns"),
        ({"clusters": lambda batch: [1, 2]}, "clusters gave 2 ids for a batch of"),
        ({"clusters": np.arange(121)}, "clusters has 121 ids for the 120 examples"),
        ({"clusters": [None] * 120}, "whole numbers or strings, .*; got None at place 0"),
        ({"strata": [0] * 119 + [float("nan")]}, "strata must be .*; got nan at place"),
        ({"clusters": DOCUMENT / 2}, "clusters must be .*; got 0.0 at place 0"),
        ({"clusters": DOCUMENT[:, None]}, "got a ndarray at place 0"),
        ({"clusters": [(1, 2)] * 120}, "got a tuple at place 0"),
        ({"clusters": lambda batch: 3}, "one id per example; got int for a batch"),
        ({"clusters": lambda batch: "abc"}, "one id per example; got str for a batch"),
        ({"clusters": lambda batch: None}, "one id per example; got NoneType for a batch"),
        ({"strata": lambda batch: torch.rand(len(batch[0]))}, "got 0.* at place 0"),
        ({"strata": lambda batch: torch.randint(9, batch[1].shape)}, "gave other ids when"),
    ],
)
def test_ids_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ravine.InputError, match=said):
        curve(**options)


def test_an_array_for_several_splits_is_ambiguous():
    with pytest.raises(
        ravine.InputError, match="there are several splits: give clusters as a dict"
    ):
        ravine.Objective(mlp(), CE, {"a": DATA, "b": DATA}, clusters=DOCUMENT)


def test_ids_that_change_between_passes_are_refused():
    passes = []

    def drifting(model, batch):
        passes.append(1)
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return {"loss": losses, "document": torch.arange(len(losses)) // 4 + len(passes)}

    model = mlp()
    ends = [{n: t + shift for n, t in model.state_dict().items()} for shift in (0.0, 2.0)]
    J = ravine.Objective(model, drifting, DATA, dtype=torch.float64, clusters="document")
    with pytest.raises(ravine.InputError, match="changed between two passes"):
        ravine.resolve(J, along=ravine.Line(*ends), tolerance=1e-6)


def test_large_numbers_and_empty_words_are_ids():
    ids = [2**70 if one % 2 else "" for one in range(120)]
    assert curve(strata=ids)["n_units"].item() == 120
    assert curve(clusters=[-one for one in range(120)])["n_units"].item() == 120


def test_a_column_of_a_table_goes_by_place():
    """Its labels may be in another order, as after a shuffle."""
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(DOCUMENT, index=np.arange(120)[::-1])
    by_place = curve(clusters=DOCUMENT)["loss_stderr"]
    np.testing.assert_array_equal(curve(clusters=column)["loss_stderr"], by_place)
