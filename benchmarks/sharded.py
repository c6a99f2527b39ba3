"""Memory of a process that shares a model: GPT-2 medium (355M) by one, two and four of them.

    python benchmarks/sharded.py            # gloo, CPU processes of this machine; some minutes

Each process holds its part of the model, of the values to give back and of both corners, all in
float32, and reads the corners from folders of ``torch.distributed.checkpoint``. The line has 3
points, on 1 × 64 tokens.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GPT2Config, GPT2LMHeadModel

import ravine
from ravine.points.sharded import gather

LAYERS, WIDTH, HEADS, TOKENS = 24, 1024, 16, 64


def shared(mesh):
    """The model, of which no process ever held more than its part."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)).eval()
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    model.tie_weights()
    return model


def draw(model, seed):
    """Other random weights."""
    gather(model)
    torch.manual_seed(seed + 100 * dist.get_rank())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().normal_(std=0.02)


def memory(field):
    """GiB of this process, of its own and shared pages: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / (1 << 20)
    raise RuntimeError(field)


def run(rank, processes, folder):
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    model = shared(init_device_mesh("cpu", (processes,)))
    for seed in (0, 1):
        draw(model, seed)
        dcp.save(model.state_dict(), checkpoint_id=f"{folder}/{seed}")
    del model
    gc.collect()  # modules and their hooks hold one another
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    model = shared(init_device_mesh("cpu", (processes,)))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter.to_local())
    line = ravine.Line(*(ravine.sharded(f"{folder}/{seed}", model) for seed in (0, 1)))
    ids = torch.arange(TOKENS)[None]
    J = ravine.Objective(model, ravine.causal_lm(), ({"input_ids": ids},), batch_size=1)
    curve = ravine.evaluate(J, along=line, at=[0.0, 0.5, 1.0])
    if rank == 0:
        losses = ", ".join(f"{loss:.4f}" for loss in curve["loss"].values.flat)
        print(
            f"| {processes} | {memory('VmHWM') - before:.2f} | {time.process_time() - cpu:.0f} "
            f"| {time.perf_counter() - began:.0f} | {losses} |",
            flush=True,
        )
    dist.barrier()
    dist.destroy_process_group()


def main():
    """A table, a row for each number of processes."""
    print(
        "| processes | GiB at most, in each | CPU s, in each | s | losses "
        "|\n|---:|---:|---:|---:|---|"
    )
    for processes in map(int, sys.argv[1:] or ("1", "2", "4")):
        folder = tempfile.mkdtemp(dir=os.environ.get("TMPDIR"))
        try:
            mp.start_processes(run, (processes, folder), nprocs=processes, start_method="fork")
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
