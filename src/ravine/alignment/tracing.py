"""Tracing: a model's graph on one batch, and what the model is called with."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from ravine.errors import InputError
from ravine.objective.attributes import held_tensors
from ravine.objective.objective import Objective
from ravine.objective.randomness import preserved_rng
from ravine.objective.tuning import DEFAULT_BATCH
from ravine.points.formats.quiet import quiet
from ravine.points.modules import unwrap

#: Kept whole, for they have a rule of their own: taken apart they become a loop, or lose
#: their heads.
_WHOLE = ("linear", "lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention")
_WHOLE_NORMS = ("layer_norm", "rms_norm", "group_norm")
_WHOLE_STACKS = ("stack", "roll")


def shell_of(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, its tensors shared, the caller's module left alone.

    Raises:
        InputError: it cannot be copied.
    """
    inner = unwrap(model)
    # a memo in which tensors are their own copies: the module is copied, its weights are shared
    shared: dict[int, Any] = {id(t): t for t in [*inner.parameters(), *inner.buffers()]}
    seen: set[int] = set()
    for module in inner.modules():
        for _, tensor in held_tensors(module, seen):
            # of weight_norm of old, say, whose product has a gradient: such tensors take no copy
            shared.setdefault(id(tensor), tensor.detach().clone())
    try:
        return copy.deepcopy(inner, shared).eval()
    except Exception as problem:
        msg = (
            f"the model {type(inner).__name__} cannot be copied ({problem}); it is traced on a copy"
        )
        raise InputError(msg) from problem


def arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with: a tensor, a tuple of arguments, or a dict of named ones.

    A cache of keys and values is no outcome of the function, so it is not asked for.

    Args:
        model: whose ``forward`` is called.
        batch: as the user gives it.

    Raises:
        InputError: there is none, or the model cannot be called with it.
    """
    if batch is None:
        msg = "batch is missing: give what the model is called with, such as a tensor of inputs"
        raise InputError(msg)
    named = dict(batch) if isinstance(batch, Mapping) else {}
    plain = () if isinstance(batch, Mapping) else batch
    plain = tuple(plain) if isinstance(plain, list | tuple) else (plain,)
    signature = inspect.signature(model.forward)
    if "use_cache" in signature.parameters:
        named.setdefault("use_cache", False)
    try:
        signature.bind(*plain, **named)
    except TypeError as problem:
        msg = (
            "batch must be what the model is called with (a tensor, a tuple of arguments, or a "
            f"dict of named ones); {type(model).__name__}.forward does not take it: {problem}"
        )
        raise InputError(msg) from problem
    return plain, named


def call_of(objective: Objective) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an objective calls its model with, on the first batch of its first split.

    Args:
        objective: whose per-example function is run, on a copy of the model.

    Raises:
        InputError: the function fails, or never calls the model.
    """
    shell, split = shell_of(objective.model), objective.splits[0]
    batch = next(iter(split.batches(objective.batch_size or DEFAULT_BATCH)))
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    content = batch.mapped(lambda tensor: tensor.to(objective.device)).content
    state = [None] if objective.is_stateful else []
    shell.to(objective.device)
    hook = shell.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad(), preserved_rng([]):
            objective.per_example(shell, content, *state)
    except Exception as problem:
        msg = (
            f"per_example fails on a batch of {split.name!r}, {_shown(content)}: "
            f"{type(problem).__name__}: {problem}"
        )
        raise InputError(msg) from problem
    finally:
        hook.remove()
    if not calls:
        msg = (
            "per_example never calls the model itself, so its graph is unknown: give model and "
            "batch"
        )
        raise InputError(msg)
    args, kwargs = calls[0]
    if "use_cache" in inspect.signature(shell.forward).parameters:
        kwargs = {"use_cache": False} | kwargs
    return args, kwargs


def _shown(content: Any) -> str:
    """What a function was given."""
    if isinstance(content, Tensor):
        return f"a tensor {tuple(content.shape)}"
    parts = content.values() if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping | tuple | list):
        return f"a {type(content).__name__}"
    return f"a {type(content).__name__} of {', '.join(_shown(part) for part in parts)}"


def traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """The graph of a model on one batch, in evaluation mode.

    Args:
        model: in evaluation mode.
        args: positional arguments.
        kwargs: named ones.

    Returns:
        PyTorch's exported program in core ATen operations, but for layers that have a rule
        of their own.

    Raises:
        InputError: the model cannot be traced: its control flow depends on values, or it fails.
    """
    # PyTorch prints a page of graph for what the error below says in a sentence
    said = io.StringIO()
    with torch.no_grad(), _quiet():
        try:
            with redirect_stderr(said):
                program = torch.export.export(model, args, kwargs, strict=False)
            sys.stderr.write(said.getvalue())  # of the model itself
            return program.run_decompositions(_decompositions())
        except InputError:
            raise
        except Exception as problem:
            first = str(problem).strip().partition("\n")[0]
            msg = (
                f"the model {type(model).__name__} cannot be traced on this batch, so which axes "
                "belong together is unknown (does its control flow depend on values?): "
                f"{type(problem).__name__}: {first[:300]}"
            )
            raise InputError(msg) from problem


def _decompositions() -> Any:
    if not hasattr(torch.export, "default_decompositions"):
        msg = f"alignment needs PyTorch 2.6 or newer; this is {torch.__version__}"
        raise InputError(msg)
    table = torch.export.default_decompositions()
    for name in (*_WHOLE, *_WHOLE_NORMS, *_WHOLE_STACKS):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            table.pop(getattr(packet, overload), None)
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's warnings, and without its fused encoder layer, which hides its heads."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(Warning):
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)


def outputs(
    model: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Tensor]:
    """Every tensor that the model gives with other parameters and buffers in it.

    Args:
        model: in evaluation mode.
        tensors: by name.
        args: positional arguments.
        kwargs: named ones.

    Raises:
        InputError: the model fails.
    """
    held = dict(model.named_parameters()) | dict(model.named_buffers())  # tied tensors once
    given = {name: t.to(held[name]) for name, t in tensors.items() if name in held}
    # written to by a model that counts, say: never the caller's
    given |= {n: t.clone() for n, t in model.named_buffers() if n not in given}
    try:
        with torch.no_grad(), _quiet():
            found = torch.func.functional_call(model, given, args, kwargs)
    except Exception as problem:
        msg = (
            f"the model {type(model).__name__} fails on this batch: {type(problem).__name__}: "
            f"{problem}"
        )
        raise InputError(msg) from problem
    leaves = tree_leaves(found)
    return [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor)]
