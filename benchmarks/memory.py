"""What a process holds in memory, watched while it works. Linux only: it reads /proc/self/status.

Anonymous memory is what the process made for itself; the system cannot drop it. File-backed memory
is pages of mapped files, here the checkpoints at the two ends: the system drops them when it needs
the room.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path


def resident() -> dict[str, int]:
    """Bytes in memory now: ``anonymous`` and ``file``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {
        line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")
    }
    return {"anonymous": kilobytes["RssAnon"] * 1024, "file": kilobytes["RssFile"] * 1024}


class Watch:
    """The peaks over what was held when the watch began, sampled in a thread.

    Args:
        interval: seconds between samples.

    Attributes:
        peak: bytes by kind, as of ``resident``.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self.interval = interval
        self.peak: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free already is not the baseline
        self._before = resident()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._note()
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self._note()

    def _note(self) -> None:
        for kind, size in resident().items():
            self.peak[kind] = max(self.peak.get(kind, 0), size - self._before[kind])
