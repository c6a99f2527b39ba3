"""The affine prefix: what a model does first, done once for all points.

The first layer sees data, not activations. Where its weights are the slice's own, its output is
affine in the coefficients: ``linear(x, Σ cᵢ Wᵢ) = Σ cᵢ linear(x, Wᵢ)``. So it is computed once at
each corner of the slice and combined for every point, which replaces a matrix product by one pass
over its output. On the paper's maxout network that product is three quarters of all the work.

It is found by watching the torch functions that a forward pass calls, so it needs nothing of the
model: it works in any module or hand-written function, and keeps out wherever an input is not
untouched data, a weight is not a parameter itself (a parametrisation, say), gradients are wanted,
or it would not pay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from ravine.points.params import combine, version_of

#: Least number of products per output number. Below, the product costs no more than what would
#: replace it: two reads and a write are worth some 60 multiplications and additions, and watching
#: costs something too (measured: at 64 it is slower, at 784 three times faster).
LEAST_DEPTH: Final = 128

#: What combining the corners' outputs costs, in the same unit.
_COMBINING: Final = 60

_T: Any = Tensor  # descriptors are not methods to a type checker

#: Functions that are linear in (weight, bias) for fixed inputs: → names of their arguments, inputs
#: first.
_PRODUCTS: Final[dict[Any, tuple[str, ...]]] = {
    F.linear: ("input", "weight", "bias"),
    torch.conv1d: ("input", "weight", "bias"),
    torch.conv2d: ("input", "weight", "bias"),
    torch.conv3d: ("input", "weight", "bias"),
    torch.matmul: ("input", "other"),
    torch.mm: ("input", "mat2"),
    _T.matmul: ("self", "other"),
    _T.mm: ("self", "mat2"),
    _T.__matmul__: ("self", "other"),
    torch.addmm: ("input", "mat1", "mat2"),
    F.embedding: ("input", "weight"),
}

#: Rearrangements: of data they give data, of a parameter something linear in it.
_VIEWS: Final[frozenset[Any]] = frozenset(
    [
        *(
            torch.flatten,
            torch.reshape,
            torch.permute,
            torch.transpose,
            torch.t,
            torch.squeeze,
            torch.unsqueeze,
        ),
        *(
            _T.flatten,
            _T.reshape,
            _T.view,
            _T.permute,
            _T.transpose,
            _T.t,
            _T.squeeze,
            _T.unsqueeze,
        ),
        *(
            _T.contiguous,
            _T.to,
            _T.float,
            _T.double,
            _T.detach,
            _T.__getitem__,
            _T.unflatten,
            _T.expand,
        ),
        *(_T.T.__get__, _T.mT.__get__, torch.unflatten, _T.view_as, _T.reshape_as),
    ]
)

#: Of data, and numbers, these give data.
_ARITHMETIC: Final[frozenset[Any]] = frozenset(
    [
        *(torch.add, torch.sub, torch.mul, torch.div, torch.cat, torch.stack),
        *(_T.add, _T.sub, _T.mul, _T.div, _T.__add__, _T.__sub__, _T.__mul__, _T.__truediv__),
        *(_T.__radd__, _T.__rsub__, _T.__rmul__, _T.__rtruediv__, F.pad, torch.clone, _T.clone),
    ]
)

#: Questions about a tensor that its values do not enter.
_METADATA: Final[frozenset[Any]] = frozenset(
    [
        *(
            _T.size,
            _T.dim,
            _T.stride,
            _T.numel,
            _T.__len__,
            _T.is_floating_point,
            _T.is_complex,
            _T.is_contiguous,
        ),
        *(
            _T.shape.__get__,
            _T.dtype.__get__,
            _T.device.__get__,
            _T.ndim.__get__,
            _T.requires_grad.__get__,
        ),
        *(
            _T.is_cuda.__get__,
            _T.layout.__get__,
            _T.is_sparse.__get__,
            _T.is_nested.__get__,
            _T.is_leaf.__get__,
        ),
    ]
)


class AffinePrefix(TorchFunctionMode):
    """Watches forward passes: products of data and moving parameters come from the corners'.

    Args:
        corners: (parameter, its value at each corner), for the parameters that move.
        fixed: parameters and buffers that are the same at every point.
        refresh: called with a parameter that something is about to read; brings its values up to
            date.
        limit: bytes of corner outputs to hold; beyond, products are computed as they stand.
    """

    def __init__(
        self,
        corners: Sequence[tuple[Tensor, Sequence[Tensor]]],
        fixed: Sequence[Tensor],
        refresh: Callable[[Tensor], None],
        limit: int,
    ) -> None:
        super().__init__()
        self._corners = {id(parameter): (parameter, points) for parameter, points in corners}
        self._fixed = fixed
        self._refresh = refresh
        self._limit = limit
        self._held = 0
        self._outputs: dict[Any, list[Tensor]] = {}
        self._refused: set[Any] = set()
        self._data: dict[int, tuple[Any, Tensor, int]] = {}
        self._linear: dict[int, tuple[Any, Tensor, Tensor, Sequence[Tensor]]] = {}
        self._coefficients: tuple[float, ...] = ()
        #: parameters that products took in, and those that anything else read
        self.in_products: set[int] = set()
        self.read: set[int] = set()
        #: in the last pass: calls looked at; multiplications and additions that products did
        #: not take
        self.watched = 0
        self.spared = 0

    def forget(self) -> None:
        """Drop the corner outputs: the next batches are others."""
        self._outputs.clear()
        self._refused.clear()
        self._held = 0

    def begin(self, number: int, leaves: Iterable[Any], coefficients: tuple[float, ...]) -> None:
        """Get ready for one forward pass.

        Args:
            number: of the batch; its corner outputs are kept under it.
            leaves: of the batch, the same at every pass over it.
            coefficients: of the point.
        """
        self._coefficients = coefficients
        self.watched = self.spared = 0
        self._data = {id(tensor): ("fixed", tensor, version_of(tensor)) for tensor in self._fixed}
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                self._data[id(leaf)] = ((number, place), leaf, version_of(leaf))
        self._linear = {
            key: (key, parameter, parameter, points)
            for key, (parameter, points) in self._corners.items()
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer one call of a torch function."""
        kwargs = kwargs or {}
        self.watched += 1
        if func in _METADATA:
            return func(*args, **kwargs)
        if func in _PRODUCTS:
            found = self._product(func, args, kwargs)
            if found is not None:
                return found
        elif func in _VIEWS or func in _ARITHMETIC:
            found = self._rearranged(func, args, kwargs)
            if found is not None:
                return found
        for tensor in tensors_in(args, kwargs):
            owned = self._linear.get(id(tensor))
            if owned is not None:
                self.read.add(id(owned[2]))
                self._refresh(owned[2])
        return func(*args, **kwargs)

    def _rearranged(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Carry what is known about the arguments over to the result; None if it is not known."""
        tensors = list(tensors_in(args, kwargs))
        if tensors and all(map(self._is_data, tensors)):
            key = self._key(func, args, kwargs)
            result = func(*args, **kwargs)
            if isinstance(result, Tensor):
                self._data[id(result)] = (key, result, version_of(result))
            return result
        if (
            func in _VIEWS
            and len(tensors) == 1
            and args
            and tensors[0] is args[0]
            and id(tensors[0]) in self._linear
        ):
            known, _, root, points = self._linear[id(tensors[0])]
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor) or result.data_ptr() != tensors[0].data_ptr():
                return None  # a copy would be of values that may not be up to date
            views = [func(point, *args[1:], **kwargs) for point in points]
            self._linear[id(result)] = (
                (known, func, repr(args[1:]), repr(kwargs)),
                result,
                root,
                views,
            )
            return result
        return None

    def _product(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor | None:
        # what was computed at the corners has no graph: a gradient would not pass through it
        if torch.is_grad_enabled():
            return None
        given = {**dict(zip(_PRODUCTS[func], args, strict=False)), **kwargs}
        operands = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        moving = [name for name, value in operands.items() if id(value) in self._linear]
        fixed = [name for name in operands if name not in moving]
        if not moving or not fixed or not all(self._is_data(operands[name]) for name in fixed):
            return None
        if not _is_linear_in(func, moving) or not _pays(func, operands, moving):
            return None
        if func is F.embedding and (given.get("max_norm") is not None or len(args) > 3):
            return None  # it would rewrite rows of the table, here those of the corners
        key = self._key(func, args, kwargs)
        if key in self._refused:
            return None
        outputs = self._outputs.get(key)
        if outputs is None:
            count = len(self._coefficients)
            ends = [_replaced(args, kwargs, self._linear, corner) for corner in range(count)]
            outputs = [func(*at, **named) for at, named in ends]
            size = sum(output.nbytes for output in outputs)
            if self._held + size > self._limit:
                self._refused.add(key)
                return None
            self._held += size
            self._outputs[key] = outputs
        self.in_products.update(id(self._linear[id(operands[name])][2]) for name in moving)
        self.spared += outputs[0].numel() * (_depth(func, operands) - _COMBINING)
        return combine(outputs, self._coefficients, torch.empty_like(outputs[0]))

    def _is_data(self, tensor: Tensor) -> bool:
        """Whether it is the same at every point: known as such, and not written to since."""
        known = self._data.get(id(tensor))
        return known is not None and known[2] == version_of(tensor)

    def _key(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """What the call computes, in terms of the batch and the parameters."""

        def name(value: Any) -> Any:
            if isinstance(value, Tensor):
                known = self._linear.get(id(value)) or self._data[id(value)]
                # the replica holds what is fixed, so its id is not given to another tensor
                return id(value) if known[0] == "fixed" else known[0]
            if isinstance(value, list | tuple):
                return tuple(map(name, value))
            return repr(value)

        return (
            func,
            name(args),
            tuple((key, name(value)) for key, value in sorted(kwargs.items())),
        )


def _is_linear_in(func: Callable[..., Any], moving: Sequence[str]) -> bool:
    """Whether the call is affine in its moving operands together: a product of two is not."""
    if func is torch.addmm:
        return not {"mat1", "mat2"} <= set(moving)
    if func in (F.linear, torch.conv1d, torch.conv2d, torch.conv3d, F.embedding):
        return "input" not in moving
    return len(moving) == 1


def _pays(func: Callable[..., Any], operands: Mapping[str, Tensor], moving: Sequence[str]) -> bool:
    if func is F.embedding:
        # a gather is no dearer than the combination; what is saved is moving the table
        return operands["input"].numel() * 4 < operands["weight"].shape[0]
    return _depth(func, operands) >= LEAST_DEPTH


def _depth(func: Callable[..., Any], operands: Mapping[str, Tensor]) -> int:
    """Multiplications and additions for each number that a product gives."""
    if func is F.embedding:
        return _COMBINING
    if func in (torch.conv1d, torch.conv2d, torch.conv3d):
        return operands["weight"][0].numel()
    if func is F.linear:
        return operands["weight"].shape[-1]
    if func is torch.addmm:
        return operands["mat1"].shape[-1]
    return next(iter(operands.values())).shape[-1]


def _replaced(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], linear: Mapping[int, Any], corner: int
) -> Any:
    def at_corner(value: Any) -> Any:
        return (
            linear[id(value)][3][corner]
            if isinstance(value, Tensor) and id(value) in linear
            else value
        )

    return tuple(map(at_corner, args)), {name: at_corner(value) for name, value in kwargs.items()}


def tensors_in(*values: Any) -> Iterator[Tensor]:
    """The tensors among values and nested tuples, lists and dicts of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(*value)
        elif isinstance(value, dict):
            yield from tensors_in(*value.values())
