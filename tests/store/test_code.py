"""Code: a hash that changes with whatever a function refers to, and with nothing else."""

from __future__ import annotations

import importlib
import sys

from ravine.store.code import _is_own, code_hash

USER = """
import parts

def first(x):
    return parts.one(x)

def second(x):
    return parts.two(x)

def loss(x):
    return first(x) + second(x)
"""
PARTS = "def one(x):\n    return 1 * x\n\ndef two(x):\n    return {factor} * x\n"


def hashed(folder, factor):
    """Of a loss whose two helpers take different functions from one module."""
    (folder / "parts.py").write_text(PARTS.format(factor=factor))
    (folder / "user.py").write_text(USER)
    for name in ("parts", "user"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    _is_own.cache_clear()
    return code_hash(importlib.import_module("user").loss)


def test_every_name_that_is_taken_from_a_module_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    assert hashed(tmp_path, 2) == hashed(tmp_path, 2)
    assert hashed(tmp_path, 2) != hashed(tmp_path, 3)
    for name in ("parts", "user"):
        sys.modules.pop(name, None)


def test_what_a_function_or_a_container_keeps_on_itself_counts():
    def loss(model, batch):
        return loss.scale

    class Options(dict):
        scale = 0

    options = Options()
    loss.scale = options.scale = 1
    before = code_hash(loss), code_hash(options)
    assert before == (code_hash(loss), code_hash(options))
    loss.scale = options.scale = 2
    assert code_hash(loss) != before[0]
    assert code_hash(options) != before[1]
