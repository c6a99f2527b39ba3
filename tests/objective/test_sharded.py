"""Models that two and four processes share (FSDP2, gloo): one process's numbers, no change left."""

import re
import signal

import numpy as np
import pytest
import shared_model
import torch
import torch.multiprocessing as mp


def found_by(processes, case, folder):
    """What every process found; they are forks, which have imported everything."""
    mp.start_processes(
        shared_model.run, (processes, case, str(folder)), nprocs=processes, start_method="fork"
    )
    return [torch.load(folder / f"found{rank}.pt") for rank in range(processes)]


@pytest.fixture(autouse=True)
def one_thread():
    """A fork has one thread only, and OpenMP's pool would wait for the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.clusters)])
def test_many_processes_find_what_one_does(processes, tmp_path):
    expected = {is_tied: shared_model.alone(is_tied=is_tied) for is_tied in (True, False)}
    first, *others = found_by(processes, "same_numbers", tmp_path)
    assert len(first) == (3 if processes == 2 else 9)
    for other in others:
        assert other == first
    for is_tied, kind, found in first:
        one = expected[is_tied]
        for name in ("loss", "stderr"):
            assert np.allclose(found[name], one[name], rtol=1e-5), (is_tied, kind, name)
        assert found["length"] == pytest.approx(one["length"], rel=1e-12)
        assert found["hashes"] == one["hashes"], (is_tied, kind)


@pytest.mark.clusters
@pytest.mark.parametrize("processes", [2, 4])
def test_tensor_parallel_and_copies_of_a_sharded_model(processes, tmp_path):
    expected = shared_model.alone(inside=8)
    first, *others = found_by(processes, "other_ways", tmp_path)
    assert all(other == first for other in others)
    (found,) = first
    assert np.allclose(found["loss"], expected["loss"], rtol=1e-5)
    assert found["length"] == pytest.approx(expected["length"], rel=1e-12)
    assert found["hashes"] == expected["hashes"]


@pytest.mark.clusters
def test_every_process_resolves_the_same_curve(tmp_path):
    first, other = found_by(2, "resolved", tmp_path)
    assert first == other
    assert len(first[0][0]) > 5


def test_what_fails_gives_the_model_back(tmp_path):
    expected = shared_model.alone()
    for found in found_by(2, "what_fails_gives_the_model_back", tmp_path):
        assert found[:2] == ["in the loss", "in a block"]
        assert np.allclose(found[2], expected["loss"], rtol=1e-5)


REFUSED = [
    "given different examples",
    "computed different values",
    "holds NaN or infinity in 'blocks.0.up.bias'",
    "store",
    "not measured with dropout='fixed'",
    r"torch.float32\); got dtype=torch.float64",
    "not points of the same space",
    "is not sharded",
]


def test_what_cannot_be_measured_right_is_refused_by_every_process(tmp_path):
    first, other = found_by(2, "refusals", tmp_path)
    for said, heard, pattern in zip(first, other, REFUSED, strict=True):
        assert re.search(pattern, said), (pattern, said)
        assert said == heard or pattern == "store"  # which one process has open, and the other not


def test_a_lost_process_ends_the_others(tmp_path):
    # each is left to itself: nothing but the lost connection ends the first
    started = mp.start_processes(
        shared_model.run,
        (2, "a_lost_process", str(tmp_path)),
        nprocs=2,
        join=False,
        start_method="fork",
    )
    for process in reversed(started.processes):
        process.join(45)
    first, other = (process.exitcode for process in started.processes)
    assert other == -signal.SIGKILL
    assert first not in (0, None)
