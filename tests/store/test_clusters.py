"""Real clusters of processes: one process's numbers, whichever workers are killed."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from test_executors import AT, KINDS, data, line, losses, net, normed, same

import ravine

WORKERS = 2

# of the libraries about themselves and each other
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def pool():
    with ravine.Workers(WORKERS, seconds=0.2) as workers:
        yield workers


@contextmanager
def dask():
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=WORKERS, silence_logs=50, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield ravine.Workers(client, seconds=0.2)


@contextmanager
def ray():
    library = pytest.importorskip("ray")
    from ravine.integrations.ray import RayExecutor

    os.environ["RAY_AUTH_MODE"] = "disabled"  # or it writes a token to the home folder
    os.environ.setdefault("RAY_worker_niceness", "0")  # or a busy machine gives them nothing
    library.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        with RayExecutor(WORKERS) as executor:
            yield ravine.Workers(executor, seconds=0.2)
    finally:
        library.shutdown()


CLUSTERS = {one.__name__: one for one in (pool, dask, ray)}


@pytest.mark.clusters
@pytest.mark.parametrize("cluster", ["dask", "ray"])
def test_a_cluster_gives_the_bits_of_one_process(cluster, tmp_path):
    with CLUSTERS[cluster]() as workers:
        for name, make in KINDS.items():
            if name == "masked":
                continue
            J, along = make(), line(normed if name == "recomputed" else net)
            found = ravine.evaluate(J, along=along, at=AT, executor=workers)
            same(ravine.evaluate(J, along=along, at=AT), found)
        J, store = KINDS["plain"](), tmp_path / "measured.sqlite"
        found = ravine.resolve(J, along=line(), executor=workers, store=store)
        same(ravine.resolve(J, along=line()), found)


@pytest.mark.clusters
@pytest.mark.parametrize("kind", ["plain", "stateful"])
def test_jobs_give_the_bits_of_one_process(kind, tmp_path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(folder=tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # as a job's script finds its packages
    J = KINDS[kind]()
    found = ravine.evaluate(J, along=line(), at=AT, executor=ravine.Workers(executor, count=2))
    same(ravine.evaluate(J, along=line(), at=AT), found)
    jobs = len(list((tmp_path / "jobs").glob("*_submitted.pkl")))
    assert jobs <= 8  # few and long ones


@pytest.mark.clusters
def test_a_cluster_that_has_lost_all_its_workers_is_waited_for_so_long():
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=1, silence_logs=50, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        J, spread = KINDS["plain"](), ravine.Workers(client, seconds=0.2, patience=3)
        same(
            ravine.evaluate(J, along=line(), at=AT),
            ravine.evaluate(J, along=line(), at=AT, executor=spread),
        )
        cluster.scale(0)
        while client.nthreads():
            time.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(ravine.InputError, match="has had no worker for 3 seconds"):
            ravine.evaluate(J, along=line(), at=AT, executor=spread)
        assert time.monotonic() - began < 60


def slow(folder, model, batch):
    """Losses that take a while; a worker says who it is, and what it did."""
    if os.getpid() != int(os.environ["RAVINE_CALLER"]):
        (Path(folder) / f"{os.getpid()}.pid").touch()
        with open(Path(folder) / "calls", "ab") as calls:
            calls.write(b".")
        time.sleep(0.002)  # so that a kill comes while there is work
    return losses(model, batch)


class Killer(threading.Thread):
    """Kills workers at random moments until it is told to stop."""

    def __init__(self, folder, seed, most):
        super().__init__(daemon=True)
        self.folder, self.drawn, self.most = folder, random.Random(seed), most
        self.killed, self.over = set(), threading.Event()

    def run(self):
        while not self.over.wait(self.drawn.uniform(0.1, 2)) and len(self.killed) < self.most:
            there = {int(path.stem) for path in self.folder.glob("*.pid")} - self.killed
            alive = sorted(pid for pid in there if Path(f"/proc/{pid}").exists())
            if alive:
                pid = self.drawn.choice(alive)
                os.kill(pid, signal.SIGKILL)
                self.killed.add(pid)


@pytest.mark.kills
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_workers_that_are_killed_change_no_bit(cluster, tmp_path, monkeypatch):
    wanted = int(os.environ.get("RAVINE_KILLS", "6"))
    monkeypatch.setenv("RAVINE_CALLER", str(os.getpid()))
    (tmp_path / "calls").touch()
    J = ravine.Objective(net(), functools.partial(slow, tmp_path), data(), batch_size=500)
    at = np.linspace(0, 1, 41)
    whole = ravine.evaluate(J, along=line(), at=at)
    calls = lambda: (tmp_path / "calls").stat().st_size  # noqa: E731
    with CLUSTERS[cluster]() as workers:
        same(whole, ravine.evaluate(J, along=line(), at=at, executor=workers))
        in_one_go = calls()
        kills = runs = most = 0
        while kills < wanted:
            before = calls()
            killer = Killer(tmp_path, f"{cluster}{runs}", wanted - kills)
            killer.start()
            same(whole, ravine.evaluate(J, along=line(), at=at, executor=workers))
            killer.over.set()
            killer.join()
            repeated = calls() - before - in_one_go
            print(f"{cluster}: {kills + len(killer.killed)} kills", flush=True)  # noqa: T201
            kills, runs = kills + len(killer.killed), runs + 1
            if killer.killed:
                most = max(most, repeated / len(killer.killed))
    print(  # noqa: T201  with -s: the figures of docs/how-to/many-machines.md
        f"{cluster}: {kills} kills in {runs} runs; at most {most:.0f} of {in_one_go} calls "
        "repeated for each"
    )
    tile = 17 * 41  # of a whole block of 8,500 examples: the largest that an order can be
    assert most <= WORKERS * (tile + 2)
