"""Mutants. The kind: a file from a stranger or a failing disk; any byte may be another.

Every mutant is read or refused by an InputError, in at most ten seconds and a gigabyte, and what
has a checksum is never read wrongly. `mutants.py` has the formats, and ways to change them.
"""

from __future__ import annotations

import os

import pytest

import mutants

#: Kinds of which a mutant costs more than a few milliseconds: they are measured, or HDF5 reads
#: them twice.
SLOW = [kind for kind in mutants.KINDS if kind.startswith(("store", "result", "training_history"))]


@pytest.fixture(scope="module", autouse=True)
def reader():
    yield
    mutants.end()


@pytest.mark.parametrize("kind", mutants.KINDS)
def test_a_mutant_is_read_or_refused(kind, tmp_path):
    found = mutants.outcomes(kind, tmp_path, range(3 if kind in SLOW else 15))
    assert not found.bad


@pytest.mark.kills
@pytest.mark.parametrize("kind", mutants.KINDS)
def test_many_mutants_are_read_or_refused(kind, tmp_path, monkeypatch):
    number = int(os.environ.get("RAVINE_MUTANTS", "100"))
    if kind == "adapter":
        mutants.end()  # the next process takes peft too, if it is installed
    monkeypatch.setenv("RAVINE_MUTANTS", str(number))
    found = mutants.outcomes(kind, tmp_path, range(1000, 1000 + number))
    # with -s: the figures of docs/how-to/resuming.md
    print(f"{kind}: {mutants.line_of(found)}")  # noqa: T201
    assert not found.bad


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("raises", "ZeroDivisionError"),
        ("grows", "too much memory (same)"),
        pytest.param("ends", "ended (9)", marks=pytest.mark.kills),
        pytest.param("sleeps", "hung", marks=pytest.mark.kills),
    ],
)
def test_what_a_mutant_does_is_seen(kind, outcome, tmp_path):
    """The harness itself: what is not refused as it should be has its own outcome."""
    found = mutants.outcomes(f"self_{kind}", tmp_path, range(1))
    assert list(found.counts) == [outcome]
    assert found.bad
