"""Thousands of clients of torch's TCPStore in one process, over its wire protocol.

A client is a generator: it yields requests and is sent the bytes of their answers. One loop drives
all of them, so that a machine without thousands of processors can ask a real store what thousands
of ranks ask.
"""

import heapq
import resource
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Ask", "Life", "Loop", "add", "compare_set", "greet", "set_value", "wait"]


class Query(IntEnum):
    """The first byte of a request, as torch's ``TCPStoreBackend.hpp`` numbers them."""

    VALIDATE = 0
    SET = 1
    COMPARE_SET = 2
    ADD = 4
    WAIT = 6
    CANCEL_WAIT = 12
    PING = 13


_MAGIC = 0x3C85F7CE
_IS_THERE = b"\0"
# The bytes of an answer whose length it announces
_ANNOUNCED = -1
_LENGTH = struct.Struct("=Q")


@dataclass(frozen=True)
class Ask:
    """A request, the bytes of its answer, and until when to wait for that."""

    data: bytes
    size: int = 0
    until: float = 0.0


# What a client does next: a request, or nothing until a time. It is sent the answer's bytes, or None.
Life = Generator[Ask | float, bytes | None, None]


# --- requests ---


def _bytes(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _LENGTH.pack(len(data)) + data


def _key(key: str) -> bytes:
    # The prefix is torch's own.
    return _bytes(f"/{key}")


def set_value(key: str, value: str) -> Ask:
    """Return the request that writes a value; it has no answer."""
    return Ask(bytes([Query.SET]) + _key(key) + _bytes(value))


def compare_set(key: str, expected: bytes, desired: bytes) -> Ask:
    """Return the request that writes a value where another one stands; answered what stands."""
    data = bytes([Query.COMPARE_SET]) + _key(key) + _bytes(expected) + _bytes(desired)
    return Ask(data, _ANNOUNCED)


def add(key: str, amount: int) -> Ask:
    """Return the request that adds to a counter; answered its value, 8 bytes."""
    return Ask(bytes([Query.ADD]) + _key(key) + struct.pack("=q", amount), 8)


def wait(key: str, until: float) -> Generator[Ask | float, bytes | None, bool]:
    """Return whether a key is there, or comes until a time."""
    answer = yield Ask(bytes([Query.WAIT]) + _LENGTH.pack(1) + _key(key), 1, until)
    if answer is None:
        answer = yield Ask(bytes([Query.CANCEL_WAIT]), 1)
        if answer == _IS_THERE:
            # The key came while this rank gave it up: the answer to that follows.
            yield Ask(b"", 1)
    return answer == _IS_THERE


def greet(number: int) -> Life:
    """Say to the store that this is a client of its kind."""
    hello = struct.pack("=BI", Query.VALIDATE, _MAGIC) + struct.pack("=BI", Query.PING, number)
    yield Ask(hello, 4)


# --- the loop ---


class _Client:
    """One client's connection: what it waits for, and the bytes that are there."""

    def __init__(self, life: Life, port: int) -> None:
        self.life = life
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.asked: Ask | None = None
        self.turn = 0
        self.received = b""

    def taken(self) -> bytes | None:
        """Return the answer to what was asked, if all of it is there."""
        if self.asked is None:
            return None
        start, size = 0, self.asked.size
        if size == _ANNOUNCED:
            if len(self.received) < _LENGTH.size:
                return None
            start = _LENGTH.size
            size = _LENGTH.unpack_from(self.received)[0]
        if len(self.received) < start + size:
            return None
        answer = self.received[start : start + size]
        self.received = self.received[start + size :]
        return answer


class Loop:
    """Drives the clients of one store to their ends, and counts their requests by second."""

    def __init__(self, port: int) -> None:
        """Drive clients of the store on a port of this machine."""
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, int]] = []
        self._clients: list[_Client] = []
        self.requests = Counter[int]()

    def run(self, lives: Sequence[Life]) -> None:
        """Connect all clients, and return when each has ended; ConnectionError without a store."""
        _allow_files(len(lives))
        for number, life in enumerate(lives):
            client = _Client(life, self._port)
            self._clients.append(client)
            self._selector.register(client.socket, selectors.EVENT_READ, number)
            self._go_on(number, None)
        while self._selector.get_map():
            limit = self._wake_sleepers()
            for event, _ in self._selector.select(limit):
                self._receive(event.data)

    def _wake_sleepers(self) -> float | None:
        """Let those go on whose time is over; return the seconds until the next one's is."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, number, turn = heapq.heappop(self._timers)
            if self._clients[number].turn == turn:
                self._go_on(number, None)
        return max(self._timers[0][0] - now, 0) if self._timers else None

    def _receive(self, number: int) -> None:
        client = self._clients[number]
        received = client.socket.recv(65536)
        if not received:
            raise ConnectionError("the store closed a connection")
        client.received += received
        while (answer := client.taken()) is not None:
            self._go_on(number, answer)

    def _go_on(self, number: int, answer: bytes | None) -> None:
        """Send a client what it waited for, and do what it asks, up to the next wait."""
        client = self._clients[number]
        waits = False
        while not waits:
            client.turn += 1
            try:
                step = client.life.send(answer)
            except StopIteration:
                client.asked = None
                self._selector.unregister(client.socket)
                client.socket.close()
                return
            client.asked = step if isinstance(step, Ask) else None
            until = step.until if isinstance(step, Ask) else step
            if until:
                heapq.heappush(self._timers, (until, number, client.turn))
            if isinstance(step, Ask) and step.data:
                self.requests[int(time.monotonic())] += 1
                client.socket.sendall(step.data)
            waits = client.asked is None or bool(client.asked.size)
            answer = None


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, max(hard, count + 100)))
