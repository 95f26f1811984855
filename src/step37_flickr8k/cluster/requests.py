"""Requests of the state machines to a real store, made where they may block."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from step37_flickr8k.cluster.call import Store
from step37_flickr8k.cluster.codec import read, text_of
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.messages import Message, RankReport

__all__ = ["StoreThread", "request"]

# Seconds between two checks of the clock, while a request is under way
_CHECK = 1.0
# Checks after which a request is overdue. More than one: if this process itself was frozen, its
# thread catches up first.
_OVERDUE_CHECKS = 2


def request(store: Store, action: act.Action) -> Any:
    """Return what came of an action that is a request; raises ConnectionError."""
    came: Any = None
    match action:
        case act.Exists(key):
            came = store.check(key)
        case act.Await(key, until):
            came = store.wait(key, max(until - time.monotonic(), 0.001))
        case act.Load(key, kind):
            text = store.get(key)
            came = text if kind is str else read(text, kind)
        case act.Save(key, value):
            store.set(key, value if isinstance(value, str) else text_of(value))
        case act.SaveOnce(key, value):
            text = text_of(value)
            if (stands := store.compare_set(key, "", text)) != text:
                came = read(stands, RankReport if isinstance(value, RankReport) else Message)
        case act.Swap(key, expected, desired):
            came = store.compare_set(key, expected, desired)
        case act.Add(key, amount):
            came = store.add(key, amount)
        case _:
            raise TypeError(f"no request to a store: {action}")
    return came


class StoreThread:
    """Makes requests in a thread of its own, so that the calling thread stays free for signals."""

    def __init__(self, connect: Callable[[float], Store]) -> None:
        """Connect by ``connect(seconds)``, later."""
        self._connect = connect
        self._tasks: queue.SimpleQueue[tuple[act.Action, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="step37-follower", daemon=True)
        self._thread.start()

    def make(self, action: act.Action, until: float) -> Any:
        """Return what came of a request; raises ConnectionError, also when ``until`` is long over.

        A store may neither answer nor break.
        """
        future: Future[Any] = Future()
        self._tasks.put((action, future))
        overdue = 0
        while not wait([future], timeout=_CHECK).done:
            overdue = overdue + 1 if time.monotonic() > until else 0
            if overdue > _OVERDUE_CHECKS:
                raise ConnectionError("the store doesn't answer")
        return future.result()

    def close(self, seconds: float) -> None:
        """End the thread; one that the end of the process meets inside torch aborts the process."""
        self._tasks.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        store: Store
        while (task := self._tasks.get()) is not None:
            action, future = task
            try:
                if isinstance(action, act.Connect):
                    store = self._connect(max(action.until - time.monotonic(), 0.001))
                    future.set_result(None)
                else:
                    future.set_result(request(store, action))
            except BaseException as error:  # noqa: BLE001 - for whoever waits
                future.set_exception(error)
