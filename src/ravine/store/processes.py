"""Processes of ravine's own: they are started, told what they may not do, and ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from contextlib import suppress
from multiprocessing import current_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Final

from ravine.errors import InputError
from ravine.store.workers import begin

_NAME: Final = "ravine worker"  # a process knows by it, before it is told anything, whose it is
_NO_GUARD: Final = 77  # exit status: no signal, and none of Python's own
_SOON: Final = 1.0  # seconds until the status of a process that has ended is known

#: What a script has to do that starts processes.
UNGUARDED: Final = (
    "every worker process reads the script that starts it, and this one would start workers anew "
    "in each: put what it does under if __name__ == '__main__':, and leave only imports and "
    "definitions above"
)


class _Process(SpawnProcess):
    """A process whose name says that it is ravine's."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.name = f"{_NAME} {self.name.rpartition('-')[2]}"


class _Spawn(SpawnContext):
    Process = _Process


def processes(count: int, devices: Sequence[str] | None) -> futures.ProcessPoolExecutor:
    """Processes of ravine's own."""
    context = _Spawn()
    numbers = context.Value("i", 0)
    return futures.ProcessPoolExecutor(count, context, begin, (numbers, devices))


def like(pool: Any) -> futures.ProcessPoolExecutor:
    """A pool as one that was made by the caller, and is broken."""
    return futures.ProcessPoolExecutor(
        pool._max_workers, pool._mp_context, pool._initializer, pool._initargs
    )


def ended(pool: Any, *, at_once: bool) -> None:
    """End a pool; at once, what its processes are at is given up."""
    running = _of(pool) if at_once else []
    pool.shutdown(wait=not at_once, cancel_futures=True)
    for process in running:
        with suppress(Exception):  # it may have ended
            process.terminate()
    for process in running:
        process.join(5)


def require_readable_script() -> None:
    """Refuse to start processes that cannot read the script they come from, or do not get past it.

    A process that is still reading the script has found no ``if __name__ == "__main__":`` in it. If
    it is one of ravine's own, it ends without a word, because its caller says it once for all;
    Python would print a traceback for each.

    Raises:
        InputError: there is no file to read, or a process that somebody else started reads it.
    """
    this = current_process()
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script == "<stdin>":
        msg = (
            "worker processes read the script that starts them, and this one comes from standard "
            "input: write it to a file"
        )
        raise InputError(msg)
    # Python sets it while it reads the script, and refuses to start a process by it
    if not getattr(this, "_inheriting", False):
        return
    if this.name.startswith(_NAME):
        os._exit(_NO_GUARD)  # nothing here has to be tidied up, and SystemExit could be caught
    raise InputError(UNGUARDED)


def have_no_guard(pool: Any) -> bool:
    """Whether one of ravine's own processes ended because it would have started others."""
    started = _of(pool) if isinstance(getattr(pool, "_mp_context", None), _Spawn) else []
    until = time.monotonic() + _SOON
    # the pool is told of the end before the system has its status
    while any(process.exitcode is None for process in started):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return any(process.exitcode == _NO_GUARD for process in started)


def _of(pool: Any) -> list[Any]:
    return list((getattr(pool, "_processes", None) or {}).values())
