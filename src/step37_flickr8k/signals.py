"""The signals that end the command.

They become exceptions of its main thread, raised where they break nothing and aren't lost.
"""

import signal
import sys
import time
from types import FrameType
from typing import Any

from step37_flickr8k.errors import Terminated

__all__ = ["ignore_sigterm", "raise_signals"]

_TERMINATING = (signal.SIGTERM, signal.SIGHUP)
_SOON = 0.01  # s until the next attempt
_LONGEST_IMPORT = 1.5  # s that an import may delay a signal


def raise_signals() -> None:
    """Let SIGTERM and SIGHUP raise `Terminated` in the main thread, Ctrl-C KeyboardInterrupt.

    A Ctrl-C, or a SIGHUP (``nohup``), that is ignored stays ignored. Nothing is raised during an
    import: its locks would stay taken, and threads that import would wait for them for ever. Where
    an exception is only printed, as in ``__del__`` or in the callback of a weak reference, it is
    raised once more.
    """
    signal.signal(signal.SIGALRM, _endings.again)
    # The kernel doesn't end a container's process 1 that has no handler
    signal.signal(signal.SIGTERM, _endings.take)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _endings.take)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _endings.take)
    sys.unraisablehook = _endings.printed


def ignore_sigterm() -> None:
    """Keep the outcome from now on: whoever ends the job must not turn it into 143."""
    for number in _TERMINATING:
        signal.signal(number, signal.SIG_IGN)
    _endings.forget()


class _Endings:
    """The signal that came; a timer retries, since a handler can't start a thread."""

    def __init__(self) -> None:
        self._ending: BaseException | None = None
        self._until = 0.0

    def take(self, number: int, frame: FrameType | None) -> None:
        self._ending = KeyboardInterrupt()
        self._until = time.monotonic() + _LONGEST_IMPORT
        if number in _TERMINATING:
            self._ending = Terminated(signal.Signals(number).name)
            # Schedulers may send it twice: the first one is on its way
            for each in _TERMINATING:
                signal.signal(each, signal.SIG_IGN)
        self._end(frame)

    def forget(self) -> None:
        self._ending = None

    def again(self, _: int, frame: FrameType | None) -> None:
        if self._ending is not None:
            self._end(frame)

    def printed(self, what: "sys.UnraisableHookArgs") -> None:
        if self._ending is not None and what.exc_type is type(self._ending):
            signal.setitimer(signal.ITIMER_REAL, _SOON)
        else:
            sys.__unraisablehook__(what)

    def _end(self, frame: FrameType | None) -> None:
        assert self._ending is not None  # noqa: S101 - it was taken
        if _is_in_import(frame) and time.monotonic() < self._until:
            signal.setitimer(signal.ITIMER_REAL, _SOON)
        else:
            raise self._ending


def _is_in_import(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


_endings = _Endings()
