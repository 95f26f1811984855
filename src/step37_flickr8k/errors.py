"""Every error of the project, with the exit code that the command ends with.

::

    Step37Error                       1   a bug: nobody foresaw it
    ├── ConfigurationError            2   trying again without a change can't help
    │   ├── InvalidSettings               a setting is unknown, malformed or contradicts another
    │   ├── InvalidWorld                  the launcher's variables are half set or contradict each other
    │   ├── CallMismatch                  ranks of one call passed different arguments
    │   ├── RepositoryNotFound            the Hub has no such dataset repository, or hides it from this token
    │   ├── RevisionNotFound              the repository has no such branch, tag or commit
    │   ├── AccessDenied                  the Hub refuses the token, or the repository wants one
    │   ├── SplitNotFound                 the commit holds no ``<split>/metadata.csv``
    │   ├── CaptionKeyNotFound            metadata.csv has no such column
    │   ├── EmptySelection                no row of the split counts (a RuntimeError, too)
    │   ├── ImageNotFound                 a row names an image that the commit doesn't hold
    │   ├── InvalidMetadata               metadata.csv can't be read as the dataset's table
    │   ├── BadImages                     images of the selection can't be decoded, and ``bad_images`` is ``error``
    │   └── FolderNotUsable               the cache directory can't be made, read or written
    ├── TransientError               75   the same command may well succeed later
    │   ├── HubUnavailable                the Hub didn't answer, or answered that it can't now
    │   ├── FetchFailed                   files are missing after all tries; it names them
    │   ├── FolderFull                    the file system has no space, inodes or quota left
    │   ├── CacheDamaged                  files of the cache are missing or have wrong bytes
    │   ├── NotVisible                    this rank doesn't see what rank 0 published
    │   ├── CommitChanged                 somebody published another commit into the directory meanwhile
    │   ├── LeaseLost                     another downloader has taken over the lease
    │   └── Stalled                       rank 0 is alive and made no progress for ``stall_timeout``
    └── RankZeroLost                 76   rank 0 was signalled, killed, silent or never met: start this rank again

    Terminated (a SystemExit)       143   this process itself was ended by SIGTERM
"""

import builtins
import contextlib
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar


class Step37Error(Exception):
    """Raised for what nobody foresaw; the base of all errors of this project.

    ``ranks`` is what each rank reported, where some of them could not use what rank 0 had done.
    """

    exit_code: ClassVar[int] = 1
    what_to_do: ClassVar[str] = "it's a bug: tell us, with the log at --log-level debug"
    ranks: Mapping[str, Any] = {}


class ConfigurationError(Step37Error):
    """Raised when trying again without a change can't help."""

    exit_code = 2
    what_to_do = "change what the message names: trying again can't help"


class InvalidSettings(ConfigurationError):
    """Raised when a setting is unknown, malformed or contradicts another."""


class InvalidWorld(ConfigurationError):
    """Raised when the launcher's variables are half set or contradict each other."""


class CallMismatch(ConfigurationError):
    """Raised on every rank when the ranks of one call passed different arguments."""


class RepositoryNotFound(ConfigurationError):
    """Raised when the Hub has no such dataset repository, or hides it from this token."""


class RevisionNotFound(ConfigurationError):
    """Raised when the repository has no such branch, tag or commit."""


class AccessDenied(ConfigurationError):
    """Raised when the Hub refuses the token, or the repository wants one."""


class SplitNotFound(ConfigurationError):
    """Raised when the commit holds no ``<split>/metadata.csv``."""


class CaptionKeyNotFound(ConfigurationError):
    """Raised when metadata.csv has no column of that name."""


class EmptySelection(ConfigurationError, RuntimeError):
    """Raised when no row of the split counts."""


class ImageNotFound(ConfigurationError):
    """Raised when a row names an image that the commit doesn't hold."""


class InvalidMetadata(ConfigurationError):
    """Raised when metadata.csv can't be read as the dataset's table."""


class BadImages(ConfigurationError):
    """Raised when images of the selection can't be decoded, and ``bad_images`` is ``error``."""


class FolderNotUsable(ConfigurationError):
    """Raised when the cache directory can't be made, read or written."""


class TransientError(Step37Error):
    """Raised when the same command may well succeed later."""

    exit_code = 75
    what_to_do = "run it again: what was verified stays, only the rest is fetched"


class HubUnavailable(TransientError):
    """Raised when the Hub didn't answer, or answered that it can't now."""

    what_to_do = "see with doctor whether the endpoint can be reached, then run it again"


class FetchFailed(TransientError):
    """Raised when files are missing after all tries; the message names them."""


class FolderFull(TransientError):
    """Raised when the file system has no space, inodes or quota left."""

    what_to_do = "free space first, then run it again"


class CacheDamaged(TransientError):
    """Raised when files of the cache are missing or have wrong bytes."""


class NotVisible(TransientError):
    """Raised when this rank doesn't see what rank 0 published."""


class CommitChanged(TransientError):
    """Raised when somebody published another commit into the directory meanwhile."""


class LeaseLost(TransientError):
    """Raised in a downloader whose lease another one has taken over."""


class Stalled(TransientError):
    """Raised when rank 0 is alive and made no progress for ``stall_timeout``."""


class RankZeroLost(Step37Error):
    """Raised on the other ranks when rank 0 was signalled, killed, silent or never met."""

    exit_code = 76
    what_to_do = "look at rank 0's own log, then start this rank again"


class Terminated(SystemExit):
    """Raised in the main thread by SIGTERM; a SystemExit, since an asyncio task lets only that and Ctrl-C through."""

    exit_code: ClassVar[int] = 143

    def __init__(self) -> None:
        """End this process with 143, as a shell reports SIGTERM."""
        super().__init__(self.exit_code)


def exit_code_of(error: BaseException) -> int:
    """Give the exit code that the command ends with after ``error``."""
    if isinstance(error, Step37Error | Terminated):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def words_of(error: BaseException) -> str:
    """Give what an error says; the two that end a process from outside have no message of their own."""
    return {KeyboardInterrupt: "interrupted", Terminated: "ended by SIGTERM"}.get(
        type(error)
    ) or str(error)


def what_to_do(error: BaseException) -> str:
    """Give what to do about a run that ended with this; the message itself names the thing and its remedy."""
    if isinstance(error, Terminated | KeyboardInterrupt):
        return TransientError.what_to_do
    return error.what_to_do if isinstance(error, Step37Error) else Step37Error.what_to_do


def as_value(error: BaseException) -> dict[str, str]:
    """Turn an error into what can be sent to another process: class, message and traceback.

    A signal that ended rank 0 is `RankZeroLost` to the others: nothing is wrong with their call.
    """
    if isinstance(error, Exception):
        name, message = type(error).__name__, str(error)
    else:
        name, message = "RankZeroLost", f"rank 0 was ended by {_signal_name(error)}"
    return {
        "error": name,
        "message": message,
        "traceback": "".join(traceback.format_exception(error)),
    }


def from_value(value: dict[str, Any]) -> Exception:
    """Build the error that `as_value` described; one that can't be built here becomes a Step37Error that names it."""
    name, message = str(value["error"]), str(value["message"])
    known = globals().get(name) or getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception):
        # Some take more than a message, UnicodeDecodeError for one
        with contextlib.suppress(TypeError):
            return known(message)
    return Step37Error(f"{name}: {message}")


def _signal_name(error: BaseException) -> str:
    names = {Terminated: "SIGTERM", KeyboardInterrupt: "SIGINT (Ctrl-C)"}
    return names.get(type(error), type(error).__name__)
