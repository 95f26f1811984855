"""A store in memory for ranks that are threads, with the faults that real stores show."""

import threading
import time


class FakeStore:
    """One rank's connection to the shared memory of a `FakeServer`."""

    def __init__(self, server: "FakeServer") -> None:
        self._server = server

    def set(self, key: str, value: str) -> None:
        with self._server.turn():
            self._server.values[key] = value
            self._server.changed.notify_all()

    def get(self, key: str) -> str | None:
        with self._server.turn():
            return self._server.values.get(key)

    def wait(self, key: str, seconds: float) -> bool:
        with self._server.turn():
            there = self._server.changed.wait_for(
                lambda: key in self._server.values or self._server.gone, seconds
            )
            self._server.refuse_if_gone()
            return there

    def add(self, key: str, amount: int) -> int:
        with self._server.turn():
            try:
                total = int(self._server.values.get(key, "0")) + amount
            except ValueError:  # as torch's server does
                raise ConnectionError("connection was likely closed") from None
            self._server.values[key] = str(total)
            return total

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        with self._server.turn():
            stands = self._server.values.get(key)
            if stands == expected or (stands is None and expected == ""):
                self._server.values[key] = desired
                self._server.changed.notify_all()
                return desired
            return expected if stands is None else stands


class FakeServer:
    """The memory; counts requests, and refuses them when ``gone``, as if its host had died."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()
        self.gone = False
        self.thaws_at = 0.0
        self.requests = 0

    def connect(self, _seconds: float) -> FakeStore:
        with self.turn():
            return FakeStore(self)

    def freeze(self, seconds: float) -> None:
        """Answer nobody for a while, as a store whose host is frozen."""
        self.thaws_at = time.monotonic() + seconds

    def die(self) -> None:
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def refuse_if_gone(self) -> None:
        if self.gone:
            raise ConnectionError("connection reset by peer")

    def turn(self) -> "_Turn":
        return _Turn(self)


class _Turn:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def __enter__(self) -> None:
        time.sleep(max(0.0, self._server.thaws_at - time.monotonic()))
        self._server.changed.acquire()
        self._server.requests += 1
        if self._server.gone:
            self._server.changed.release()
            self._server.refuse_if_gone()

    def __exit__(self, *_: object) -> None:
        self._server.changed.release()
