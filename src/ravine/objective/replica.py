"""Replica: the private copy of a model that is moved from point to point."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.attributes import Attributes, held_tensors, moves_on_mode
from ravine.points.formats.stamps import Stamp
from ravine.points.params import combine, is_float, pieces, same_values

_NOISE: Final = 1 << 20  # random numbers that are drawn to perturb all parameters
_ROOM: Final = 1 << 30  # bytes, where nobody says how much is free


class Replica:
    """A private copy of a model, moved from point to point.

    Only the structure is copied from the caller's model, which is never touched: the tensors are
    made new on ``device`` in ``dtype``, so that a model on the meta device costs nothing beside it.

    Args:
        model: the caller's model.
        dtype: of the floating-point parameters and buffers.
        device: where to compute.

    Raises:
        InputError: the model cannot be copied.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.module = self._copy_of(model, dtype, device)
        #: whether modules do something of their own when their mode changes, with their
        #: weights perhaps
        self.toggles = bool(moves_on_mode(self.module))
        #: whether what a forward pass leaves in plain attributes is taken away at every move
        self.resets = False
        if self.toggles:
            self.module.train()  # parameters as they are trained, and saved
        self.attributes = Attributes(self.module)
        self._dropout = "off"
        self._unknown = _without_values(model)
        self.params = dict(self.module.named_parameters())
        self.buffers = dict(self.module.named_buffers())
        #: (parameter or buffer, its value at each corner), for what moves
        self.moving: list[tuple[Tensor, list[Tensor]]] = []
        #: files that corners are mapped from: to read one that was cut short would end the process
        self.files: Sequence[Stamp] = ()
        #: what it moves between, by name
        self.corners: Sequence[Mapping[str, Tensor]] = ()
        #: ids of parameters that are brought up to date only when ``refresh`` asks for it
        self.lazy: frozenset[int] = frozenset()
        self._points: dict[int, list[Tensor]] = {}
        self._stale: set[int] = set()
        self._here: tuple[float, ...] = ()
        self._fixed: list[tuple[Tensor, Tensor]] = []
        self._shaken = False
        self._homes: list[_Home] = []
        #: whether images have their channels last in memory
        self.channels_last = False
        #: whether units have a scale and a shift, of a ``Correction``
        self.is_corrected = False

    def _copy_of(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
        return _replicate(model, dtype, device)

    def span(self, corners: Sequence[Mapping[str, Tensor]]) -> None:
        """Set what the replica moves between: each corner's tensors by name; missing ones stay.

        What is the same at every corner is copied once. What differs stays where it is (mapped from
        a file, say), or is held in the replica's precision and on its device if it is not, and that
        is not too much.
        """
        targets = {**self.params, **self.buffers}
        self.moving, self._fixed, self.corners = [], [], corners
        _require_values(self._unknown, corners[0])
        for name in corners[0]:
            if name not in targets:
                continue  # evaluation mode makes it, of the weights of the point
            target = targets[name]
            points = [corner[name] for corner in corners]
            if not is_float(target) or all(same_values(points[0], other) for other in points[1:]):
                self._fixed.append((target, points[0]))
                target.copy_(points[0])
                continue
            self.moving.append((target, points))
        self._convert()
        self._points = {id(target): points for target, points in self.moving}
        self._homes = self._found_homes()

    def _found_homes(self) -> list[_Home]:
        followed = memories(self.params.values())  # a view of a parameter moves with it
        return [
            _Home(owner, name, buffer, buffer.clone(), buffer._version)
            for owner in self.module.modules()
            for name, buffer in owner.named_buffers(recurse=False)
            if id(buffer) not in self._points and not followed & memories([buffer])
        ]

    def _convert(self) -> None:
        """Hold the corners as the replica computes, smallest tensors first, while there is room.

        What has no room is converted piece by piece, anew at every point.
        """
        room = _room(next(iter(self.params.values())).device)
        for number in sorted(range(len(self.moving)), key=lambda i: self.moving[i][0].numel()):
            target, points = self.moving[number]
            wide = torch.promote_types(target.dtype, torch.float32)
            room -= sum(
                p.numel() * wide.itemsize
                for p in points
                if p.dtype != wide or p.device != target.device
            )
            if room < 0:
                break
            self.moving[number] = (target, [point.to(target.device, wide) for point in points])

    def lay_out(self, *, channels_last: bool) -> None:
        """Keep convolutions' weights, at the corners too, with channels last, or as usual.

        The numbers are the same; which is faster depends on the machine and the layers.
        """
        self.channels_last = channels_last
        form = torch.channels_last if channels_last else torch.contiguous_format
        # what a view looks at must stay where it is
        viewed = memories(tensor for _, _, tensor in _plain_tensors(self.module))
        viewed |= memories(self.buffers.values())
        for parameter in self.params.values():
            if parameter.ndim == 4 and not viewed & memories([parameter]):
                parameter.data = parameter.data.contiguous(memory_format=form)
        for number, (target, points) in enumerate(self.moving):
            if target.ndim == 4 and sum(point.nbytes for point in points) < _ROOM:
                self.moving[number] = (
                    target,
                    [point.contiguous(memory_format=form) for point in points],
                )
        self._points = {id(target): points for target, points in self.moving}

    def move_to(self, coefficients: tuple[float, ...]) -> None:
        """Overwrite the parameters with one point's, and undo what a pass did to buffers.

        Raises:
            InputError: a file that a corner is mapped from has changed.
        """
        self.require_files()
        self.restore_buffers()
        if self.resets:
            self.attributes.restore()
        if self.toggles:
            self.module.train()  # evaluation mode may have written to any parameter
        if self._shaken or self.toggles:
            for target, point in self._fixed:
                target.copy_(point)
            self._shaken = False
        self._here = coefficients
        self._stale = set() if self.toggles else set(self.lazy)
        for target, points in self.moving:
            if id(target) not in self._stale:
                combine(points, coefficients, target)
        if self.toggles:
            self.enter_modes()
            self._keep_buffers()

    def require_files(self) -> None:
        """Raise if a file that a corner is mapped from has changed.

        Raises:
            InputError: naming it.
        """
        for file in self.files:
            file.require_same()

    def _keep_buffers(self) -> None:
        """What evaluation mode made of the weights is what forward passes start from."""
        for home in self._homes:
            now = home.owner._buffers.get(home.name)
            if now is None or (now is home.buffer and now._version == home.version):
                continue
            home.buffer, home.value, home.version = now, now.clone(), now._version

    def restore_buffers(self) -> None:
        """Undo what a forward pass wrote to buffers, or put in their place."""
        for home in self._homes:
            if getattr(home.owner, home.name, None) is not home.buffer:
                setattr(home.owner, home.name, home.buffer)
            if home.buffer._version != home.version:
                home.version = home.buffer.copy_(home.value)._version

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """Give some buffers other values to start every forward pass from."""
        given = {id(self.buffers[name]): value for name, value in buffers.items()}
        for home in self._homes:
            if id(home.buffer) in given:
                home.value = given[id(home.buffer)]
                home.version = home.buffer.copy_(home.value)._version

    def spoil(self) -> None:
        """Fill the lazy parameters with NaN: reading one without ``refresh`` is found out."""
        for target, _ in self.moving:
            if id(target) in self.lazy:
                target.fill_(float("nan"))

    def refresh(self, target: Tensor) -> None:
        """Bring a lazy parameter up to date."""
        if id(target) in self._stale:
            self._stale.discard(id(target))
            combine(self._points[id(target)], self._here, target)

    @property
    def fixed(self) -> list[Tensor]:
        """What is the same at every point: the parameters and buffers that do not move."""
        return [
            t for t in [*self.params.values(), *self.buffers.values()] if id(t) not in self._points
        ]

    def perturb(self, generator: torch.Generator, within: torch.dtype | None = None) -> None:
        """Multiply every parameter by 1 ± one unit of rounding: as good a stand-in for the point.

        The next ``move_to`` undoes it.

        Args:
            generator: of the random numbers.
            within: the type whose unit of rounding is meant, where the model
                computes in a narrower one than it is held in.
        """
        self._shaken = True
        if self.toggles:
            self.module.train()
        targets = list(filter(is_float, self.params.values()))
        if not targets:
            return
        size = min(_NOISE, sum(target.numel() for target in targets))
        # on the CPU, whose generator gives the same numbers whatever device computes
        noise = torch.empty(size, dtype=torch.float32, device="cpu")
        noise.uniform_(-1, 1, generator=generator)
        start = 0
        for target in targets:
            unit = torch.finfo(within or target.dtype).eps
            # pieces of another layout are copies
            for piece in pieces(target) if target.is_contiguous() else [target]:
                count = piece.numel()
                start = (start + count) % max(size - count, 1)  # other numbers for a like tensor
                drawn = (
                    noise[start : start + count]
                    if count <= size
                    else noise.repeat(-(-count // size))[:count]
                )
                piece.addcmul_(piece, drawn.view(piece.shape).to(piece), value=unit)
        if self.toggles:
            self.enter_modes()
            self._keep_buffers()

    def norms(self) -> dict[str, nn.Module]:
        """The modules that carry running statistics, by name."""
        return running_norms(self.module)

    def set_modes(self, dropout: str) -> None:
        """Evaluation mode; with dropout, training mode but for modules with running statistics."""
        self._dropout = dropout
        self.enter_modes()
        if self.toggles:
            self._keep_buffers()
        self.attributes = Attributes(self.module)

    def enter_modes(self) -> None:
        """The modes that were set last."""
        self.module.train(self._dropout != "off")
        for norm in self.norms().values():
            norm.eval()


@dataclass
class _Home:
    """A buffer, where it hangs, and the value that every forward pass starts from."""

    owner: nn.Module
    name: str
    buffer: Tensor
    value: Tensor
    version: int


def _room(device: torch.device) -> int:
    """Bytes that copies of the corners may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _ROOM


def _require_values(unknown: Sequence[str], given: Mapping[str, Tensor]) -> None:
    """What has no value in the model (it is on the meta device) has to have one at the corners."""
    lacking = [name for name in unknown if name not in given]
    if lacking:
        msg = (
            f"the model is on the meta device, so {lacking[0]!r} has no value, and the "
            "checkpoints do not hold it either: build the model on a real device"
        )
        raise InputError(msg)


def _without_values(model: nn.Module) -> list[str]:
    """The buffers on the meta device, and plain tensors there."""
    plain = [
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and value.device.type == "meta"
    ]
    return plain + [name for name, buffer in model.named_buffers() if buffer.device.type == "meta"]


def running_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model that carry running statistics, by name."""
    return {
        n: m
        for n, m in model.named_modules()
        if "running_mean" in dict(m.named_buffers(recurse=False))
    }


def _replicate(model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A deep copy in which every tensor is replaced by a new one, before any is copied."""
    made: dict[Any, Any] = {}
    names: dict[int, str] = {}
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        data = torch.empty(parameter.shape, dtype=_compute_dtype(parameter, dtype), device=device)
        made[id(parameter)] = nn.Parameter(data, requires_grad=False)
        if memory_of(parameter):
            names[memory_of(parameter)] = name
        if not is_float(parameter):
            data.copy_(parameter)
    for owner, name, value in [*_buffers(model), *_plain_tensors(model)]:
        if id(value) in made:
            continue
        if value.device.type == "meta":
            is_buffer = owner is None
            made[id(value)] = torch.empty(
                value.shape,
                dtype=_compute_dtype(value, dtype) if is_buffer else value.dtype,
                device=device if is_buffer else "meta",
            )
            continue
        shared = names.get(memory_of(value))
        if shared is None:
            # weight_norm of old keeps its product here, and computes it anew in every forward pass
            made[id(value)] = value.detach().to(device, _compute_dtype(value, dtype)).clone()
            continue
        parameter = parameters[shared]
        view = _view_of(made[id(parameter)], like=value, of=parameter)
        if view is None:
            raise _unfollowed(shared, f"{owner or type(model).__name__} keeps {name!r}, which")
        made[id(value)] = view
    watched = {parameters[name].untyped_storage()._cdata: name for name in names.values()}
    made["torch"] = _Storages(watched)
    try:
        # a memo of the tensors made above: deepcopy takes these, and copies no others' memory
        copied = copy.deepcopy(model, made)
    except InputError:
        raise
    except Exception as problem:
        msg = (
            f"the model {type(model).__name__} cannot be copied ({problem}); ravine measures on a "
            "copy, so that "
            "yours stays untouched. Remove the attribute or hook that cannot be copied."
        )
        raise InputError(msg) from problem
    for module in copied.modules():
        if isinstance(module, torch.jit.ScriptModule):  # its copy takes no tensors made above
            module.to(device, dtype)
    _require_whole(model, copied, names)
    return copied


class _Storages(dict[int, Any]):
    """What deepcopy keeps memory in that it has copied: asked for a parameter's, it refuses.

    Whatever holds such memory, deep inside some object perhaps, would be left with values that no
    point has.

    Args:
        watched: storage of a parameter → its name.
    """

    def __init__(self, watched: Mapping[int, str]) -> None:
        super().__init__()
        self._watched = watched

    def __contains__(self, key: object) -> bool:
        if isinstance(key, int) and key in self._watched:
            raise _unfollowed(self._watched[key], "an object that the model keeps")
        return super().__contains__(key)


def _unfollowed(parameter: str, what: str) -> InputError:
    return InputError(
        f"{what} shares memory with the parameter {parameter!r}; a copy of the model cannot follow "
        "it. Compute it in forward."
    )


def _view_of(copied: Tensor, *, like: Tensor, of: Tensor) -> Tensor | None:
    """What a view of a parameter is of the parameter's copy; None where that cannot be said.

    It has the same memory as the copy, so it is always at the same point.
    """
    if like.dtype != of.dtype or not of.is_contiguous():
        return None
    first = like.storage_offset() - of.storage_offset()
    steps = zip(like.shape, like.stride(), strict=True)
    last = first + sum((size - 1) * step for size, step in steps)
    if first < 0 or last >= of.numel():
        return None
    return copied.detach().as_strided(like.shape, like.stride(), first)


def memories(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Where some tensors lie in memory, those left out that have none of their own to share."""
    return frozenset(place for place in map(memory_of, tensors) if place)


def memory_of(tensor: Tensor) -> int:
    """Where a tensor lies in memory, as do its views; 0 if it has none of its own to share."""
    strided = tensor.layout == torch.strided and not tensor.is_nested
    return tensor.untyped_storage().data_ptr() if strided and tensor.device.type != "meta" else 0


def _buffers(model: nn.Module) -> Iterator[tuple[None, str, Tensor]]:
    for name, buffer in model.named_buffers():
        yield None, name, buffer


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    seen: set[int] = set()
    for module in model.modules():
        for name, tensor in held_tensors(module, seen):
            yield type(module).__name__, name, tensor


def _require_whole(model: nn.Module, copied: nn.Module, names: Mapping[int, str]) -> None:
    """A model may say itself how it is copied (``__deepcopy__``); what comes out must be a copy."""
    there = {n: p.shape for n, p in model.named_parameters(remove_duplicate=False)}
    here = {n: p.shape for n, p in copied.named_parameters(remove_duplicate=False)}
    tied = len(list(model.parameters())), len(list(copied.parameters()))
    shares = any(p.numel() and p.untyped_storage().data_ptr() in names for p in copied.parameters())
    if there != here or tied[0] != tied[1] or shares:
        msg = (
            f"a deep copy of {type(model).__name__} is not an independent model with the same "
            "parameters and ties; does it define __deepcopy__?"
        )
        raise InputError(msg)


def _compute_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return torch.promote_types(dtype, torch.complex64)
    return dtype if tensor.is_floating_point() else tensor.dtype
