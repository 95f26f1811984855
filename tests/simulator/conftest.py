"""Constants of the state machines, as the simulator needs them."""

import logging
import sys
from collections.abc import Iterator

import pytest

from step37_flickr8k.cluster.protocol import follower, leader


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Trace no line for the coverage: millions of steps would take four times as long."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture
def coarse_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let time go by in steps of one heartbeat, so that there are few different times."""
    monkeypatch.setattr(leader, "_TURN", 1.0)
    monkeypatch.setattr(leader, "_LAST_TURN", 1.0)
    monkeypatch.setattr(leader, "_FAREWELL", 1.0)
    monkeypatch.setattr(leader, "_LAST_REPORTS", 1.0)
    monkeypatch.setattr(follower, "_FIRST_WAIT", 2.0)
    monkeypatch.setattr(follower, "_LONGEST_WAIT", 2.0)
    yield from _silent()


@pytest.fixture
def seldom_turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the leader poll its store twice a second, not twenty times."""
    monkeypatch.setattr(leader, "_TURN", 0.5)
    monkeypatch.setattr(leader, "_LAST_TURN", 0.5)
    yield from _silent()


def _silent() -> Iterator[None]:
    """Write no log: thousands of calls warn of thousands of ranks."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
