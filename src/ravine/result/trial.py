"""Trial: another process reads a file first, with limits; HDF5 fails on damaged ones.

One changed byte can make the library go round for ever, where not even Ctrl-C reaches it, or take
all memory. What does this in the other process costs that process, and the file is refused. The
other process starts with the first file that is opened, and tries all later ones.

Run as a program, this file is that process: it reads paths, one a line, and answers ``ok`` or what
is wrong. It needs nothing of ravine.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Final

_CPU_SECONDS: Final = 6  # that reading one file may take, and more for a large one
_BYTES_A_SECOND: Final = 20 << 20
_PATIENCE: Final = 10.0  # times as long on the clock: other programs may have the processor
_MEMORY: Final = 1 << 30  # bytes, beside what the file itself takes unpacked


class Trial:
    """The other process."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.owner = os.getpid()
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self.end)

    def _listen(self) -> None:
        for line in self._out:
            self._answers.put(line)
        self._answers.put("")  # it has ended

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def is_there(self) -> bool:
        """Whether it can be asked."""
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, path: Path) -> str:
        """What is wrong with a file; "" where nothing is."""
        assert self._process.stdin is not None
        seconds = _CPU_SECONDS + path.stat().st_size / _BYTES_A_SECOND
        try:
            self._process.stdin.write(json.dumps([str(path.absolute()), seconds]) + "\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=_PATIENCE * seconds)
        except (OSError, queue.Empty):
            answer = ""
        if not answer:
            self.end()
            return (
                f"reading it takes more than {seconds:.0f} seconds, or more memory than there is "
                "use for"
            )
        return json.loads(answer)

    def end(self) -> None:
        """Stop it."""
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
            self._listener.join()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):  # what it never read
                    pipe.close() if pipe else None
            atexit.unregister(self.end)


_LOCK: Final = threading.Lock()
_KNOWN: Final[set[tuple[Any, ...]]] = set()  # files that were tried, or written here
_RUNNING: list[Trial] = []


def wrong_with(path: Path) -> str:
    """What is wrong with an HDF5 file, after reading all of it elsewhere; "" if nothing.

    Args:
        path: of a file that is there.
    """
    this = _identity(path)
    if this in _KNOWN or not sys.executable:
        return ""
    with _LOCK:
        if not _RUNNING or not _RUNNING[0].is_there:
            _RUNNING[:] = [Trial()]
        found = _RUNNING[0].ask(path)
    if not found:
        _KNOWN.add(this)
    return found


def trust(path: Path) -> None:
    """Take a file that was written just now as good."""
    _KNOWN.add(_identity(path))


def _identity(path: Path) -> tuple[Any, ...]:
    about = path.stat()
    return str(path.absolute()), about.st_ino, about.st_size, about.st_mtime_ns


# --- the other process ----------------------------------------------------------------------------


def _read_all(path: str) -> None:
    import h5py  # noqa: PLC0415  the process that asks has its own

    parts: list[Any] = []

    def look(_: str, item: Any) -> None:
        dict(item.attrs)
        if isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external:
            parts.append(item)

    with h5py.File(path, "r") as opened:
        dict(opened.attrs)
        opened.visititems(look)
        declared = sum(part.nbytes for part in parts)
        if declared > _MEMORY // 2 + 1100 * Path(path).stat().st_size:
            return  # refused by whoever asks, unread
        for part in parts:
            part[()]


def _limit(seconds: float, size: int) -> None:
    try:
        import resource  # noqa: PLC0415  not on every system
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = held + _MEMORY + 4 * size
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _serve() -> None:
    for line in sys.stdin:
        path, seconds = json.loads(line)
        try:
            _limit(seconds, os.path.getsize(path))
            _read_all(path)
            answer = ""
        except Exception as problem:
            answer = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        print(json.dumps(answer or ""), flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    _serve()
