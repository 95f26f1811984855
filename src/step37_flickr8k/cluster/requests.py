"""Requests of the state machines to a real store, made where they may block."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from step37_flickr8k.cluster.call import Store
from step37_flickr8k.cluster.codec import LONGEST, read, read_count, text_of
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.messages import Message, Nonce, RankReport
from step37_flickr8k.cluster.signing import Seal

__all__ = ["StoreThread", "request"]

# Seconds between two checks of the clock, while a request is under way
_CHECK = 1.0
# Checks after which a request is overdue. More than one: if this process itself was frozen, its
# thread catches up first.
_OVERDUE_CHECKS = 2
# How often a key is written again that something else has filled with what is no message
_TRIES = 10


def request(store: Store, action: act.Action, seal: Seal) -> Any:
    """Return what came of an action that is a request; raises ConnectionError."""
    came: Any = None
    match action:
        case act.Await(key, until):
            came = store.wait(key, max(until - time.monotonic(), 0.001))
        case act.Load(key, kind):
            came = read(seal.opened(key, store.get(key)), kind)
        case act.Save(key, value):
            store.set(key, seal.closed(key, value if isinstance(value, str) else text_of(value)))
        case act.SaveOnce(key, value):
            kind = RankReport if isinstance(value, RankReport) else Message
            came = _write_once(store, seal, act.Swap(key, "", text_of(value)), kind)
        case act.Swap(_, _, desired):
            came = _write_once(store, seal, action, Nonce) or desired
        case act.Count(key):
            came = read_count(store.get(key)) or 0
        case act.Add(key, amount):
            # The store breaks the connection of whoever adds to what is no number.
            is_count = read_count(store.get(key)) is not None
            came = store.add(key, amount) if is_count else 0
        case _:
            raise TypeError(f"no request to a store: {action}")
    return came


def _write_once(store: Store, seal: Seal, swap: act.Swap, kind: Any) -> Any:
    """Write a text where another one stands, or nothing of this kind; return what stands else."""
    key, text = swap.key, seal.closed(swap.key, swap.desired)
    expected = seal.closed(key, swap.expected) if swap.expected else ""
    for _ in range(_TRIES):
        stands = store.compare_set(key, expected, text)
        if stands == text:
            return None
        value = read(seal.opened(key, stands), kind)
        if value is not None:
            return value
        # What is no message, somebody else has written. The store takes back nothing that long.
        if len(stands) > LONGEST:
            store.set(key, text)
            return None
        expected = stands
    raise ConnectionError(f"something else writes to {key} of the store again and again")


class StoreThread:
    """Makes requests in a thread of its own, so that the calling thread stays free for signals."""

    def __init__(self, connect: Callable[[float], Store], seal: Seal) -> None:
        """Connect by ``connect(seconds)``, later."""
        self._connect, self._seal = connect, seal
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
                    future.set_result(request(store, action, self._seal))
            except BaseException as error:  # noqa: BLE001 - for whoever waits
                future.set_exception(error)
