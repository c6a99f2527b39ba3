"""Operations: for each, which axes of what it is given are which axes of what it gives.

A rule reads a ``Call`` and returns the axes of the outcome (a list of them where it has several).
It unifies axes that are paired index by index, keeps those in place whose order matters, and leaves
the others alone. An operation without a rule keeps everything in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ravine.alignment.axes import (
    MEETS,
    POSITION,
    Axes,
    Axis,
    Unlike,
    become_family,
    chain,
    cut,
    families,
    leaves,
    member,
    product,
    stacked,
    stay,
    tie,
    tie_all,
    viewed,
)
from ravine.alignment.calls import UNIFORM, Call, Stacked, fresh, is_pointwise

Rule = Callable[[Call], Any]

RULES: Final[dict[str, Rule]] = {}
_MOST_STACKED: Final = 16  # queries, keys, values; gates; a few branches
_MOST_BRANCHES: Final = 64  # that one call stacks: each has units of its own


def axes_after(call: Call) -> Any:
    """The axes of what a call gives."""
    rule = RULES.get(call.name)
    if rule is None and is_pointwise(call.target):
        rule = pointwise
    if rule is None:
        return call.unfollowed()
    try:
        return rule(call)
    except Unlike:
        return call.unfollowed()


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _stay(axes: Sequence[Axis], reason: str = POSITION) -> None:
    for axis in axes:
        stay(axis, reason)


def _ordered(call: Call) -> str:
    """Why an axis stays in place whose order an operation looks at."""
    return f"{call.target} depends on its order"


def _position(size: int) -> Axis:
    return Axis(size, POSITION)


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


# --- element by element ---------------------------------------------------------------------------


@_rule("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout", "lift_fresh_copy")
@_rule("masked_fill", "nan_to_num", "fill")
def pointwise(call: Call) -> Axes:
    """Broadcast: axes that meet are the same axis."""
    return broadcast(call.tensors, call.shape)


def broadcast(given: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """The axes of tensors that are broadcast together, aligned at the last one."""
    found: list[Axis] = []
    same: list[tuple[Axis, Axis]] = []
    for back, size in enumerate(reversed(shape), start=1):
        here = [axes[-back] for axes in given if len(axes) >= back]
        real = [axis for axis in here if axis.size == size != 1]
        same += [(real[0], other) for other in real[1:]]
        found.append(real[0] if real else Axis(size))
    tie_all(same)
    return tuple(reversed(found))


@_rule(*UNIFORM)
def uniform(call: Call) -> Axes:
    """One value everywhere: any order is as good as another."""
    return fresh(call.node.meta["val"], None)


@_rule("arange", "eye", "linspace", "logspace")
def constant(call: Call) -> Axes:
    """Values that the order of the units must not move."""
    return fresh(call.node.meta["val"], f"{MEETS}the numbers of {call.target}")


@_rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> Axes:
    """Normalised along one axis, in any order."""
    axes = call.axes("self")
    call.statistics.append(_without(axes, [call["dim"]]))
    return axes


@_rule("cumsum", "cumprod", "logcumsumexp", "flip", "roll", "tril", "triu", "sort", "cummax")
def ordered(call: Call) -> Any:
    """The order along some axes, or two for a triangle, decides."""
    axes = call.axes("self")
    last_two = [-2, -1] if call.name in ("tril", "triu") else None
    dims = last_two or _listed(call["dims"] if call["dims"] is not None else call["dim"])
    dims = [dim % len(axes) for dim in dims] or list(range(len(axes)))
    stacks = [dim for dim in dims if _is_over(axes, dim)]
    if stacks and call.name in ("flip", "roll") and call["dims"]:
        shifts = _listed(call["shifts"]) if call.name == "roll" else [0] * len(dims)
        _stay([axes[dim] for dim in dims if dim not in stacks], _ordered(call))
        for dim, shift in zip(dims, shifts, strict=True):
            if dim in stacks:
                numbers = list(range(axes[dim].size))
                turned = numbers[::-1] if call.name == "flip" else _rolled(numbers, shift)
                axes = _restacked(call, axes, dim, turned)
        return axes
    for dim in stacks:
        _one_order(axes, dim)
    _stay([axes[dim] for dim in dims], _ordered(call))
    several = isinstance(call.node.meta["val"], list | tuple)
    return [axes, axes] if several else axes


def _rolled(numbers: list[int], shift: int) -> list[int]:
    start = -shift % max(len(numbers), 1)
    return numbers[start:] + numbers[:start]


# --- shape ----------------------------------------------------------------------------------------


@_rule("view", "_unsafe_view", "reshape", "unflatten", "flatten")
def view(call: Call) -> Axes:
    """Factors regrouped."""
    return viewed(call.axes("self"), call.shape)


@_rule("permute")
def permute(call: Call) -> Axes:
    """Axes in another order."""
    axes = call.axes("self")
    return tuple(axes[dim] for dim in call["dims"])


@_rule("transpose")
def transpose(call: Call) -> Axes:
    """Two axes exchanged."""
    axes = list(call.axes("self"))
    one, two = call["dim0"], call["dim1"]
    axes[one], axes[two] = axes[two], axes[one]
    return tuple(axes)


@_rule("t", "numpy_T")
def reverse(call: Call) -> Axes:
    """Axes in reverse."""
    return call.axes("self")[::-1]


@_rule("unsqueeze")
def unsqueeze(call: Call) -> Axes:
    """A new axis of one index."""
    axes, dim = call.axes("self"), call["dim"]
    place = dim if dim >= 0 else dim + len(axes) + 1
    return _inserted(axes, place, Axis(1))


@_rule("squeeze")
def squeeze(call: Call) -> Axes:
    """Axes of one index taken out."""
    axes, dim = call.axes("self"), call["dim"]
    dims = range(len(axes)) if dim is None else [d % len(axes) for d in _listed(dim)]
    return tuple(a for place, a in enumerate(axes) if a.size != 1 or place not in dims)


@_rule("expand")
def expand(call: Call) -> Axes:
    """What is repeated is alike, in any order."""
    return broadcast([call.axes("self")], call.shape)


@_rule("repeat")
def repeat(call: Call) -> Axes:
    """Copies one after another: the copy's number, then the index."""
    axes = call.axes("self")
    counts = call["repeats"]
    padded = [Axis(1)] * (len(counts) - len(axes)) + list(axes)
    return tuple(product([Axis(n), axis]) for n, axis in zip(counts, padded, strict=True))


@_rule("repeat_interleave")
def repeat_interleave(call: Call) -> Axes:
    """Copies of each index side by side."""
    axes, dim, count = list(call.axes("self")), call["dim"], call["repeats"]
    if not isinstance(count, int) or dim is None:
        raise Unlike
    axes[dim] = product([axes[dim], Axis(count)])
    return tuple(axes)


@_rule("stack")
def stack(call: Call) -> Axes:
    """Branches along a new axis."""
    given = [call.of(node) for node in call["tensors"]]
    place = call["dim"] % (len(given[0]) + 1)
    if len(given) <= _MOST_BRANCHES:
        return _stack(given, place)
    for other in given[1:]:
        tie_all(zip(given[0], other, strict=True))
    return _inserted(given[0], place, _position(len(given)))


@_rule("cat")
def cat(call: Call) -> Axes:
    """A chain along one axis; the others are the same, but for branches that are stacked."""
    given = [axes for axes in map(call.of, call["tensors"]) if not _is_empty(axes)]
    dim = call["dim"] % len(given[0])
    if _are_branches(given, dim):
        branches = [one for axes in given for one in _unstacked(axes, dim)]
        return _stack(branches, dim)
    out = list(given[0])
    for other in given[1:]:
        for place, axis in enumerate(other):
            if place != dim:
                tie(out[place], axis)
    out[dim] = chain([axes[dim] for axes in given])
    return tuple(out)


def _is_empty(axes: Axes) -> bool:
    """Whether it is the tensor of shape (0,), which goes with every other shape in a ``cat``."""
    return len(axes) == 1 and axes[0].size == 0


def _are_branches(given: Sequence[Axes], dim: int) -> bool:
    """Whether an axis only tells apart what is put together along it.

    Then each may have units of its own.
    """
    along = [axes[dim] for axes in given]
    others = [leaf for axes in given for axis in _without(axes, [dim]) for leaf in leaves(axis)]
    is_free = any(leaf.reason is None and leaf.size > 1 for leaf in others)
    is_same = all(
        one.root is two.root
        for axes in given[1:]
        for one, two in zip(_without(given[0], [dim]), _without(axes, [dim]), strict=True)
    )
    if is_same and not any(_is_over(axes, dim) for axes in given):
        return False
    most = _MOST_BRANCHES if all(axis.size == 1 for axis in along) else _MOST_STACKED
    is_few = 1 < sum(axis.size for axis in along) <= most
    numbered = all(leaf.reason for axis in along for leaf in leaves(axis) if leaf.size > 1)
    return is_free and is_few and numbered


def _unstacked(axes: Axes, dim: int) -> list[Axes]:
    """What stands at each index of an axis that stays in place."""
    over, rest = axes[dim], _without(axes, [dim])
    return [_at(rest, over, number) for number in range(over.size)]


def _at(axes: Axes, over: Axis, number: int) -> Axes:
    """Of each axis, what belongs to one index of another one."""
    return tuple(member(axis, over, number) for axis in axes)


def _stack(branches: Sequence[Axes], place: int) -> Axes:
    """Branches along a new axis: of each other axis, the units of every branch.

    What comes after may tie them: a sum over the branches does, a layer that has them all in a
    row does not.
    """
    over = _position(len(branches))
    together: list[Axis] = []
    for parts in zip(*branches, strict=True):
        if any(leaf.reason is None and leaf.size > 1 for part in parts for leaf in leaves(part)):
            together.append(stacked(parts, over))
            continue
        tie_all([(parts[0], part) for part in parts[1:]])
        together.append(parts[0])
    return _inserted(tuple(together), place, over)


@_rule("split_with_sizes", "split", "chunk")
def split_up(call: Call) -> list[Axes]:
    """A chain taken apart."""
    axes, dim = call.axes("self"), call["dim"]
    rest = axes[dim]
    if {value.shape[dim] for value in call.node.meta["val"]} == {1} and _is_stack(axes, dim):
        members = _members(call, axes, dim, range(rest.size))
        return [_inserted(one, dim % len(axes), Axis(1)) for one in members]
    if _is_over(axes, dim):
        starts = itertools.accumulate((v.shape[dim] for v in call.node.meta["val"]), initial=0)
        ranges = [range(start, end) for start, end in itertools.pairwise(starts)]
        return [_restacked(call, axes, dim, numbers) for numbers in ranges]
    found = []
    for value in call.node.meta["val"]:
        size = value.shape[dim]
        first, rest = (rest, Axis(0)) if size == rest.size else _cut(rest, size)
        found.append(_with(axes, dim, first))
    return found


@_rule("slice")
def part(call: Call) -> Axes:
    """A segment of one axis."""
    axes, dim = call.axes("self"), call["dim"]
    size, length = axes[dim].size, call.shape[dim]
    if length == size:
        return axes
    start = call["start"] or 0
    start = max(start + size, 0) if start < 0 else start
    if length and _is_over(axes, dim):
        step = call["step"]
        return _restacked(call, axes, dim, range(start, start + length * step, step))
    if call["step"] != 1 or not length:
        _stay([axes[dim]], _ordered(call))
        return _with(axes, dim, _position(length))
    if length == 1 and _is_stack(axes, dim):
        return _inserted(_members(call, axes, dim, [start])[0], dim % len(axes), Axis(1))
    rest = axes[dim]
    if start:
        _, rest = _cut(rest, start)
    if length < rest.size:
        rest, _ = _cut(rest, length)
    return _with(axes, dim, rest)


def _cut(axis: Axis, size: int) -> tuple[Axis, Axis]:
    """Cut where the structure allows; else in place, and two new axes."""
    if size == 0:
        return Axis(0), axis
    try:
        return cut(axis, size)
    except Unlike:
        _stay([axis], "it is cut where its parts do not end")
        return _position(size), _position(axis.size - size)


@_rule("select")
def select(call: Call) -> Axes:
    """One index of an axis, whose order therefore matters."""
    stacked = call.stacked("self")
    if stacked is not None and call["dim"] == 0:
        return stacked.layers[call["index"]]
    return _members(call, call.axes("self"), call["dim"], [call["index"]])[0]


@_rule("unbind")
def unbind(call: Call) -> list[Axes]:
    """Every index of an axis by itself."""
    axes, dim = call.axes("self"), call["dim"]
    return _members(call, axes, dim, range(axes[dim].size))


def _members(call: Call, axes: Axes, dim: int, numbers: Iterable[int]) -> list[Axes]:
    """What stands at some indices of an axis.

    Where that axis is a factor of parameters' axes (queries, keys and values in one matrix), what
    is stacked there has units of its own.
    """
    over, rest = axes[dim].root, _without(axes, [dim])
    is_stack = _is_stack(axes, dim)
    for leaf in _inside(axes, dim) if over.reason is None and is_stack else ():
        become_family(leaf, over)
    _stay([over], POSITION if is_stack else _ordered(call))
    return [_at(rest, over, number % over.size) for number in numbers]


def _restacked(call: Call, axes: Axes, dim: int, numbers: Iterable[int]) -> Axes:
    """Some of what is stacked along an axis, stacked anew."""
    return _stack(_members(call, axes, dim, numbers), dim % len(axes))


def _one_order(axes: Axes, dim: int) -> None:
    """Give all that is stacked along an axis the same order."""
    for axis in _without(axes, [dim]):
        for one in list(families(axis)):
            if one.over.root is axes[dim].root:
                tie_all([(one.parts[0], part) for part in one.parts[1:]])


def _is_over(axes: Axes, dim: int) -> bool:
    """Whether units of other axes are told apart by the index of this one."""
    over = axes[dim].root
    return any(one.over.root is over for axis in axes for one in families(axis))


def _is_stack(axes: Axes, dim: int) -> bool:
    """Whether an axis tells things apart that have units of their own."""
    over = axes[dim].root
    is_new = over.kind == "leaf" and over.reason is None and 1 < over.size <= _MOST_STACKED
    return _is_over(axes, dim) or (is_new and bool(_inside(axes, dim)))


def _inside(axes: Axes, dim: int) -> list[Axis]:
    """The units that could be members of a family over an axis."""
    found = [leaf for axis in _without(axes, [dim]) for leaf in leaves(axis)]
    return [leaf for leaf in found if leaf.reason is None and leaf.size > 1]


@_rule("index_select", "gather")
def picked(call: Call) -> Axes:
    """Indices of one axis are chosen by number."""
    axes, dim = call.axes("self"), call["dim"]
    if call.name == "gather":
        _stay([*axes, *call.axes("index")], _ordered(call))
        return fresh(call.node.meta["val"], POSITION)
    numbers = call.numbers(call["index"])
    if numbers and _is_over(axes, dim):
        return _restacked(call, axes, dim, numbers)
    _stay([axes[dim]], _ordered(call))
    return _with(axes, dim, _position(call.shape[dim]))


@_rule("index")
def index(call: Call) -> Axes:
    """Indices of some axes, chosen by number.

    What was chosen stands where those axes did, if they are side by side.
    """
    axes = call.axes("self")
    places = [place for place, given in enumerate(call["indices"]) if given is not None]
    numbers = call.numbers(call["indices"][places[0]]) if len(places) == 1 else []
    if numbers and _is_over(axes, places[0]):
        return _restacked(call, axes, places[0], numbers)
    for given in call["indices"]:
        if given is not None:
            _stay(call.of(given))
    _stay([axes[place] for place in places], _ordered(call))
    kept = [axis for place, axis in enumerate(axes) if place not in places]
    together = places == list(range(places[0], places[0] + len(places)))
    before = places[0] if together else 0
    made = call.shape[before : len(call.shape) - len(kept) + before]
    return (*kept[:before], *map(_position, made), *kept[before:])


@_rule("constant_pad_nd")
def pad(call: Call) -> Axes:
    """One value before and behind, in any order."""
    axes, amounts = list(call.axes("self")), call["pad"]
    for back in range(len(amounts) // 2):
        before, behind = amounts[2 * back : 2 * back + 2]
        place = len(axes) - 1 - back
        if min(before, behind) < 0:
            raise Unlike
        axes[place] = chain([Axis(before), axes[place], Axis(behind)])
    return tuple(axes)


def _with(axes: Axes, dim: int, axis: Axis) -> Axes:
    place = dim % len(axes)
    return (*axes[:place], axis, *axes[place + 1 :])


def _inserted(axes: Axes, place: int, axis: Axis) -> Axes:
    return (*axes[:place], axis, *axes[place:])


def _without(axes: Axes, dims: Sequence[int]) -> Axes:
    places = {dim % len(axes) for dim in dims}
    return tuple(axis for place, axis in enumerate(axes) if place not in places)


# --- sums over an axis ----------------------------------------------------------------------------


@_rule("sum", "mean", "amax", "amin", "prod", "var", "std", "var_mean", "std_mean", "logsumexp")
@_rule("linalg_vector_norm", "any", "all", "nansum", "nanmean", "count_nonzero", "median", "mode")
@_rule("max", "min", "argmax", "argmin", "nanmedian")
def reduce(call: Call) -> Any:
    """One value for many, whatever their order, but for those that say which it was."""
    if "other" in call.arguments and call["other"] is not None:
        return pointwise(call)
    axes = call.axes("self")
    dim = call["dim"]
    dims = range(len(axes)) if dim is None or dim == [] else _listed(dim)
    several = isinstance(call.node.meta["val"], list | tuple)
    says_which = call.name.startswith("arg") or (
        call.name in ("max", "min", "median", "nanmedian", "mode")
        and several
        and call.uses_output(1)
    )
    if says_which:
        _stay([axes[d] for d in dims], _ordered(call))
    kept = _without(axes, list(dims)) if axes else axes
    if call["keepdim"]:
        places = {d % len(axes) for d in dims}
        kept = tuple(Axis(1) if place in places else a for place, a in enumerate(axes))
    return [kept, kept] if several else kept


@_rule("topk", "kthvalue")
def ranked(call: Call) -> list[Axes]:
    """The largest, by rank, and which they were."""
    axes, dim = call.axes("self"), call["dim"]
    _stay([axes[dim]], _ordered(call))
    return [_with(axes, dim, _position(value.shape[dim])) for value in call.node.meta["val"]]


# --- products -------------------------------------------------------------------------------------


@_rule("mm", "bmm", "matmul")
def matrices(call: Call) -> Axes:
    """(…, i, j) by (…, j, k)."""
    other = "mat2" if call["mat2"] is not None else "other"
    return _multiplied(call, call.axes("self"), call.axes(other))


def _multiplied(call: Call, one: Axes, two: Axes) -> Axes:
    if min(len(one), len(two)) < 2:
        raise Unlike
    batch = [max(a.size, b.size) for a, b in zip(one[-3::-1], two[-3::-1], strict=False)][::-1]
    longer = max(one[:-2], two[:-2], key=len)
    batch = [a.size for a in longer[: len(longer) - len(batch)]] + batch
    lead = broadcast([one[:-2], two[:-2]], batch)
    tie(one[-1], two[-2])
    call.contracted.append(one[-1])
    return (*lead, one[-2], two[-1])


@_rule("addmm", "baddbmm")
def added_product(call: Call) -> Axes:
    """A product and what is added to it."""
    first, second = ("mat1", "mat2") if call.name == "addmm" else ("batch1", "batch2")
    made = _multiplied(call, call.axes(first), call.axes(second))
    return broadcast([made, call.axes("self")], call.shape)


@_rule("mv")
def matrix_vector(call: Call) -> Axes:
    """(i, j) by (j)."""
    rows, columns = call.axes("self")
    tie(columns, call.axes("vec")[0])
    call.contracted.append(columns)
    return (rows,)


@_rule("dot", "vdot")
def inner(call: Call) -> Axes:
    """(j) by (j)."""
    other = "tensor" if call["tensor"] is not None else "other"
    tie(call.axes("self")[0], call.axes(other)[0])
    return ()


@_rule("linear")
def linear(call: Call) -> Axes:
    """(…, j) by (i, j), plus (i)."""
    given, weight = call.axes("input"), call.axes("weight")
    tie(given[-1], weight[1])
    call.contracted.append(given[-1])
    if call["bias"] is not None:
        tie(weight[0], call.axes("bias")[0])
    return (*given[:-1], weight[0])


@_rule("_trilinear")
def trilinear(call: Call) -> Axes:
    """Three tensors spread over common axes, multiplied, summed over some: a bilinear layer."""
    spread = []
    for number in "123":
        axes = call.axes(f"i{number}")
        for place in sorted(call[f"expand{number}"]):
            axes = _inserted(axes, place, Axis(1))
        spread.append(axes)
    sizes = [max(axis.size for axis in together) for together in zip(*spread, strict=True)]
    whole = broadcast(spread, sizes)
    return _without(whole, call["sumdim"])


@_rule("embedding")
def embedding(call: Call) -> Axes:
    """A row by number."""
    rows, *columns = call.axes("weight")
    _stay([rows])
    return (*call.axes("indices"), *columns)


@_rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> list[Axes]:
    """Sums of rows by number."""
    rows, columns = call.axes("weight")
    _stay([rows])
    found = fresh(call.node.meta["val"], POSITION)
    found[0] = (found[0][0], columns)
    return found


@_rule("convolution")
def convolution(call: Call) -> Axes:
    """Channels within each group, and positions."""
    given, weight = call.axes("input"), call.axes("weight")
    groups = call["groups"]
    lead = len(given) - len(weight) + 1  # 0 without a batch
    group = Axis(groups)
    channels, positions = given[lead], given[lead + 1 :]
    if call["transposed"]:
        each = weight[1]
        tie(channels, weight[0])
        tie(weight[0], product([group, Axis(channels.size // groups)]))
        out = product([group, each])
    else:
        each = Axis(weight[0].size // groups)
        tie(channels, product([group, weight[1]]))
        out = product([group, each])
        tie(weight[0], out)
    if call["bias"] is not None:
        tie(out, call.axes("bias")[0])
    call.contracted.append(channels)
    _stay(weight[2:])
    return (*given[:lead], out, *_moved(call, positions, call.shape[lead + 1 :]))


def _moved(call: Call, positions: Axes, sizes: Sequence[int]) -> Axes:
    """Positions after a kernel: the same ones where it has one index and goes everywhere."""
    kernel = [axis.size for axis in call.axes("weight")[2:]]
    amounts = [*_listed(call["padding"]), *_listed(call["output_padding"])]
    if set(kernel) | set(_listed(call["stride"])) == {1} and not any(amounts):
        return positions
    _stay(positions, _ordered(call))
    return tuple(map(_position, sizes))


@_rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
@_rule("max_pool2d_with_indices", "max_pool3d_with_indices", "_adaptive_avg_pool2d")
@_rule("_adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
@_rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@_rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d")
@_rule("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d")
@_rule("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa")
@_rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
@_rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def over_positions(call: Call) -> Any:
    """Each channel by itself, over 1, 2 or 3 last axes."""
    given = call.axes("self" if call["self"] is not None else "input")
    rank = next(int(c) for c in call.name if c in "123")
    _stay(given[-rank:], _ordered(call))
    value = call.node.meta["val"]
    several = isinstance(value, list | tuple)
    sizes = (value[0] if several else value).shape[-rank:]
    out = (*given[:-rank], *map(_position, sizes))
    return [out, out] if several else out


# --- normalisation --------------------------------------------------------------------------------


@_rule("_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm")
@_rule("native_batch_norm", "_batch_norm_no_update", "_native_batch_norm_legit_functional")
def batch_norm(call: Call) -> Any:
    """Each channel by its own statistics."""
    given = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            tie(given[1], call.axes(name)[0])
    value = call.node.meta["val"]
    if not isinstance(value, list | tuple):
        return given
    channels = given[1]
    out = [given]
    for part in value[1:]:
        # what it saves for the backward pass: a number for each channel, or nothing at all
        is_by_channel = part.ndim > 0 and part.shape[0] == channels.size
        out.append((channels,) if is_by_channel else tuple(map(_position, part.shape)))
    return out


@_rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Any:
    """The last axes by their joint statistics."""
    given, rank = call.axes("input"), len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if call[name] is not None:
            tie_all(zip(given[-rank:], call.axes(name), strict=True))
    call.statistics.append(given[:-rank])
    several = isinstance(call.node.meta["val"], list | tuple)
    return [given, *fresh(call.node.meta["val"], POSITION)[1:]] if several else given


@_rule("group_norm", "native_group_norm")
def group_norm(call: Call) -> Any:
    """Groups of channels by their joint statistics."""
    given = call.axes("input")
    groups = call["num_groups"] or call["group"]
    group = Axis(groups)
    tie(given[1], product([group, Axis(given[1].size // groups)]))
    for name in ("weight", "bias"):
        if call[name] is not None:
            tie(given[1], call.axes(name)[0])
    call.statistics.append((given[0], group))
    several = isinstance(call.node.meta["val"], list | tuple)
    return [given, *fresh(call.node.meta["val"], POSITION)[1:]] if several else given


# --- attention and recurrence ---------------------------------------------------------------------


@_rule("scaled_dot_product_attention")
def attention(call: Call) -> Axes:
    """softmax(q kᵀ) v, with each key's head for as many queries' as there are."""
    query, key, value = (call.axes(name) for name in ("query", "key", "value"))
    lead = [broadcast([key[:-2], value[:-2]], [axis.size for axis in value[:-2]])]
    if call["enable_gqa"] and query[-3].size != key[-3].size:
        heads = product([key[-3], Axis(query[-3].size // key[-3].size)])
        lead = [(*lead[0][:-1], heads)]
    batch = broadcast([query[:-2], *lead], [axis.size for axis in query[:-2]])
    tie_all([(query[-1], key[-1]), (key[-2], value[-2])])
    call.contracted.append(query[-1])
    scores = (*batch, query[-2], key[-2])
    if call["attn_mask"] is not None:
        broadcast([scores, call.axes("attn_mask")], [axis.size for axis in scores])
    if call["is_causal"]:
        _stay([query[-2], key[-2]])
    call.statistics.append((*batch, query[-2]))
    return (*batch, query[-2], value[-1])


@_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> list[Any]:
    """Every gate has the state's units; each layer and direction has its own."""
    if call["input"] is None:
        raise Unlike  # a packed sequence
    gates = {"lstm": 4, "gru": 3}.get(call.name, 1)
    given, ways = call.axes("input"), 2 if call["bidirectional"] else 1
    hidden = call["hx"] if call.name == "lstm" else [call["hx"]]
    weights = list(map(call.of, call["params"]))
    each = len(weights) // (call["num_layers"] * ways)
    has_projection = call.name == "lstm" and each == (5 if call["has_biases"] else 3)
    taken, units = given[-1], []
    for layer in range(call["num_layers"]):
        found = []
        for way in range(ways):
            at = (layer * ways + way) * each
            found.append(_cell(weights[at : at + each], gates, taken, has_projection))
        units += found
        taken = chain([out for out, _ in found])
    lead = given[:-1]
    is_batched = len(given) > 2
    time = 1 if is_batched and call["batch_first"] else 0
    _stay([given[time]], _ordered(call))
    call.contracted += [given[-1], *(out for out, _ in units), *(cell for _, cell in units)]
    batch = _without(lead, [time])
    states = [Stacked([(*batch, out) for out, _ in units])]
    if call.name == "lstm":
        states.append(Stacked([(*batch, cell) for _, cell in units]))
    for start, state in zip(hidden, states, strict=True):
        if not call.is_uniform(start):
            tie_all(zip(call.of(start), state.merged(), strict=True))
    return [(*lead, taken), *states]


def _cell(weights: list[Axes], gates: int, taken: Axis, has_projection: bool) -> tuple[Axis, Axis]:
    """The units that one layer gives in one direction, and those that it holds."""
    of_input, of_state, *rest = weights
    unit = Axis(of_input[0].size // gates)
    out = rest.pop()[0] if has_projection else unit
    stacked = product([_position(gates), unit])
    for bias in rest:
        tie(stacked, bias[0])
    tie(of_input[0], stacked)
    tie(of_state[0], stacked)
    tie(of_input[1], taken)
    tie(of_state[1], out)
    if has_projection:
        tie(weights[-1][1], unit)
    return out, unit


def is_view(name: str) -> bool:
    """Whether an operation only shows the same numbers under other axes."""
    return name in _VIEWS


_VIEWS: Final = frozenset(
    {"view", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand"}
    | {"slice", "select", "split_with_sizes", "clone", "alias", "detach", "_to_copy", "repeat"}
)
