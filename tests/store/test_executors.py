"""Executors: one process's numbers, bit for bit, whoever measures and whoever is killed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ravine
from ravine import cli
from ravine.store import workers
from ravine.store.executors import WorkerTraceback
from ravine.store.processes import require_readable_script

AT = np.linspace(0, 1, 7)
MANY = 20_000  # examples: three blocks
END = 0.14  # of a weight, which is 0.298 at the start of the line and 0.132 at its end


def losses(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def two_things(model, batch):
    logits = model(batch[0])
    return {
        "loss": F.cross_entropy(logits, batch[1], reduction="none"),
        "error": (logits.argmax(1) != batch[1]).double(),
    }


def carrying(model, batch, state):
    state = batch[0].new_zeros(()) if state is None else state
    found = losses(model, batch)
    return found + state, found.mean()


def rows(model, batch):
    """Values in rows, of which some are none: which rows, the batch says."""
    found = losses(model, batch)
    return torch.stack([found, torch.where(batch[1] > 0, found, torch.nan)], 1)


def diverged_rows(model, batch):
    found = rows(model, batch)
    far = model[0].weight.flatten()[0] < END
    return torch.full_like(found, torch.nan) if far else found


def of_a_bag(model, batch):
    return F.cross_entropy(model(batch[0])[:200], batch[1], reduction="none")


def data(count=MANY, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=drawn), torch.randint(0, 2, (count,), generator=drawn)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def normed(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def line(of=net):
    return ravine.Line(of(1).state_dict(), of(2).state_dict())


def plain():
    given = {"train": data(), "test": data(50, 1)}
    return ravine.Objective(net(), two_things, given, batch_size=1000)


def stream():
    given = list(zip(*(part.split(700) for part in data()), strict=True))
    return ravine.Objective(net(), losses, given)


def bags():
    """Batches that do not say how many examples they are: 500 rows, and 200 values."""
    x, y = data()
    given = [(x[i : i + 500], y[i : i + 200]) for i in range(0, MANY, 500)]
    return ravine.Objective(net(), of_a_bag, given)


def loaded():
    return ravine.Objective(net(), losses, DataLoader(TensorDataset(*data()), batch_size=500))


def stateful():
    return ravine.Objective(net(), ravine.stateful(carrying), [data(), data(MANY, 1)])


def masked():
    model = nn.Sequential(net(), nn.Dropout(0.5))
    return ravine.Objective(model, losses, data(), dropout="fixed", batch_size=1000)


def recomputed():
    return ravine.Objective(normed(), losses, data(), buffers="recompute", batch_size=1000)


def repaired():
    return plain().repaired()


def holed():
    return ravine.Objective(net(), rows, data(), batch_size=1000, strata=data()[1])


def diverging():
    """At the end nothing is finite: which values there are cannot be told from that point alone."""
    return ravine.Objective(net(), diverged_rows, data(), batch_size=1000)


def clustered():
    ids = np.arange(MANY) // 3
    return ravine.Objective(net(), losses, data(), batch_size=1000, clusters=ids)


KINDS = {
    one.__name__: one
    for one in (
        *(plain, stream, bags, loaded, stateful, masked, recomputed, repaired, holed, diverging),
        clustered,
    )
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two():
    with ravine.Workers(2, devices=["cpu:0", "cpu:1"], seconds=0.02) as started:
        yield started


def same(one, other):
    assert set(one.variables) == set(other.variables)
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_bits_of_one(kind, two):
    J = KINDS[kind]()
    along = line(normed if kind == "recomputed" else net)
    if kind == "masked":
        along = ravine.Line(*(nn.Sequential(net(s), nn.Dropout()).state_dict() for s in (1, 2)))
    same(
        ravine.evaluate(J, along=along, at=AT), ravine.evaluate(J, along=along, at=AT, executor=two)
    )


def test_planes_pairs_and_resolved_curves_too(two):
    J, sheet = plain(), ravine.Plane(*(net(seed).state_dict() for seed in (1, 2, 3)))
    grid = {"alpha": AT[:3], "beta": AT[:2]}
    same(
        ravine.evaluate(J, along=sheet, at=grid),
        ravine.evaluate(J, along=sheet, at=grid, executor=two),
    )
    pairs = ravine.pairs({name: net(seed).state_dict() for seed, name in enumerate("abc")})
    same(
        ravine.evaluate(J, along=pairs, at=AT),
        ravine.evaluate(J, along=pairs, at=AT, executor=two),
    )
    same(ravine.resolve(J, along=line()), ravine.resolve(J, along=line(), executor=two))


def test_comparisons_runs_and_policies_too(two):
    J, (a, b) = plain(), (net(seed).state_dict() for seed in (1, 2))
    assert ravine.compare(J, a, b) == ravine.compare(J, a, b, executor=two)
    run = [net(seed).state_dict() for seed in range(4)]
    same(ravine.project(run, objective=J), ravine.project(run, objective=J, executor=two))
    J, at = recomputed(), AT[:2]
    one = ravine.compare_buffers(J, line(normed), at)
    same(one, ravine.compare_buffers(J, line(normed), at, executor=two))


def test_a_store_keeps_what_workers_measure(two, tmp_path):
    J, store = plain(), tmp_path / "measured.sqlite"
    whole = ravine.evaluate(J, along=line(), at=AT)
    ravine.evaluate(J, along=line(), at=AT[::3], executor=two, store=store)
    found = ravine.evaluate(J, along=line(), at=AT, executor=two, store=store)
    assert found.attrs["reused"].startswith("3 of 7")
    same(whole, found)
    again = ravine.evaluate(J, along=line(), at=AT, store=store)
    assert again.attrs["reused"].startswith("7 of 7")
    same(whole, again)


def test_threads_are_those_of_a_worker_and_then_the_caller_s_again(two):
    torch.set_num_threads(2)
    try:
        found = ravine.evaluate(plain(), along=line(), at=AT, executor=two)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    same(ravine.evaluate(plain(), along=line(), at=AT), found)


def test_progress_comes_back(two, monkeypatch):
    done = []
    monkeypatch.setattr("ravine.measuring.rounds.ticker", lambda bar: done.append)
    ravine.evaluate(plain(), along=line(), at=AT, executor=two)
    looks = 0
    assert sum(done) == (MANY + 50) * len(AT) + looks
    assert len([part for part in done if part]) > 4


def is_worker():
    return multiprocessing.parent_process() is not None


def failing(model, batch):
    if is_worker() and 0.23 < float(model[0].weight.detach().flatten()[0]) < 0.25:
        raise ArithmeticError("no such thing")
    return losses(model, batch)


def test_a_failing_tile_names_its_point_its_batch_and_where_it_failed(two):
    J = ravine.Objective(net(), failing, data(), batch_size=1000)
    with pytest.raises(ArithmeticError, match="no such thing") as caught:
        ravine.evaluate(J, along=line(), at=AT, executor=two)
    assert "at alpha = 0.333333, split 'data', batch 0" in caught.value.__notes__
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in failing" in str(caught.value.__cause__)
    same(  # and the workers are as good as before
        ravine.evaluate(plain(), along=line(), at=AT),
        ravine.evaluate(plain(), along=line(), at=AT, executor=two),
    )


def dying(place, model, batch):
    """Kill the worker that first comes to the third point of the line."""
    third = 0.23 < float(model[0].weight.detach().flatten()[0]) < 0.25
    if is_worker() and third and not Path(place).exists():
        Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return losses(model, batch)


class Elsewhere(Executor):
    """Calls at once, as another process does; and loses some calls."""

    def __init__(self, lose=lambda number: False):
        self.calls, self.lose, self.told = 0, lose, []

    def submit(self, function, call):
        self.calls += 1
        future = Future()
        if self.lose(self.calls):
            future.set_exception(RuntimeError("the worker is gone"))
        else:
            self.told.append(bool(call.parts))
            future.set_result(function(replace(call, caller=("elsewhere", 1))))
        return future


@pytest.fixture
def forgetful(monkeypatch):
    """Workers that know nothing yet."""
    monkeypatch.setattr(workers, "_OBJECTIVES", OrderedDict())
    monkeypatch.setattr(workers, "_SEATS", OrderedDict())


def test_lost_calls_are_made_again_and_not_for_ever(forgetful):
    J = plain()
    whole = ravine.evaluate(J, along=line(), at=AT)
    spread = ravine.Workers(Elsewhere(lambda number: number % 3 == 0), seconds=0.001)
    same(whole, ravine.evaluate(J, along=line(), at=AT, executor=spread))
    never = Elsewhere(lambda number: True)
    with pytest.raises(ravine.InputError, match="lost 3 times in a row while .* None has answered"):
        ravine.evaluate(J, along=line(), at=AT, executor=never)
    soon = Elsewhere(lambda number: number > 2)
    with pytest.raises(ravine.InputError, match=r"lost 21 times .* the worker is gone\). Does it"):
        ravine.evaluate(J, along=line(), at=AT, executor=ravine.Workers(soon, seconds=0.001))


class Deserted:
    """An executor that has workers at first, and then none, nor any more answers."""

    class Client:
        def __init__(self, answers):
            self.left = answers

        def nthreads(self):
            if self.left == 0:
                raise OSError("the scheduler is gone")
            return {"worker": 1} if self.left > 1 else {}

    def __init__(self, answers):
        self._client, self._inner = self.Client(answers), Elsewhere()

    def submit(self, function, call):
        if self._client.left <= 1:
            return Future()
        self._client.left -= 1
        return self._inner.submit(function, call)


@pytest.mark.parametrize("answers", [0, 1, 4])
def test_an_executor_without_workers_is_waited_for_so_long(forgetful, answers):
    spread = ravine.Workers(Deserted(answers), seconds=0.001, patience=0.2)
    began = time.monotonic()
    with pytest.raises(ravine.InputError, match="has had no worker for 0 seconds.*patience=3600"):
        ravine.evaluate(plain(), along=line(), at=AT, executor=spread)
    assert time.monotonic() - began < 30


def test_data_go_to_a_worker_once(forgetful, monkeypatch):
    monkeypatch.setattr("ravine.store.executors._SMALL", 0)
    inline = Elsewhere()
    ravine.evaluate(
        plain(), along=line(), at=AT, executor=ravine.Workers(inline, count=1, seconds=0.001)
    )
    assert inline.told.count(True) == 1
    assert len(inline.told) > 4


def test_a_worker_that_was_told_nothing_asks(forgetful, monkeypatch):
    monkeypatch.setattr("ravine.store.executors._SMALL", 0)
    inline = Elsewhere()
    J, spread = plain(), ravine.Workers(inline, count=1, seconds=0.001)
    whole = ravine.evaluate(J, along=line(), at=AT)

    def submit(function, call):
        if inline.calls == 3:  # the worker has been replaced
            workers._OBJECTIVES.clear()
            workers._SEATS.clear()
        return Elsewhere.submit(inline, function, call)

    monkeypatch.setattr(inline, "submit", submit)
    same(whole, ravine.evaluate(J, along=line(), at=AT, executor=spread))
    assert inline.told.count(True) == 2


def other_in_workers(what):
    """An objective that is another one in a worker."""
    here = 0 if multiprocessing.parent_process() is None else 1
    if what == "examples":
        return ravine.Objective(net(), losses, data(seed=here), batch_size=1000)
    if what == "loss":
        scale = 1.0 + here
        return ravine.Objective(net(), lambda m, b: scale * losses(m, b), data(), batch_size=1000)
    return ravine.Objective(net(), losses, {"ab"[here]: data()}, batch_size=1000)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("examples", "a worker's objective is not the caller's|gave a worker other examples"),
        ("loss", "a worker's objective is not the caller's: the first losses of split 'data'"),
        ("splits", r"objective has the splits \['b'\], and the caller's has 'a' too"),
    ],
)
def test_a_worker_with_another_objective_is_refused(two, what, said):
    J = ravine.load_objective(functools.partial(other_in_workers, what))
    with pytest.raises(ravine.InputError, match=said):
        ravine.evaluate(J, along=line(), at=AT, executor=two)


def test_shuffled_data_are_refused(two):
    shuffled = DataLoader(TensorDataset(*data()), batch_size=500, shuffle=True)
    J = ravine.Objective(net(), losses, shuffled)
    with pytest.raises(ravine.InputError, match="other examples than the caller|not the caller's"):
        ravine.evaluate(J, along=line(), at=AT, executor=two)


def test_what_cannot_be_sent_is_refused(two):
    def locked(model, batch, lock=threading.Lock()):  # noqa: B008
        return losses(model, batch)

    J = ravine.Objective(net(), locked, data())
    with pytest.raises(ravine.InputError, match=r"cannot be sent to workers .*load_objective"):
        ravine.evaluate(J, along=line(), at=AT, executor=two)


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        (0, "expected a positive number of worker processes; got 0"),
        (True, "expected a positive number"),
        ("pool", "must be a number of processes, or have the interface .* got str"),
        (ThreadPoolExecutor(1), "workers are threads"),
        (
            ProcessPoolExecutor(1, multiprocessing.get_context("fork")),
            "made? its processes by fork|by fork",
        ),
    ],
    ids=["none", "a flag", "a word", "threads", "forks"],
)
def test_no_executor(executor, said):
    with pytest.raises(ravine.InputError, match=said):
        ravine.evaluate(plain(), along=line(), at=AT, executor=executor)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"count": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"devices": []},
        {"patience": 0},
    ],
    ids=str,
)
def test_no_workers(options):
    with pytest.raises(ravine.InputError, match=next(iter(options))):
        ravine.Workers(2, **options)


def test_workers_that_are_threads_of_dask_say_so(forgetful):
    class Inline(Elsewhere):
        def submit(self, function, call):
            future = Future()
            future.set_result(function(call))
            return future

    with pytest.raises(ravine.InputError, match="threads of the calling process"):
        ravine.evaluate(plain(), along=line(), at=AT, executor=Inline())


def where(place, model, batch):
    """Losses; and a file, named after the device of the process."""
    if is_worker():
        at = workers._SELF
        Path(f"{place}-{at.number}-{at.devices[at.number % 2]}").touch()
    return losses(model, batch)


def test_each_process_has_a_device_of_its_own(two, tmp_path):
    J = ravine.Objective(
        net(), functools.partial(where, tmp_path / "seen"), data(), batch_size=1000
    )
    found = ravine.evaluate(J, along=line(), at=AT, executor=two)
    same(ravine.evaluate(J, along=line(), at=AT), found)
    seen = {path.name for path in tmp_path.glob("seen*")}
    assert seen
    assert seen <= {"seen-0-cpu:0", "seen-1-cpu:1"}


def test_the_command_line_has_workers(tmp_path, monkeypatch):
    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    monkeypatch.setattr(cli, "_deliver", lambda out, results, *rest: given.append(results["line"]))
    Path("objective.py").write_text("from test_executors import plain as make, spread\n")
    for seed in (1, 2):
        torch.save(net(seed).state_dict(), f"{seed}.pt")
    command = ["line", "objective.py:make", "1.pt", "2.pt", "--alpha", "0:1:5", "--out", "o"]
    cli.app([*command, "--executor", "objective.py:spread"], standalone_mode=False)
    cli.app([*command, "--store", "none"], standalone_mode=False)
    cli.app([*command, "--jobs", "1"], standalone_mode=False)  # all is kept: none is started
    same(given[0], given[1])
    same(given[0], given[2])
    assert "5 of 5 points" in given[2].attrs["reused"]
    with pytest.raises(ravine.InputError, match=r"executor must be file\.py:function"):
        cli.app([*command, "--executor", "spread"], standalone_mode=False)


def spread():
    return Elsewhere()


def test_a_lost_worker_s_tiles_are_done_again(two, tmp_path):
    loss = functools.partial(dying, tmp_path / "killed")
    J = ravine.Objective(net(), loss, data(), batch_size=1000)
    found = ravine.evaluate(J, along=line(), at=AT, executor=two)
    assert (tmp_path / "killed").exists()
    same(ravine.evaluate(J, along=line(), at=AT), found)


def test_a_worker_that_may_have_no_children_reads_alone(forgetful, monkeypatch):
    monkeypatch.setattr(workers, "current_process", lambda: SimpleNamespace(daemon=True))
    loader = DataLoader(TensorDataset(*data()), batch_size=500, num_workers=1, timeout=9)
    split = ravine.Objective(net(), losses, loader).splits[0]
    alone = workers._readable(split)
    assert (loader.num_workers, alone.source.num_workers) == (1, 0)
    assert len(list(alone.batches(500))) == MANY / 500


def test_an_executor_that_was_shut_down_is_refused():
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    pool.shutdown()
    with pytest.raises(ravine.InputError, match="takes no work .* shut down"):
        ravine.evaluate(plain(), along=line(), at=AT, executor=pool)


_SCRIPT = """
import torch, ravine
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
model = torch.nn.Linear(1, 1, bias=False)
values = lambda model, batch: model(batch[0]).flatten()
J = ravine.Objective(model, values, (torch.ones(20, 1),))
line = ravine.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
print("before")
ravine.evaluate(J, along=line, at=[0, 1], executor=EXECUTOR)
"""


def ran(script, *, stdin=""):
    command = [sys.executable, "-W", "ignore", str(script)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)


class TestScriptsWithoutAGuard:
    def test_one_sentence_is_said_once(self, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(_SCRIPT.replace("EXECUTOR", "ravine.Workers(1)"))
        done = ran(script)
        assert done.stderr.count("Traceback") == 1
        assert "put what it does under if __name__" in done.stderr.splitlines()[-1]
        assert done.stdout.count("before") == 2  # of the caller and its only worker

    @pytest.mark.long
    @pytest.mark.parametrize("executor", ["1", "ProcessPoolExecutor(1, get_context('spawn'))"])
    def test_other_ways_to_ask_for_processes(self, tmp_path, executor):
        script = tmp_path / "script.py"
        script.write_text(_SCRIPT.replace("EXECUTOR", executor))
        said = ran(script).stderr
        assert "if __name__ == '__main__':" in said.splitlines()[-1]
        assert "bootstrapping" not in said

    def test_a_script_without_a_file(self):
        said = ran("-", stdin=_SCRIPT.replace("EXECUTOR", "1")).stderr
        assert said.count("Traceback") == 1
        assert said.splitlines()[-1].endswith("standard input: write it to a file")

    def test_a_process_that_has_read_its_script_may_start_others(self, monkeypatch):
        require_readable_script()
        monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
        with pytest.raises(ravine.InputError, match="every worker process reads the script"):
            require_readable_script()
