"""An executor of Ray: actors that measure, each with a copy of the model on its own device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

import ray

from ravine.errors import InputError


class RayExecutor(Executor):
    """Actors of Ray with the interface of ``concurrent.futures``, for ``executor=``.

    Every actor is one process somewhere in the cluster, which keeps the objective, its data and its
    copy of the model from one piece of work to the next. Ray starts a lost actor again, on another
    machine if need be; what it was at is handed out anew. ``ray.init`` is the caller's: it says
    which cluster, and which code the workers have.

    Args:
        count: how many actors.
        num_cpus: of each, as Ray counts them.
        num_gpus: likewise; each actor then sees its own GPU only, as ``cuda:0``.
        options: what else ``ray.remote`` takes for an actor, such as
            ``resources`` or ``runtime_env``.

    Raises:
        InputError: Ray has not been started, or ``count`` is not positive.

    Examples:
        >>> ray.init("auto")  # doctest: +SKIP
        >>> with RayExecutor(8, num_gpus=1) as executor:  # doctest: +SKIP
        ...     curve = ravine.evaluate(J, along=line, at=grid, executor=executor)
    """

    def __init__(
        self, count: int, *, num_cpus: float = 1, num_gpus: float = 0, **options: Any
    ) -> None:
        if count < 1:
            msg = f"count must be positive; got {count!r}"
            raise InputError(msg)
        if not ray.is_initialized():
            msg = (
                "Ray has not been started: call ray.init() first, with the cluster's address if "
                "there is one"
            )
            raise InputError(msg)
        self.count = count
        said = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": -1} | options
        kind: Any = ray.remote(**said)(_Actor)
        self._actors: list[Any] = [kind.remote() for _ in range(count)]
        self._idle: deque[Any] = deque(self._actors)
        self._waiting: deque[_Work] = deque()
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have an actor call a function, as soon as one is free."""
        work = _Work(Future(), fn, args, kwargs)
        with self._lock:
            self._waiting.append(work)
        self._hand_out()
        return work.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the actors."""
        with self._lock:
            left, self._waiting = list(self._waiting), deque()
        for work in left:
            work.future.cancel()
        del wait, cancel_futures
        for actor in self._actors:
            with suppress(Exception):  # it may have ended, or Ray
                ray.kill(actor)
        self._actors = []

    def _hand_out(self) -> None:
        while True:
            with self._lock:
                if not self._idle or not self._waiting:
                    return
                actor, work = self._idle.popleft(), self._waiting.popleft()
            # it was cancelled while it waited
            if not work.future.set_running_or_notify_cancel():
                with self._lock:
                    self._idle.append(actor)
                continue
            found = actor.call.remote(work.function, *work.arguments, **work.options).future()
            found.add_done_callback(lambda done, w=work, a=actor: self._take_in(done, w, a))

    def _take_in(self, done: Future[Any], work: _Work, actor: Any) -> None:
        problem = done.exception()
        if problem is None:
            work.future.set_result(done.result())
        else:
            work.future.set_exception(problem)
        with self._lock:
            self._idle.append(actor)
        self._hand_out()


class _Work:
    def __init__(
        self,
        future: Future[Any],
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        self.future = future
        self.function = function
        self.arguments = arguments
        self.options = options


class _Actor:
    """A process that calls functions; what they keep in their modules stays."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return function(*args, **kwargs)
