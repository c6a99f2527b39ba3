"""What tests of sharded models run in every process: a small transformer, case by case."""

from __future__ import annotations

import datetime
import os
import signal
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional as F

import ravine

WORDS, WIDTH, LENGTH = 11, 6, 5  # which no number of processes here divides
GRID = [0.0, 0.3, 1.0, 1.2]


class Block(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, inside), nn.Linear(inside, WIDTH)
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.scale * self.down(torch.tanh(self.up(x)))


class Transformer(nn.Module):
    def __init__(self, *, is_tied=True, inside=7):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(inside) for _ in range(2))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if is_tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def made(seed, **options):
    torch.manual_seed(seed)
    return Transformer(**options)


def split(model, mesh=None):
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tokens():
    torch.manual_seed(5)
    return (torch.randint(0, WORDS, (7, LENGTH)),)


def loss(model, batch):
    (ids,) = batch
    scores = model(ids[:, :-1])
    return F.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def objective(model, function=loss, data=None):
    return ravine.Objective(model, function, data or tokens(), batch_size=3)


def numbers(curve):
    return {
        "loss": curve["loss"].values.tolist(),
        "stderr": curve["loss_stderr"].values.tolist(),
        "length": curve.attrs["length"],
        "hashes": [curve.attrs["start_hash"], curve.attrs["end_hash"]],
    }


def alone(**options):
    """On one process."""
    ends = [made(seed, **options).state_dict() for seed in (1, 2)]
    J = objective(made(0, **options))
    return numbers(ravine.evaluate(J, along=ravine.Line(*ends), at=GRID))


# --- cases, each run in every process -------------------------------------------------------------


def same_numbers(mesh, folder):
    """As on one process; from whole state dicts, from parts, and from folders of DCP."""
    for is_tied in (True, False):
        model = split(made(0, is_tied=is_tied), mesh)
        live = [split(made(seed, is_tied=is_tied), mesh) for seed in (1, 2)]
        for number, other in enumerate(live):
            dcp.save({"model": other.state_dict()}, checkpoint_id=f"{folder}/{is_tied}{number}")
        kinds = ["whole", "folders"] if is_tied and mesh.size() == 2 else ["whole"]
        if mesh.size() == 4 and is_tied:
            kinds = ["whole", "modules", "parts", "folders"]
        sources = {
            "whole": [made(seed, is_tied=is_tied).state_dict() for seed in (1, 2)],
            "modules": live,
            "parts": [other.state_dict() for other in live],
            "folders": [f"{folder}/{is_tied}{number}" for number in range(2)],
        }
        before = values(model)
        for kind in kinds:
            ends = [ravine.sharded(one, model) for one in sources[kind]]
            line = ravine.Line(*ends)
            found = numbers(ravine.evaluate(objective(model), along=line, at=GRID))
            assert abs(line.length / found["length"] - 1) < 1e-12
            yield is_tied, kind, found
        require_as_before(model, before)
        if mesh.size() == 2:
            continue
        plain = ravine.Line(*sources["whole"])
        yield is_tied, "uncut", numbers(ravine.evaluate(objective(model), along=plain, at=GRID))
        itself = live[0]
        line = ravine.Line(ravine.sharded(itself, itself), ravine.sharded(live[1], itself))
        yield is_tied, "itself", numbers(ravine.evaluate(objective(itself), along=line, at=GRID))


def other_ways(mesh, folder):
    """Tensor parallel on two processes; on four, two copies in two parts (torch wants that)."""
    if mesh.size() == 4:
        model = split(
            made(0, inside=8), init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "part"))
        )
    else:
        model = made(0, inside=8)
        for block in model.blocks:
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    before = values(model)
    line = ravine.Line(
        *(ravine.sharded(made(seed, inside=8).state_dict(), model) for seed in (1, 2))
    )
    yield numbers(ravine.evaluate(objective(model), along=line, at=GRID))
    require_as_before(model, before)


def resolved(mesh, folder):
    """A resolved curve, of which every process takes the same decisions."""
    model = split(made(0), mesh)
    line = ravine.Line(*(ravine.sharded(made(seed).state_dict(), model) for seed in (1, 2)))
    found = ravine.resolve(objective(model), along=line)
    yield found["alpha"].values.tolist(), found["loss"].values.tolist()


def what_fails_gives_the_model_back(mesh, folder):
    """An exception in the loss, in the middle of a forward pass too."""
    model = split(made(0), mesh)
    model.train()
    line = ravine.Line(*(ravine.sharded(made(seed).state_dict(), model) for seed in (1, 2)))
    before = values(model)
    calls = []

    def stumbles(module, batch):
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError("in the loss")
        return loss(module, batch)

    def breaks(*_):
        calls.append(1)
        if len(calls) > 6:
            raise ZeroDivisionError("in a block")

    for function, hooked in ((stumbles, False), (loss, True)):
        calls.clear()
        hook = model.blocks[1].up.register_forward_hook(breaks) if hooked else None
        try:
            ravine.evaluate(objective(model, function), along=line, at=GRID)
        except ZeroDivisionError as problem:
            yield str(problem)
        if hook is not None:
            hook.remove()
        require_as_before(model, before)
    yield numbers(ravine.evaluate(objective(model), along=line, at=GRID))["loss"]


def refusals(mesh, folder):
    """What would be wrong, or hang, in one sentence and in every process."""
    model = split(made(0), mesh)
    line = ravine.Line(*(ravine.sharded(made(seed).state_dict(), model) for seed in (1, 2)))
    (ids,) = tokens()
    broken = made(1).state_dict()
    broken["blocks.0.up.bias"][0] = float("nan")
    before = values(model)

    def by_rank(module, batch):
        return loss(module, batch) + 0.5 * dist.get_rank()

    def said(function):
        try:
            function()
        except ravine.InputError as problem:
            return str(problem)
        return "nothing"

    def measured(J, along=line, **options):
        return lambda: ravine.evaluate(J, along=along, at=GRID, **options)

    dealt = (ids[dist.get_rank() :].clone(),)
    yield said(measured(objective(model, data=dealt)))
    yield said(measured(objective(model, by_rank)))
    yield said(measured(objective(model), ravine.Line(ravine.sharded(broken, model), line.end)))
    yield said(measured(objective(model), store=f"{folder}/store.db"))
    yield said(measured(ravine.Objective(model, loss, tokens(), dropout="fixed")))
    yield said(measured(ravine.Objective(model, loss, tokens(), dtype=torch.float64)))
    yield said(lambda: ravine.sharded({"head.weight": torch.zeros(2)}, model))
    yield said(lambda: ravine.sharded(made(1).state_dict(), made(0)))
    require_as_before(model, before)


def a_lost_process(mesh, folder):
    """The others end with an error, and soon."""
    model = split(made(0), mesh)
    line = ravine.Line(*(ravine.sharded(made(seed).state_dict(), model) for seed in (1, 2)))
    calls = []

    def dies(module, batch):
        calls.append(1)
        if len(calls) == 6 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(module, batch)

    ravine.evaluate(objective(model, dies), along=line, at=GRID)
    yield "went on"


def values(model):
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    return {
        name: (id(tensor), getattr(tensor, "_local_tensor", tensor).detach().clone())
        for name, tensor in held.items()
    }, [module.training for module in model.modules()]


def require_as_before(model, before):
    """The same tensors with the same bits, in the same modes."""
    tensors, modes = values(model)
    assert modes == before[1]
    assert tensors.keys() == before[0].keys()
    for name, (tensor, value) in before[0].items():
        assert tensors[name][0] == tensor, name
        assert torch.equal(tensors[name][1], value), name


def run(rank, processes, case, folder):
    """One process of a case: what it yields is left in a file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=60),
    )
    mesh = init_device_mesh("cpu", (processes,))
    found = list(globals()[case](mesh, folder))
    torch.save(found, f"{folder}/found{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
