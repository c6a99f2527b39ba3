"""Ledger: one SQLite file of finished tiles. One process at a time has it open."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from ravine.errors import InputError
from ravine.objective.measurement import Subject
from ravine.objective.tiles import Sums, Told, support_of
from ravine.objective.tuning import Plan
from ravine.store.keys import digest_of, objective_key, point_key, require_keepable
from ravine.store.rows import checked, packed, packed_told, unpacked, unpacked_told

_APPLICATION: Final = 0x52415649  # "RAVI"
_SCHEMA: Final = 1
_PAUSE: Final = 0.5  # seconds between two commits, at least
#: Bytes that the rows of a ledger may take; then those that were not used for longest go.
LARGEST: Final = 2 << 30
_KEPT: Final = 0.75  # of that, after some went
_REMOTE: Final = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs"]
)

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS objectives
    (key TEXT PRIMARY KEY, said TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS plans
    (key BLOB PRIMARY KEY, plan BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blocks
    (key BLOB PRIMARY KEY, told BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tiles
    (key BLOB PRIMARY KEY, objective TEXT NOT NULL, point BLOB NOT NULL, sums BLOB NOT NULL,
     made REAL NOT NULL, used REAL NOT NULL);
"""


class Ledger:
    """Finished tiles in one SQLite file, for as long as a ``with`` block lasts.

    Args:
        path: of the file, which is made if need be.
        fresh: measure everything anew, and replace what is kept.
        largest: bytes that it may take.

    Raises:
        InputError: the file is another one, cannot be written, or another process has it open.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, fresh: bool = False, largest: int = LARGEST
    ) -> None:
        self.path = Path(path)
        self.fresh = fresh
        self._keepers: list[Keeper] = []
        self.largest = largest
        self.values: dict[tuple[str, str, str], str] = {}
        self._committed = time.monotonic()
        self._made = [place for place in (self.path, self.path.parent) if not place.exists()]
        self._connection = _opened(self.path)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._told_plainly():
                self._connection.commit()
                self._bound()
                (kept,) = self._connection.execute("SELECT count(*) FROM tiles").fetchone()
                if kept and value is not None and not isinstance(value, Exception):
                    value.add_note(f"what was measured is kept in {self.path}")
        except InputError:
            if kind is None:
                raise
            kept = 1
        finally:
            self._connection.close()
        if not kept:
            self._take_away()

    def _take_away(self) -> None:
        """Leave nothing of a file, or of its folder, that was made for nothing."""
        for place in self._made:
            with suppress(OSError):
                place.rmdir() if place.is_dir() else place.unlink()

    def keeper(self, subject: Subject) -> Keeper:
        """The part of the ledger that belongs to a measurement.

        Raises:
            InputError: it cannot be told by content what is measured.
        """
        require_keepable(subject.setup)
        found = Keeper(self, subject)
        self._keepers.append(found)
        said = json.dumps({"model": type(subject.setup.model).__name__})
        self.write("INSERT OR IGNORE INTO objectives VALUES (?, ?)", (found.objective, said))
        return found

    @property
    def summary(self) -> str:
        """What was reused, in words; "" where nothing was."""
        points = sum(len(keeper.subject.points.coefficients) for keeper in self._keepers)
        reused = points - sum(len(keeper.missed) for keeper in self._keepers)
        if not reused:
            return ""
        oldest = min(keeper.oldest for keeper in self._keepers)
        day = datetime.fromtimestamp(oldest, UTC).date().isoformat()
        return f"{reused} of {points} points from {self.path}, measured on {day} or later"

    def read(self, question: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that answer a question."""
        with self._told_plainly():
            return self._connection.execute(question, values).fetchall()

    def write(self, statement: str, *rows: Sequence[Any]) -> None:
        """Write rows; they are on the disk half a second later, or when the ledger is closed."""
        with self._told_plainly():
            self._connection.executemany(statement, rows)

    def settle(self) -> None:
        """Commit what was written, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._committed > _PAUSE:
            with self._told_plainly():
                self._connection.commit()
            self._committed = now

    def _bound(self) -> None:
        """Forget what was not used for longest, where there is too much."""
        (size,) = self._connection.execute(
            "SELECT coalesce(sum(length(sums)), 0) FROM tiles"
        ).fetchone()
        if size <= self.largest:
            return
        rows = self._connection.execute(
            "SELECT key, length(sums) FROM tiles ORDER BY used, made, key"
        ).fetchall()
        lengths = np.cumsum([length for _, length in rows])
        gone = int(np.searchsorted(lengths, size - _KEPT * self.largest)) + 1
        self._connection.executemany(
            "DELETE FROM tiles WHERE key = ?", [(key,) for key, _ in rows[:gone]]
        )
        self.compact()

    def compact(self) -> None:
        """Give the room of what was forgotten back to the disk."""
        with self._told_plainly():
            self._connection.commit()
            self._connection.execute("VACUUM")

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            msg = (
                f"the store {str(self.path)!r} cannot be used ({problem}). What was written to it "
                "before is kept. Free some space or repair the disk and run the same command "
                "again, or choose another store."
            )
            raise InputError(msg) from problem


class Keeper:
    """A ledger as one measurement sees it."""

    def __init__(self, ledger: Ledger, subject: Subject) -> None:
        self.ledger = ledger
        self.subject = subject
        self.objective = objective_key(subject)
        #: points, by number, that were not there as a whole
        self.missed: set[int] = set()
        #: when the oldest tile that was reused was measured, in seconds since 1970
        self.oldest = time.time()

    def plan(self, split: str, make: Callable[[], Plan]) -> Plan:
        """The plan that a measurement between these corners was first made by, or a new one."""
        corners = list(self.subject.hashes)
        several = len(self.subject.points.coefficients) > len(corners)
        size = self.subject.setup.batch_size
        key = digest_of(self.objective, split, corners, several, size)
        rows = self.ledger.read("SELECT plan FROM plans WHERE key = ?", (key,))
        if rows and not self.ledger.fresh:
            text = rows[0][0]
            content = text[16:]
            if checked(key, content) == text:
                return _plan_from(content)
        plan = make()
        text = checked(key, _plan_as(plan))
        self.ledger.write("INSERT OR REPLACE INTO plans VALUES (?, ?)", (key, text))
        return plan

    def unseen(self, split: str) -> list[tuple[int, ...]]:
        """Sets of corners that points lie between and of which this ledger has seen no values."""
        supports = sorted({support_of(point) for point in self.subject.points.coefficients})
        return [one for one in supports if self._place(split, one) not in self.ledger.values]

    def see(self, split: str, support: tuple[int, ...], values: bytes) -> None:
        """Take note of the values of a few examples, at some corners and between them."""
        self.ledger.values[self._place(split, support)] = values.hex()

    def shelf(self, split: str) -> Shelf:
        """The finished tiles of a split."""
        return Shelf(self, split)

    def point(self, split: str, number: int) -> bytes:
        """The key of a point on a split."""
        coefficients = self.subject.points.coefficients[number]
        seen = self.ledger.values[self._place(split, support_of(coefficients))]
        return digest_of(self.objective, split, point_key(self.subject, number), seen)

    def _place(self, split: str, support: tuple[int, ...]) -> tuple[str, str, str]:
        hashes = ",".join(self.subject.hashes[i] for i in support)
        return self.objective, split, hashes


class Shelf:
    """The finished tiles of one split."""

    def __init__(self, keeper: Keeper, split: str) -> None:
        self._keeper = keeper
        self._ledger = keeper.ledger
        self._split = split
        count = len(keeper.subject.points.coefficients)
        self._points = [keeper.point(split, number) for number in range(count)]

    def take(self, block: str, points: Sequence[int]) -> tuple[Told, dict[int, Sums]] | None:
        """What is known of some points on a block; None where nothing is."""
        found: dict[int, Sums] = {}
        told = None if self._ledger.fresh else self._told(block)
        for point in points if told is not None else ():
            sums = self._sums(block, point)
            if sums is not None:
                found[point] = sums
        self._keeper.missed |= {point for point in points if point not in found}
        return (told, found) if told is not None and found else None

    def put(self, block: str, told: Told, points: Sequence[int], tile: Sums) -> None:
        """Keep a tile that was measured just now."""
        key, now, objective = self._block(block), time.time(), self._keeper.objective
        rows = []
        for place, point in enumerate(points):
            own = digest_of(self._points[point].hex(), block)
            sums = {name: of.at(np.array([place])) for name, of in tile.items()}
            rows.append((own, objective, self._points[point], packed(own, sums), now, now))
        self._ledger.write(
            "INSERT OR REPLACE INTO blocks VALUES (?, ?)", (key, packed_told(key, told))
        )
        self._ledger.write("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?, ?)", *rows)
        self._ledger.settle()

    def _sums(self, block: str, point: int) -> Sums | None:
        key = digest_of(self._points[point].hex(), block)
        rows = self._ledger.read("SELECT sums, made FROM tiles WHERE key = ?", (key,))
        if not rows:
            return None
        blob, made = rows[0]
        self._keeper.oldest = min(self._keeper.oldest, made)
        self._ledger.write("UPDATE tiles SET used = ? WHERE key = ?", (time.time(), key))
        return unpacked(key, blob)

    def _told(self, block: str) -> Told | None:
        key = self._block(block)
        rows = self._ledger.read("SELECT told FROM blocks WHERE key = ?", (key,))
        return unpacked_told(key, rows[0][0]) if rows else None

    def _block(self, block: str) -> bytes:
        return digest_of(self._keeper.objective, self._split, block)


def ledger_at(
    store: str | os.PathLike[str] | None, *, fresh: bool = False
) -> AbstractContextManager[Ledger | None]:
    """The ledger in a file, for a ``with`` block; None, if there is no file.

    Raises:
        InputError: the store is no path.
    """
    if store is not None and not isinstance(store, str | os.PathLike):
        msg = f"store must be the path of a file, or None; got {store!r}"
        raise InputError(msg)
    return nullcontext() if store is None else Ledger(store, fresh=fresh)


def contents(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What a ledger holds: for each objective the points, the bytes and the days.

    Raises:
        InputError: there is no ledger in the file, or a process has it open.
    """
    _require_there(path)
    with Ledger(path) as ledger:
        rows = ledger.read(_CONTENTS, ())
    names = ("objective", "model", "points", "bytes", "first", "last")
    found: list[dict[str, Any]] = []
    for key, said, *numbers in rows:
        row = (key, json.loads(said)["model"], *numbers)
        found.append({name: value for name, value in zip(names, row, strict=True)})
    for one in found:
        for end in ("first", "last"):
            one[end] = datetime.fromtimestamp(one[end], UTC).isoformat(timespec="seconds")
    return found


def clean(path: str | os.PathLike[str], objective: str | None = None) -> int:
    """Forget what a ledger holds, of one objective or of all.

    Args:
        path: of the file.
        objective: the beginning of its key, as ``contents`` gives it.

    Returns:
        How many points were forgotten.

    Raises:
        InputError: as ``contents``; or there is no such objective.
    """
    known = [one for one in contents(path) if one["objective"].startswith(objective or "")]
    if objective and not known:
        msg = f"the store {str(path)!r} has no objective that begins with {objective!r}"
        raise InputError(msg)
    with Ledger(path) as ledger:
        keys = [(one["objective"],) for one in known]
        ledger.write("DELETE FROM tiles WHERE objective = ?", *keys)
        ledger.write("DELETE FROM objectives WHERE key = ?", *keys)
        if objective is None:
            ledger.write("DELETE FROM blocks WHERE ?", (1,))
            ledger.write("DELETE FROM plans WHERE ?", (1,))
        ledger.compact()
    return sum(one["points"] for one in known)


_CONTENTS: Final = """
SELECT objectives.key, said, count(DISTINCT point), sum(length(sums)), min(made), max(made)
FROM objectives JOIN tiles ON tiles.objective = objectives.key
GROUP BY objectives.key ORDER BY max(made)
"""


def _require_there(path: str | os.PathLike[str]) -> None:
    if not Path(path).is_file():
        msg = f"there is no store {str(path)!r}"
        raise InputError(msg)


def _opened(path: Path) -> sqlite3.Connection:
    """The file as a ledger that is this process's alone.

    Raises:
        InputError: it is another file, cannot be written, or another process has it open.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # no waiting: another process keeps the lock as long as it measures
        connection = sqlite3.connect(path, timeout=0)
    except (OSError, sqlite3.Error) as problem:
        msg = f"cannot write the store {str(path)!r} ({problem}). Choose another file."
        raise InputError(msg) from problem
    try:
        # WAL then needs no shared memory, and nobody else writes between two commits
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            problem = "it is a database of something else"
            raise sqlite3.DatabaseError(problem)
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if tables and schema != _SCHEMA:
            problem = "it is of another version of ravine"
            raise sqlite3.DatabaseError(problem)
        connection.execute(f"PRAGMA journal_mode = {'DELETE' if _is_remote(path) else 'WAL'}")
        # what was committed outlives a power cut; a commit every half second costs little
        connection.execute("PRAGMA synchronous = FULL")
        # takes the lock now, so that a second process fails here and not after hours
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _TABLES.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")
        connection.commit()
    except sqlite3.Error as problem:
        connection.close()
        raise InputError(_refusal(path, problem)) from problem
    return connection


def _refusal(path: Path, problem: sqlite3.Error) -> str:
    if "locked" in str(problem):
        return (
            f"another process has the store {str(path)!r} open; only one at a time can. Wait until "
            "it is done, or choose another store."
        )
    if isinstance(problem, sqlite3.OperationalError):
        return f"cannot write the store {str(path)!r} ({problem}). Choose another file."
    return f"{str(path)!r} is no store that can be used here ({problem}). Choose another file."


def _is_remote(path: Path) -> bool:
    """Whether the file lies on a network file system, or that cannot be told."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        # unknown: a rollback journal is safe on every file system, WAL is not
        return True
    mounts = [line.split()[1:3] for line in lines]
    place = path.resolve()
    above = [(len(at), kind) for at, kind in mounts if place.is_relative_to(at)]
    _, kind = max(above, default=(0, ""))
    return kind in _REMOTE or kind.startswith("fuse")


def _plan_as(plan: Plan) -> bytes:
    said = asdict(plan)
    said["affine"] = None if plan.affine is None else sorted(plan.affine)
    return json.dumps(said).encode()


def _plan_from(text: bytes) -> Plan:
    said = json.loads(text)
    affine = said.pop("affine")
    return Plan(**said, affine=None if affine is None else frozenset(affine))
