"""Which task a network is trained for: chosen by its type."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import ravine
from ravine.paper.data import Splits
from ravine.paper.models import LSTM, MPDBM, ConvNetwork, Network
from ravine.paper.recipe import Recipe
from ravine.paper.tasks.classification import Classification
from ravine.paper.tasks.language import LanguageModel
from ravine.paper.tasks.prediction import Prediction
from ravine.paper.tasks.task import Task


@singledispatch
def task_for(network: Any, recipe: Recipe, parts: Splits) -> Task:
    """What a network is trained for. ``task_for.register`` adds another type of network's task.

    Args:
        network: as the recipe states it.
        recipe: that it is part of.
        parts: of its data, as ``data.load`` gives them.

    Returns:
        The task.

    Raises:
        ravine.InputError: no task is registered for this type of network.
    """
    msg = (
        f"no task is registered for a network of type {type(network).__name__}; register one: "
        "@task_for.register"
    )
    raise ravine.InputError(msg)


@task_for.register
def _(network: Network | ConvNetwork, recipe: Recipe, parts: Splits) -> Task:
    return Classification(network, recipe, parts)


@task_for.register
def _(network: LSTM, recipe: Recipe, parts: Splits) -> Task:
    return LanguageModel(network, recipe, parts)


@task_for.register
def _(network: MPDBM, recipe: Recipe, parts: Splits) -> Task:
    return Prediction(network, recipe, parts)
