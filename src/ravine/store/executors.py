"""Executors: orders handed to workers, and handed out again when a worker is lost."""

from __future__ import annotations

import hashlib
import pickle
import time
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ravine.errors import InputError
from ravine.objective.loading import Origin, named
from ravine.objective.measurement import Request, Setup
from ravine.objective.tiles import Done, Estimate, Order
from ravine.store.keys import digest_of
from ravine.store.processes import (
    UNGUARDED,
    ended,
    have_no_guard,
    like,
    processes,
    require_readable_script,
)
from ravine.store.workers import (
    POLICIES,
    Call,
    Failed,
    Lacking,
    Told,
    search_path,
    this_process,
    versions,
    work,
)

_SECONDS: Final = (
    1.0  # of an order: so much is lost with a worker, and progress comes in such steps
)
_SECONDS_OF_A_JOB: Final = 600.0  # where every order starts a process, and waits in a queue
_AHEAD: Final = 2  # orders for every worker: one that it does, and one that waits
_SMALL: Final = 1 << 18  # bytes that are sent with every order
_TRIES: Final = (
    20  # times that an order is handed out again because a worker was lost with it, or beside it
)
_TRIES_AT_FIRST: Final = 2  # while no worker has ever answered
_POLL: Final = 0.02  # seconds between two looks at futures that cannot be waited for
_PATIENCE: Final = 300.0  # seconds without any worker, where the executor tells
_ASK: Final = 5.0  # seconds between two questions how many there are, while nothing comes back
_UNKNOWN: Final = 4  # workers of an executor that does not say how many it has


class Workers:
    """Processes that measure, and how they are used: for ``executor=``.

    A number of workers is as many processes on this machine, which are started when they are first
    needed and end with the ``with`` block, or with the one measurement that it was given to. An
    executor of another library stays the caller's. Every worker builds the objective once, and
    keeps it, its data and its copy of the model.

    Args:
        executor: a number of processes, or what has the interface of ``concurrent.futures``: a
            ``ProcessPoolExecutor`` (spawn), ``dask.distributed``'s ``Client.get_executor()``, an
            executor of ``submitit``, ``ravine.integrations.ray.RayExecutor``.
        threads: of PyTorch in each worker. The numbers are those of one process with as many,
            bit for bit.
        devices: of the processes, in turn, such as ``["cuda:0", "cuda:1"]``, where ``executor`` is
            a number. By default where the objective is; of several GPUs each in turn.
        count: how many workers there are, where the executor does not say.
        seconds: about how long a worker is given work for at once; by default 1,
            and 600 for submitit, where every piece of work is a job that waits in
            a queue. No more than that is lost with a worker.
        patience: seconds that are waited while there is no worker at all, as far as the executor
            tells (Dask does). More for a cluster whose workers wait in a queue.

    Raises:
        InputError: it is no such executor, or its processes are made by fork, after which
            PyTorch's threads hang.

    Examples:
        >>> Workers(4).count
        4
    """

    def __init__(
        self,
        executor: Any,
        *,
        threads: int = 1,
        devices: Sequence[str] | None = None,
        count: int | None = None,
        seconds: float | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        self._own = isinstance(executor, int)
        _require_executor(executor)
        _require_positive("threads", threads)
        if count is not None:
            _require_positive("count", count)
        if seconds is not None and not seconds > 0:
            msg = f"seconds must be positive; got {seconds!r}"
            raise InputError(msg)
        if not patience > 0:
            msg = f"patience must be positive; got {patience!r}"
            raise InputError(msg)
        if devices is not None and (not self._own or not devices):
            msg = (
                "devices are for workers that ravine starts: give their number too, Workers(2, "
                "devices=['cuda:0', 'cuda:1'])"
            )
            raise InputError(msg)
        if hasattr(executor, "get_executor"):  # a Client of dask.distributed
            executor = executor.get_executor()
        self.threads = threads
        self._executor = executor
        self._devices = devices
        self._pool: Any = None if self._own else executor
        self._renewed = False
        self.starts_anew = type(executor).__module__.partition(".")[0] == "submitit"
        self.count = count or _count_of(executor)
        self.seconds = seconds or (_SECONDS_OF_A_JOB if self.starts_anew else _SECONDS)
        self.patience = patience
        #: split → seconds for a point and an example
        self.paces: dict[str, float] = {}
        self.has_answered = False
        self._pickled: list[tuple[Setup, str, bytes]] = []

    @classmethod
    def named(cls, name: str, **options: Any) -> Workers:
        """The workers of an executor that a function returns.

        Args:
            name: ``package.module:function`` or ``file.py:function``, a function without arguments.
            options: as of ``Workers``.

        Raises:
            InputError: there is no such function, it fails, or it returns something else.
        """
        make = named(name, Path.cwd(), "executor")
        try:
            executor = make()
        except InputError:
            raise
        except (Exception, SystemExit) as problem:
            msg = (
                f"{name!r} failed: {type(problem).__name__}: {problem}. RAVINE_DEBUG=1 shows where."
            )
            raise InputError(msg) from problem
        return cls(executor, **options)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if (self._own or self._renewed) and self._pool is not None:
            ended(self._pool, at_once=kind is not None)
            self._pool = None if self._own else self._executor
            self._renewed = False

    def desk(self, request: Request) -> _Desk:
        """The workers, for one measurement.

        Raises:
            InputError: the objective cannot be sent to another process.
        """
        return _Desk(self, request)

    def submit(self, call: Call) -> Any:
        """Hand in a call; to new processes, if those that there were are lost.

        Raises:
            InputError: the executor was shut down.
        """
        if self._pool is None:
            self._pool = processes(self.count, self._devices)
        try:
            return self._pool.submit(work, call)
        except futures.BrokenExecutor:
            if not isinstance(self._pool, futures.ProcessPoolExecutor):
                raise
            broken, self._renewed = self._pool, True
            self._pool = processes(self.count, self._devices) if self._own else like(broken)
            broken.shutdown(wait=False)
            return self._pool.submit(work, call)
        except RuntimeError as problem:
            msg = f"the executor takes no work ({problem}): give one that has not been shut down"
            raise InputError(msg) from problem

    @property
    def uses_processes(self) -> bool:
        """Whether the workers are processes of Python's own pool, which this process starts."""
        return self._own or isinstance(self._executor, futures.ProcessPoolExecutor)

    @property
    def have_no_guard(self) -> bool:
        """Whether one of ravine's own processes ended because it would have started others."""
        return have_no_guard(self._pool)

    @property
    def are_gone(self) -> bool:
        """Whether the executor says that it has no worker, or does not answer any more."""
        client: Any = getattr(self._executor, "_client", None)  # of dask.distributed
        if not hasattr(client, "nthreads"):
            return False
        try:
            return not client.nthreads()
        except Exception:  # of the network, of the event loop: its scheduler is gone
            return True

    def objective(self, setup: Setup) -> tuple[str, bytes]:
        """What a worker builds an objective from, with its key.

        Raises:
            InputError: it cannot be sent.
        """
        source = setup if setup.origin is None else setup.origin
        for known, key, content in self._pickled:
            if known is source:
                return key, content
        content = _sent(source)
        key = hashlib.blake2b(content, digest_size=16).hexdigest()
        self._pickled = [(source, key, content), *self._pickled[:3]]
        return key, content


def workers_of(executor: Any) -> AbstractContextManager[Workers | None]:
    """The workers that ``executor=`` names, for a ``with`` block; None for none.

    Raises:
        InputError: as ``Workers``, or its processes could not read the script.
    """
    if executor is None:
        return nullcontext()
    workers = executor if isinstance(executor, Workers) else Workers(executor)
    if workers.uses_processes:  # here, before anything is measured for nothing
        require_readable_script()
    return nullcontext(executor) if workers is executor else workers


@dataclass
class _Task:
    """An order that is with a worker.

    Attributes:
        number: of the order.
        order: pickled.
        what: it is, in words.
        lost: how often a worker was lost with it.
    """

    number: int
    order: bytes
    what: str
    lost: int = 0


class _Desk:
    """Workers, as one measurement sees them."""

    def __init__(self, workers: Workers, request: Request) -> None:
        self._workers = workers
        self._request = request
        self._objective, self._source = workers.objective(request.setup)
        self._key = _key_of(self._objective, request)
        self._told: bytes | None = None
        self._told_to = 0  # how many orders went with all that there is to know
        self._flying: dict[Any, _Task] = {}
        self.paces = workers.paces

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._flying:
            with suppress(Exception):  # whatever it is, nothing waits for it any more
                future.cancel()

    @property
    def count(self) -> int:
        """How many workers there are, as far as is known."""
        return self._workers.count

    @property
    def seconds(self) -> float:
        """How long an order should take."""
        return self._workers.seconds

    @property
    def starts_anew(self) -> bool:
        """Whether every order finds a new worker."""
        return self._workers.starts_anew

    @property
    def has_room(self) -> bool:
        """Whether workers would have to wait for more orders."""
        return len(self._flying) < self.count * (1 if self.starts_anew else _AHEAD)

    def submit(self, number: int, order: Order | Estimate) -> None:
        """Hand in an order under a number of the caller's choice."""
        labels = order.points.labels
        last = f" to {labels[-1]}" if len(labels) > 1 else ""
        first = order.places[0].first if isinstance(order, Order) else 0
        what = f"{labels[0]}{last}, split {order.split!r}, batch {first} on"
        self._send(_Task(number, pickle.dumps(order), what))

    def finished(self, *, wait: bool) -> list[tuple[int, Done]]:
        """What was finished since it was last asked; if it waits and there is any, at least one.

        Raises:
            InputError: workers are lost again and again, all of them are gone, or an order
                cannot be measured.
        """
        found: list[tuple[int, Done]] = []
        watch = _Watch(self._workers)
        while self._flying:
            for future in [future for future in self._flying if future.done()]:
                task = self._flying.pop(future)
                done = self._answer(future, task)
                if done is not None:
                    found.append((task.number, done))
            if found or not wait:
                break
            self._wait()
            watch.require_workers()
        return found

    def _answer(self, future: Any, task: _Task) -> Done | None:
        """What came back; None where the order goes out again.

        Raises:
            InputError: workers are lost again and again, or the order cannot be measured.
        """
        try:
            answer = future.result()
        except (Exception, CancelledError) as problem:  # a worker catches whatever is raised in it
            if not self._workers.has_answered and self._workers.have_no_guard:
                raise InputError(UNGUARDED) from None
            task.lost += 1
            if task.lost > (_TRIES if self._workers.has_answered else _TRIES_AT_FIRST):
                raise self._given_up(task, problem) from problem
            self._send(task)
            return None
        self._workers.has_answered = True
        if isinstance(answer, Lacking):
            self._send(task, tell=True)
            return None
        if isinstance(answer, Failed):
            raise _raised(answer)
        return answer

    def _given_up(self, task: _Task, problem: BaseException) -> InputError:
        said = f"{type(problem).__name__}: {problem}".rstrip(": ")
        if self._workers.has_answered:
            advice = (
                "Does it need more memory than there is? Fewer workers at a time leave more to "
                "each."
            )
        else:
            advice = (
                "None has answered yet. A script that starts processes needs if __name__ == "
                "'__main__': around what it does; and workers need ravine, and what builds the "
                "objective."
            )
        return InputError(
            f"the workers were lost {task.lost} times in a row while they measured {task.what} "
            f"({said}). {advice}"
        )

    def _send(self, task: _Task, *, tell: bool = False) -> None:
        parts: Mapping[str, bytes] = {}
        anew = self.starts_anew or self._told_to < self.count
        if tell or anew or len(self._source) + len(self._all_told) < _SMALL:
            parts = {self._objective: self._source, self._key: self._all_told}
            self._told_to += 1
        call = Call(
            caller=this_process(),
            versions=versions(),
            path=search_path(),
            objective=self._objective,
            request=self._key,
            order=task.order,
            parts=parts,
        )
        self._flying[self._workers.submit(call)] = task

    @property
    def _all_told(self) -> bytes:
        if self._told is None:
            self._told = pickle.dumps(Told.of(self._request))
        return self._told

    def _wait(self) -> None:
        """Until something may have come back."""
        if all(isinstance(future, futures.Future) for future in self._flying):
            futures.wait(self._flying, timeout=1, return_when=futures.FIRST_COMPLETED)
        else:
            time.sleep(_POLL)


class _Watch:
    """Looks now and then, while nothing comes back, whether there is anyone left to wait for."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._asked = time.monotonic()
        self._alone_since: float | None = None

    def require_workers(self) -> None:
        """Raise if there has been no worker for too long.

        Raises:
            InputError: so it is.
        """
        now, patience = time.monotonic(), self._workers.patience
        if now - self._asked < min(_ASK, patience / 4):
            return
        self._asked = now
        if not self._workers.are_gone:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= patience:
            msg = (
                f"the executor has had no worker for {patience:.0f} seconds, and there is work "
                "left. Start workers and run the same again (with store=, what was measured is "
                "kept); if they wait in a queue, give more patience: Workers(executor, "
                "patience=3600)."
            )
            raise InputError(msg)


class WorkerTraceback(Exception):  # noqa: N818  it is no error, but says where one was raised
    """Where something was raised in a worker."""

    def __str__(self) -> str:
        return f"\n\nin a worker:\n{self.args[0]}"


def _raised(failed: Failed) -> BaseException:
    """The exception of a worker, with the point, the batch and where it was raised."""
    problem: BaseException | None = None
    if failed.problem is not None:
        with suppress(Exception):  # of a class that only the worker has
            problem = pickle.loads(failed.problem)
    if problem is None:
        problem = RuntimeError(failed.said)
    known = getattr(problem, "__notes__", ())
    for note in failed.notes:
        if note not in known:
            problem.add_note(note)
    problem.__cause__ = WorkerTraceback(failed.trace)
    return problem


def _key_of(objective: str, request: Request) -> str:
    """A request's name, by content: a second one like it finds what workers keep of the first."""
    setup = request.setup
    policies = [repr(getattr(setup, name)) for name in POLICIES]
    splits = [split.name for split in setup.splits]
    said = [
        objective,
        list(request.hashes),
        policies,
        splits,
        str(setup.device),
        str(request.dtype),
        request.threads,
    ]
    return digest_of(said).hex()


def _sent(source: Any) -> bytes:
    """An objective, or what builds it, as bytes.

    Raises:
        InputError: it cannot be sent.
    """
    try:
        # it comes with Dask, Ray and submitit, and takes functions of a notebook
        import cloudpickle as pickler
    except ImportError:
        pickler = pickle
    try:
        return pickler.dumps(source)
    except Exception as problem:
        what = "function that builds the objective" if isinstance(source, Origin) else "objective"
        msg = (
            f"the {what} cannot be sent to workers ({type(problem).__name__}: {problem}). Give it "
            "by the name of the function that builds it, which they then call: "
            "ravine.load_objective('file.py:function')."
        )
        raise InputError(msg) from problem


# --- executors ------------------------------------------------------------------------------------


def _count_of(executor: Any) -> int:
    """How many workers an executor has, as far as it says."""
    if isinstance(executor, int):
        return executor
    client: Any = getattr(executor, "_client", None)  # of dask.distributed
    if hasattr(client, "nthreads"):
        with suppress(Exception):  # its scheduler is gone, which shows when work is handed in
            return max(1, len(client.nthreads()))
    for name in ("count", "_max_workers"):
        found = getattr(executor, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return _UNKNOWN


def _require_executor(executor: Any) -> None:
    if isinstance(executor, bool) or (isinstance(executor, int) and executor < 1):
        msg = f"expected a positive number of worker processes; got {executor!r}"
        raise InputError(msg)
    if not isinstance(executor, int) and not callable(getattr(executor, "submit", None)):
        msg = (
            "executor must be a number of processes, or have the interface of concurrent.futures "
            "(a method submit): a ProcessPoolExecutor, a Client of dask.distributed, an executor "
            f"of submitit, ravine.integrations.ray.RayExecutor; got {type(executor).__name__}"
        )
        raise InputError(msg)
    is_pool = isinstance(executor, futures.ProcessPoolExecutor)
    if is_pool and vars(executor)["_mp_context"].get_start_method() == "fork":
        msg = (
            "the executor makes its processes by fork, after which PyTorch's threads may hang: "
            "give ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')), or the "
            "number of processes"
        )
        raise InputError(msg)
    if isinstance(executor, futures.ThreadPoolExecutor):
        msg = (
            "the executor's workers are threads, which share one process and measure nothing at "
            "the same time: give a "
            "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')), or the number "
            "of processes"
        )
        raise InputError(msg)


def _require_positive(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{what} must be a positive integer; got {value!r}"
        raise InputError(msg)
