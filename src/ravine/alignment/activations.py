"""Activations: what the units of two networks do on the same batch, as blocks to be matched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ravine.alignment.matching import Pair
from ravine.alignment.structure import Structure

_MASKED: Final = 1e15  # in size; larger ones would overflow when squared


def activation_pairs(
    program: ExportedProgram,
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[Pair]:
    """Every unit's activations in both networks, with mean 0 and norm 1: products are correlations.

    Args:
        program: the traced graph.
        structure: of it.
        a: one network's tensors by name.
        b: the other's.
        args: what the model is called with.
        kwargs: likewise, by name.

    Returns:
        A pair for each block of each tensor between the layers; a unit that does nothing is 0.
    """
    one = _Recorder(program, structure, a).record(args, kwargs)
    other = _Recorder(program, structure, b).record(args, kwargs)
    return [pair for name in one for pair in _blocks(structure, name, one[name], other[name])]


class _Recorder(fx.Interpreter):
    """Runs the graph with other parameters, and keeps what the units do."""

    def __init__(
        self, program: ExportedProgram, structure: Structure, tensors: Mapping[str, Tensor]
    ) -> None:
        super().__init__(program.graph_module)
        self._program = program
        self._structure = structure
        self._tensors = tensors
        self._found: dict[str, Tensor] = {}

    def record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The activations by node."""
        flat = list(self._program._graph_module_flat_inputs(args, kwargs))
        for place, spec in enumerate(self._program.graph_signature.input_specs):
            name = spec.target or ""
            held = spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
            if held and name in self._tensors:
                flat[place] = self._tensors[name].to(flat[place])
        with torch.no_grad():
            self.run(*flat)
        return self._found

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        value = super().run_node(n)
        axes = self._structure.activations.get(n.name)
        if axes is not None and _is_of_units(self._structure, value, axes):
            self._found[n.name] = value
        return value


def _is_of_units(structure: Structure, value: Tensor, axes: Any) -> bool:
    blocks = structure.blocks(value, axes)
    return any(_free(structure, sets) for _, sets in blocks)


def _free(structure: Structure, sets: tuple[int, ...]) -> list[int]:
    """The axes along which units may change places."""
    return [place for place, n in enumerate(sets) if n >= 0 and structure.units[n].is_free]


def _blocks(structure: Structure, name: str, a: Tensor, b: Tensor) -> Iterator[Pair]:
    axes = structure.activations[name]
    both = zip(structure.blocks(a, axes), structure.blocks(b, axes), strict=True)
    for (one, sets), (other, _) in both:
        free = _free(structure, sets)
        if free and len(free) < len(sets):
            yield Pair(_standard(one, free), _standard(other, free), sets)


def _standard(block: Tensor, free: list[int]) -> Tensor:
    """Each unit over the other axes with mean 0 and norm 1; 0 where it does not vary.

    Scores of what is masked, −∞ or their type's least number, tell units apart by nothing, and
    are left out.
    """
    over = [place for place in range(block.ndim) if place not in free]
    values = block.float()
    is_real = values.abs() < _MASKED
    values = torch.where(is_real, values, 0.0)
    mean = values.sum(over, keepdim=True) / is_real.sum(over, keepdim=True).clamp_min(1)
    centred = torch.where(is_real, values - mean, 0.0)
    norm = centred.square().sum(over, keepdim=True).sqrt()
    return torch.where(norm > 0, centred / norm.clamp_min(1e-30), 0.0)
