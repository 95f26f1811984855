"""Every error of the project, with the exit code that the command ends with.

::

    Step37Error                       1   an internal error that nobody foresaw
    ├── ConfigurationError            2   a retry without a change can't help
    │   ├── InvalidSettings               a setting is unknown, malformed or contradicts another
    │   ├── InvalidWorld                  the launcher's variables are half set or contradictory
    │   ├── CallMismatch                  ranks passed different arguments, or make other calls
    │   ├── RepositoryNotFound            no such dataset repository, or hidden from this token
    │   ├── RevisionNotFound              the repository has no such branch, tag or commit
    │   ├── AccessDenied                  the Hub refuses the token, or the repository wants one
    │   ├── CertificateNotTrusted         a server's certificate isn't trusted on this machine
    │   ├── ProxyRefused                  a proxy or filter refuses the request, or wants a login
    │   ├── SplitNotFound                 the commit holds no metadata table for the split
    │   ├── CaptionKeyNotFound            the metadata table has no such column
    │   ├── EmptySelection                no row of the split counts (a RuntimeError, too)
    │   ├── ImageNotFound                 a row names an image that the commit doesn't hold
    │   ├── InvalidMetadata               the metadata table can't be read, or can't be meant
    │   ├── DecoderMissing                this Pillow can't decode a kind of image that is there
    │   ├── BadImages                     images can't be decoded, and ``bad_images`` is ``error``
    │   └── FolderNotUsable               the cache directory can't be made, read or written
    ├── TransientError               75   the same command may well succeed later
    │   ├── HubUnavailable                the Hub doesn't respond, or responds that it can't now
    │   ├── FetchFailed                   files are missing after all retries; it names them
    │   ├── FolderFull                    the file system has no space, inodes or quota left
    │   ├── NotVisible                    this rank doesn't see what rank 0 published
    │   ├── CommitChanged                 another commit was published into the directory meanwhile
    │   ├── LeaseLost                     another downloader has taken over the lease
    │   └── Stalled                       rank 0 made no progress for ``stall_timeout``
    ├── CacheDamaged                  3   files of the cache are missing or have wrong bytes
    └── RankZeroLost                 76   rank 0 was signalled, killed, silent or never met

    Terminated (a SystemExit)       143   this process was ended by SIGTERM or SIGHUP
    ImportError (Python's own)        2   a part of Python, or a library, can't be loaded

A class takes its exit code, and its advice where it has none of its own, from the class above it.
"""

import builtins
import contextlib
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from step37_flickr8k.visible import visible

_LONGEST_TEXT = 10_000  # characters that other processes are sent
_REPAIR = "repair the installation of {}, or of the library that can't be loaded"


class Step37Error(Exception):
    """Raised for an internal error that nobody foresaw; the base of all errors of this project.

    ``what_to_do`` is general advice for the class; the message itself names the remedy for the one
    case. ``ranks`` is what each rank reported, if some of them could not use what rank 0 had done.
    """

    exit_code: ClassVar[int] = 1
    what_to_do: ClassVar[str] = "it's a bug: report it, with the log at --log-level debug"
    ranks: Mapping[int, Any] = {}

    def __init__(self, *args: object) -> None:
        """Take a message of one line; what others wrote in it is made visible."""
        super().__init__(*(visible(each) if isinstance(each, str) else each for each in args))


class ConfigurationError(Step37Error):
    """Raised when a retry without a change can't help."""

    exit_code = 2
    what_to_do = "change what the message names: a retry without that can't help"


class InvalidSettings(ConfigurationError):
    """Raised when a setting is unknown, malformed or contradicts another; a line for each."""

    def __init__(self, *problems: str) -> None:
        """Take one problem, or several."""
        super().__init__(*problems)
        lines = (line for each in problems for line in each.split("\n"))
        self.args = ("\n".join(map(visible, lines)),)


class InvalidWorld(ConfigurationError):
    """Raised when the launcher's variables are half set or contradict each other."""


class CallMismatch(ConfigurationError):
    """Raised when the ranks of one call passed different arguments, or make different calls."""


class RepositoryNotFound(ConfigurationError):
    """Raised when the Hub has no such dataset repository, or hides it from this token."""


class RevisionNotFound(ConfigurationError):
    """Raised when the repository has no such branch, tag or commit."""


class AccessDenied(ConfigurationError):
    """Raised when the Hub refuses the token, or the repository wants one."""


class CertificateNotTrusted(ConfigurationError):
    """Raised when the certificate of the Hub, or of where it redirects to, isn't trusted here."""


class ProxyRefused(ConfigurationError):
    """Raised when a proxy or a filter refuses a request, or wants a login."""


class SplitNotFound(ConfigurationError):
    """Raised when the commit holds no metadata table, in the split's directory or at its root."""


class CaptionKeyNotFound(ConfigurationError):
    """Raised when the metadata table has no column of that name."""


class EmptySelection(ConfigurationError, RuntimeError):
    """Raised when no row of the split counts."""


class ImageNotFound(ConfigurationError):
    """Raised when a row names an image that the commit doesn't hold."""


class InvalidMetadata(ConfigurationError):
    """Raised when the metadata table can't be read, or says what can't be meant."""


class DecoderMissing(ConfigurationError):
    """Raised when Pillow, as it is installed, can't decode a kind of image of the dataset."""


class BadImages(ConfigurationError):
    """Raised when images of the selection can't be decoded, and ``bad_images`` is ``error``."""


class FolderNotUsable(ConfigurationError):
    """Raised when the cache directory can't be made, read or written."""


class TransientError(Step37Error):
    """Raised when the same command may well succeed later."""

    exit_code = 75
    what_to_do = "run it again: what was verified stays, only the rest is fetched"


class HubUnavailable(TransientError):
    """Raised when the Hub doesn't respond, or responds that it can't now."""

    what_to_do = "check with doctor whether the endpoint can be reached, then run it again"


class FetchFailed(TransientError):
    """Raised when files are missing after all retries; the message names them."""


class FolderFull(TransientError):
    """Raised when the file system has no space, inodes or quota left."""

    what_to_do = "free space first, then run it again"


class NotVisible(TransientError):
    """Raised when this rank doesn't see what rank 0 published."""


class CommitChanged(TransientError):
    """Raised when another commit was published into the directory meanwhile."""


class LeaseLost(TransientError):
    """Raised in a downloader whose lease another one has taken over."""


class Stalled(TransientError):
    """Raised when rank 0 is alive and made no progress for ``stall_timeout``."""


class CacheDamaged(Step37Error):
    """Raised by ``verify`` when files of the cache are missing or have wrong bytes."""

    exit_code = 3
    what_to_do = "run verify --repair, which downloads just these files, or warmup"


class RankZeroLost(Step37Error):
    """Raised on the other ranks when rank 0 was signalled, killed, silent or never met."""

    exit_code = 76
    what_to_do = "read rank 0's own log, then start this rank again"


class Terminated(SystemExit):
    """Raised in the main thread by SIGTERM, and by SIGHUP, which ends the command as that does.

    A SystemExit, because an asyncio task lets only that and KeyboardInterrupt through.
    """

    exit_code: ClassVar[int] = 143

    def __init__(self, signal_name: str = "SIGTERM") -> None:
        """Set the exit code with which a shell reports SIGTERM."""
        super().__init__(self.exit_code)
        self.signal_name = signal_name


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that the command ends with after ``error``."""
    if isinstance(error, Step37Error | Terminated):
        return error.exit_code
    if isinstance(error, ImportError):
        return ConfigurationError.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def message_of(error: BaseException) -> str:
    """Return an error's message; signals, which have none of their own, get one."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, ImportError):
        return f"{error}: {_REPAIR.format(f'the Python {sys.executable}')}"
    return f"ended by {error.signal_name}" if isinstance(error, Terminated) else str(error)


def what_to_do(error: BaseException) -> str:
    """Return general advice for a run that ended with ``error``."""
    if isinstance(error, Terminated | KeyboardInterrupt):
        return TransientError.what_to_do
    if isinstance(error, ImportError):
        return _REPAIR.format("this Python")
    return error.what_to_do if isinstance(error, Step37Error) else Step37Error.what_to_do


@dataclass(frozen=True)
class ErrorReport:
    """An error as other processes read it: class name, message, traceback, and the host."""

    error: str
    message: str
    traceback: str = ""
    raised_on: str = ""

    @classmethod
    def of(cls, error: BaseException, host: str = "") -> "ErrorReport":
        """Return the report of an error of rank 0, or of any worker.

        A signal is reported as `RankZeroLost`: nothing is wrong with the other ranks' call.
        """
        if isinstance(error, Exception):
            name, message = type(error).__name__, _text_of(error)[:_LONGEST_TEXT]
        else:
            name, message = RankZeroLost.__name__, f"rank 0 was ended by {_signal_name(error)}"
        return cls(name, message, "".join(traceback.format_exception(error))[-_LONGEST_TEXT:], host)

    def as_json(self) -> dict[str, str]:
        """Return the report as the JSON object that is sent to other processes."""
        host = {"raised_on": self.raised_on} if self.raised_on else {}
        return {"error": self.error, "message": self.message, "traceback": self.traceback, **host}

    @staticmethod
    def from_json(value: Mapping[str, str]) -> "ErrorReport":
        """Return the report that `as_json` wrote."""
        return ErrorReport(value["error"], value["message"], value["traceback"])

    def exception(self) -> Exception:
        """Return an error of the named class with this message.

        The class is one of this module or of Python itself. An error whose class is unknown, or
        can't be built from a message alone, becomes a `Step37Error` that names it.
        """
        known = globals().get(self.error) or getattr(builtins, self.error, None)
        if isinstance(known, type) and issubclass(known, Exception):
            # Some take more than a message, UnicodeDecodeError for one
            with contextlib.suppress(TypeError):
                error = known(self.message)
                if self.raised_on and sys.version_info >= (3, 11):  # 3.10 has no notes
                    error.add_note(f"raised by rank 0, on {self.raised_on}")
                return error
        where = f" on {self.raised_on}" if self.raised_on else ""
        return Step37Error(f"{self.error}{where}: {self.message}")


def _signal_name(error: BaseException) -> str:
    if isinstance(error, Terminated):
        return error.signal_name
    return "SIGINT (Ctrl-C)" if isinstance(error, KeyboardInterrupt) else f"{error!r:.200}"


def _text_of(error: Exception) -> str:
    """Return an error's message; a class of somebody else may fail to make one."""
    with contextlib.suppress(Exception):
        return str(error)
    return "its message can't be read"
