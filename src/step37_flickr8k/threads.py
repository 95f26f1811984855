"""Threads that nobody has to wait for.

A thread that blocks in the kernel, in a file system that doesn't answer for example, can't be
ended. So what may block runs in a daemon thread, and whoever waits for it stays free: for signals,
and to go on without it. Python's own thread pools don't allow that: the interpreter's exit waits
for them.
"""

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

__all__ = ["DaemonPool", "Detached", "awaited", "paused"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_CHECK = 0.5  # s between two checks for a signal or an interruption


class _DetachedThread(threading.Thread):
    """The thread of a `Detached`."""

    interrupted: threading.Event
    reason: BaseException | None = None


class Detached(Generic[_T]):
    """A call in a daemon thread of its own, with the context variables of the thread that made it.

    Its maker may wait for it, interrupt it, or go on without it.
    """

    def __init__(self, call: Callable[[], _T], name: str) -> None:
        """Start it."""
        self._result: Future[_T] = Future()
        context = contextvars.copy_context()
        self._thread = _DetachedThread(
            target=context.run, args=(_settle, self._result, call), name=name, daemon=True
        )
        self._thread.interrupted = threading.Event()
        self._thread.start()

    def done_within(self, seconds: float) -> bool:
        """Return whether it has ended, which is waited for so long; a signal interrupts that."""
        return bool(wait([self._result], seconds).done)

    def result(self) -> _T:
        """Return what it returned, or raise what it raised; for one that has ended."""
        return self._result.result()

    def interrupt(self, reason: BaseException) -> None:
        """Raise ``reason`` there, the next time that it waits by `awaited` or `paused`."""
        self._thread.reason = reason
        self._thread.interrupted.set()


def awaited(future: "Future[_T]") -> _T:
    """Return the result of another thread's work; a signal or an interruption ends the wait.

    The wait ends now and then to check for one: a signal that arrives just before the main thread
    begins to wait doesn't wake it, nor does one that the kernel delivers to another thread.
    """
    while not wait([future], _CHECK).done:
        paused(0)
    return future.result()


def paused(seconds: float) -> None:
    """Do nothing for so long; raises the reason if this thread is interrupted meanwhile."""
    thread = threading.current_thread()
    if not isinstance(thread, _DetachedThread):
        time.sleep(seconds)
    elif thread.interrupted.wait(seconds) and thread.reason is not None:
        raise thread.reason


class DaemonPool(Executor):
    """A thread pool whose threads end with the process, whatever they do."""

    def __init__(self, most: int, name: str) -> None:
        """Allow ``most`` threads, which start when they are needed."""
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._is_shut = False

    def submit(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> "Future[_T]":
        """Return the future result of a call; raises RuntimeError after `shutdown`."""
        future: Future[_T] = Future()
        with self._lock:
            if self._is_shut:
                raise RuntimeError("the pool is shut down")
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._calls.put((future, partial(function, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further calls; ``wait`` for those under way, and cancel those that aren't."""
        with self._lock:
            self._is_shut = True
            while cancel_futures and not self._calls.empty():
                if (call := self._calls.get()) is not None:
                    call[0].cancel()
            for _ in self._threads:
                self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (task := self._calls.get()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                _settle(future, call)
            del task, future, call
            self._idle.release()


def _settle(future: "Future[_T]", call: Callable[[], _T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - for whoever waits
        future.set_exception(error)
