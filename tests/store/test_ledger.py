"""The store: what was measured once is not measured again, and nothing else is taken for it."""

import copy
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ravine
from ravine.objective import engine, tuning
from ravine.store.ledger import Ledger, clean, contents

AT = np.linspace(0, 1, 9)


class Net(nn.Module):
    def __init__(self, slope=0.1):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.slope = slope

    def forward(self, x):
        return self.last(F.leaky_relu(self.first(x), self.slope))


def losses(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Work:
    """Counts the points × examples that are measured, and interrupts where it is told to."""

    def __init__(self, measure_tile):
        self.done, self.limit, self._measure = 0, float("inf"), measure_tile

    def __call__(self, forward, held, members, points, stack, tick):
        self.done += len(points) * sum(batch.size for batch in held)
        if self.done > self.limit:
            raise KeyboardInterrupt
        return self._measure(forward, held, members, points, stack, tick)


@pytest.fixture
def work(monkeypatch):
    counting = Work(engine.measure_tile)
    monkeypatch.setattr(engine, "measure_tile", counting)
    return counting


def data(seed=0, count=60):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=drawn), torch.randint(0, 2, (count,), generator=drawn)


def points():
    torch.manual_seed(0)
    return [Net().state_dict() for _ in range(3)]


def objective(**policies):
    policies = {"batch_size": 20} | policies
    given = policies.pop("data", data())
    model, loss = policies.pop("model", Net()), policies.pop("loss", losses)
    return ravine.Objective(model, loss, given, **policies)


def reused(result):
    return int(result.attrs.get("reused", "0").split()[0])


def same(one, other):
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


@pytest.fixture
def line():
    a, b, _ = points()
    return ravine.Line(a, b)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "measured.sqlite"


def measured(store, line, J=None, at=AT, **asked):
    return ravine.evaluate(J or objective(), along=line, at=at, store=store, **asked)


def test_the_same_request_is_read_and_is_the_same_bit_for_bit(store, line):
    plain = ravine.evaluate(objective(), along=line, at=AT)
    one = measured(store, line)
    again = measured(store, line)
    assert (reused(one), reused(again)) == (0, 9)
    same(plain, one)
    same(one, again)


def test_reuse_is_said_aloud_and_in_the_attributes(store, line, capsys):
    measured(store, line)
    again = measured(store, line)
    assert again.attrs["reused"].startswith(f"9 of 9 points from {store}, measured on 20")
    assert again.attrs["reused"] in capsys.readouterr().err


def test_a_finer_grid_measures_only_what_is_new(store, line, work):
    measured(store, line)
    work.done = 0
    fine = measured(store, line, at=np.linspace(0, 1, 17))
    assert (reused(fine), work.done) == (9, 8 * 60)
    same(fine, ravine.evaluate(objective(), along=line, at=np.linspace(0, 1, 17)))


def test_other_commands_reuse_what_one_measured(store):
    a, b, c = points()
    measured(store, ravine.Line(a, b))
    pairs = ravine.evaluate(
        objective(), along=ravine.pairs({"a": a, "b": b, "c": c}), at=AT, store=store
    )
    assert reused(pairs) == 9
    plane = ravine.evaluate(
        objective(), along=ravine.Plane(a, b, c), at={"alpha": AT, "beta": [0.0]}, store=store
    )
    assert reused(plane) == 9
    np.testing.assert_allclose(
        plane["loss"].values[:, 0], pairs.sel(line=pairs["line"][0])["loss"].values, rtol=1e-6
    )
    found = ravine.resolve(objective(), along=ravine.Line(a, b), store=store)
    assert reused(found) >= 2  # the ends, if nothing else
    path = ravine.project([a, c, b], objective=objective(), store=store)
    assert reused(path) == 3
    assert ravine.compare(objective(), a, b, store=store).split == "data"


def test_fresh_measures_anew(store, line, work):
    measured(store, line)
    assert reused(measured(store, line, fresh=True)) == 0
    assert work.done == 2 * 9 * 60


# --- never a stale tile ---------------------------------------------------------------------------


def squared(model, batch):
    return ((model(batch[0]) - 1) ** 2).sum(1)


SCALE = 2.0


def scaled(model, batch):
    return SCALE * F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def with_closure(factor):
    return lambda model, batch: (
        factor * F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    )


def other_order():
    x, y = data()
    order = torch.arange(59, -1, -1)
    return x[order], y[order]


def one_label_changed():
    x, y = data()
    y = y.clone()
    y[59] = 1 - y[59]
    return x, y


CHANGES = {
    "another loss of the user's": {"loss": squared},
    "a loss of torch's": {"loss": ravine.supervised(F.cross_entropy)},
    "an attribute of the model": {"model": Net(slope=0.2)},
    "other data": {"data": data(seed=1)},
    "one example more": {"data": data(count=61)},
    "another order": {"data": other_order()},
    "one label": {"data": one_label_changed()},
    "dtype": {"dtype": torch.float64},
    "masks": {"dropout": "fixed"},
    "seed": {"dropout": "fixed", "seed": 1},
    "version": {"version": "2"},
    "repair": {"correction": "repair"},
    "clusters": {"clusters": np.arange(60) // 2},
    "strata": {"strata": np.arange(60) % 2},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_another_objective_finds_nothing(store, line, kind):
    changed = CHANGES[kind]
    measured(store, line)
    J = objective(**changed)
    found = measured(store, line, J)
    assert reused(found) == 0
    same(found, ravine.evaluate(J, along=line, at=AT))


def test_a_changed_checkpoint_finds_nothing_but_the_end_that_it_was_not(store):
    a, b, _ = points()
    measured(store, ravine.Line(a, b))
    b = copy.deepcopy(b)
    b["last.bias"][0] += 1e-6
    assert reused(measured(store, ravine.Line(a, b))) == 1


def test_a_changed_closure_or_global_finds_nothing(store, line, monkeypatch):
    measured(store, line, objective(loss=with_closure(2)))
    assert reused(measured(store, line, objective(loss=with_closure(2)))) == 9
    assert reused(measured(store, line, objective(loss=with_closure(3)))) == 0
    measured(store, line, objective(loss=scaled))
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert reused(measured(store, line, objective(loss=scaled))) == 0


def test_a_changed_forward_of_the_class_finds_nothing(store, line, monkeypatch):
    measured(store, line)
    monkeypatch.setattr(Net, "forward", lambda self, x: self.last(torch.tanh(self.first(x))))
    assert reused(measured(store, line)) == 0


def test_a_change_that_no_code_shows_is_seen_by_the_values(store, line, tmp_path):
    place = tmp_path / "factor.txt"

    def from_a_file(model, batch):
        factor = float(place.read_text())
        return factor * F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    place.write_text("1")
    measured(store, line, objective(loss=from_a_file))
    assert reused(measured(store, line, objective(loss=from_a_file))) == 9
    place.write_text("2")
    assert reused(measured(store, line, objective(loss=from_a_file))) == 0


def test_each_policy_for_running_statistics_has_its_own_tiles(store):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    other[1].running_mean.add_(0.3)
    nn.init.normal_(other[0].weight)
    line = ravine.Line(model.state_dict(), other.state_dict())
    J = objective(model=model, buffers="start")
    one = ravine.compare_buffers(J, line, AT, store=store)
    # a point that is an end has its own statistics under some policies, and is then the same point
    assert reused(one) == 0
    same(one, ravine.compare_buffers(J, line, AT))
    same(one, ravine.compare_buffers(J, line, AT, store=store))


def test_recomputed_statistics_count_with_the_data_they_are_from(store):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    other = copy.deepcopy(model)
    nn.init.normal_(other[0].weight)
    line = ravine.Line(model.state_dict(), other.state_dict())

    def on(train):
        return objective(model=model, buffers="recompute", data={"a": train, "b": data(seed=5)})

    measured(store, line, on(data()))
    changed = measured(store, line, on(data(seed=1)))
    assert reused(changed) == 0
    same(changed, ravine.evaluate(on(data(seed=1)), along=line, at=AT))
    assert reused(measured(store, line, on(data()))) == 9


def test_what_cannot_be_read_needs_a_version(store, line):
    held = (one for one in [1.0])  # a generator has no content

    def reads(model, batch):
        assert held is not None
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    with pytest.raises(
        ravine.InputError, match=r"generator, whose content cannot be read.*version="
    ):
        measured(store, line, objective(loss=reads))
    measured(store, line, objective(loss=reads, version="1"))
    assert reused(measured(store, line, objective(loss=reads, version="1"))) == 9
    assert reused(measured(store, line, objective(loss=reads, version="2"))) == 0


def test_what_carries_state_or_unchecked_data_is_refused(store, line):
    with pytest.raises(ravine.InputError, match="check_data=False a store cannot tell"):
        measured(store, line, objective(check_data=False))


# --- the file -------------------------------------------------------------------------------------


def test_a_damaged_row_is_measured_again(store, line):
    one = measured(store, line)
    with sqlite3.connect(store) as file:
        key, sums = file.execute("SELECT key, sums FROM tiles ORDER BY key LIMIT 1").fetchone()
        broken = sums[:-3] + bytes([sums[-3] ^ 1]) + sums[-2:]
        file.execute("UPDATE tiles SET sums = ? WHERE key = ?", (broken, key))
    file.close()
    again = measured(store, line)
    assert reused(again) == 8
    same(one, again)


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 200]
)
def test_another_file_is_refused_and_left_alone(store, line, content):
    store.write_bytes(content)
    with pytest.raises(ravine.InputError, match="is no store that can be used here"):
        measured(store, line)
    assert store.read_bytes() == content


def test_another_database_is_refused_and_left_alone(store, line):
    with sqlite3.connect(store) as file:
        file.execute("CREATE TABLE mine (a)")
    file.close()
    with pytest.raises(ravine.InputError, match="a database of something else"):
        measured(store, line)


def test_a_second_process_is_refused_with_one_sentence(store):
    code = f"from ravine.store.ledger import Ledger; Ledger({str(store)!r})"
    with Ledger(store):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process has the store" in second.stderr
    with Ledger(store):
        pass


def test_a_store_does_not_outgrow_its_bound(store, line):
    measured(store, line)
    (one,) = contents(store)
    with Ledger(store, largest=one["bytes"] // 2) as ledger:
        pass
    (left,) = contents(store)
    assert 0 < left["bytes"] <= one["bytes"] // 2
    assert ledger.path.stat().st_size < one["bytes"] + 2**17
    assert 0 < reused(measured(store, line)) < 9


def test_its_contents_are_listed_and_cleaned(store, line):
    measured(store, line)
    measured(store, line, objective(loss=squared))
    found = contents(store)
    assert [(one["model"], one["points"]) for one in found] == [("Net", 9), ("Net", 9)]
    assert clean(store, found[0]["objective"][:8]) == 9
    assert len(contents(store)) == 1
    assert clean(store) == 9
    assert contents(store) == []
    with pytest.raises(ravine.InputError, match="there is no store"):
        contents(store.with_name("other"))


# --- killed ---------------------------------------------------------------------------------------


def test_after_interruptions_the_rest_is_measured_to_the_same_bits(store, line, work, monkeypatch):
    monkeypatch.setattr(tuning, "_TILE_SECONDS", 0.0)  # a tile a point
    J = objective(data=data(count=10_000), batch_size=1000)
    whole = ravine.evaluate(J, along=line, at=AT)
    found, interruptions, work.done = None, 0, 0
    while found is None:
        work.limit = work.done + 40_000
        try:
            found = measured(store, line, J)
        except KeyboardInterrupt:
            interruptions += 1
            work.done -= 9000  # the tile that was not done, and was counted
    assert interruptions >= 1
    assert abs(work.done - 9 * 10_000) <= 9000 * interruptions  # the last block's tiles are smaller
    same(whole, found)


def test_a_disk_that_fills_keeps_what_was_written(tmp_path):
    """In another process, whose files may not grow: a store, and the history of a training."""
    script = (
        "import resource, signal, sys, numpy as np, ravine, torch\nfrom "
        "ravine.paper.training.history import as_dataset, write\nfrom ravine.store.ledger import "
        "Ledger\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))\nrows = [{'phase': 1, "
        "'epoch': e, 'step': e, 'seconds': 0.1} for e in range(9000)]\ndef fill():\n    with "
        "Ledger(sys.argv[1] + '/a.sqlite') as store:\n        for number in range(999):\n          "
        "  blob = bytes(4096)\n            row = (bytes([number % 256, number // 256]), 'o', b'p', "
        "blob, 0.0, 0.0)\n            store.write('INSERT INTO tiles VALUES (?, ?, ?, ?, ?, ?)', "
        "row)\n            store._committed = 0\n            store.settle()\nfor act in (fill, "
        "lambda: write(__import__('pathlib').Path(sys.argv[1], 'h.nc'), as_dataset(rows, {}))):\n  "
        "  try:\n        act()\n    except ravine.InputError as problem:\n        print(problem)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    assert "cannot be used" in first
    assert "What was written to it before is kept" in first
    assert "cannot write" in second
    assert not (tmp_path / "h.nc").exists()
    with Ledger(tmp_path / "a.sqlite") as store:
        ((kept,),) = store.read("SELECT count(*) FROM tiles", ())
    assert 3 < kept < 40
