"""The lease: who may download into a directory, among jobs and processes that share nothing but the directory.

It saves work; correctness is the renames' alone. ``.step37-flickr8k/<split>.lease.<n>`` is
generation n, and the highest one counts. Generation n+1 is taken by an exclusive ``link``, and only
after generation n has ended or its bytes have not changed for ``timeout`` by the taker's own
monotonic clock: no clock of another node is trusted, and no file lock.
"""

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.errors import LeaseLost, RankZeroLost, Step37Error, as_value, from_value

__all__ = ["Claim", "Holder", "Lease", "holder", "take"]

log = logging.getLogger("step37_flickr8k")

# Bytes that a lease has from its first instant: on a full disk its end can be written in place, but
# it can't grow
_ROOM = 4096
_FIRST_BEAT = 1.0  # s
_USUAL = 120.0  # s of silence that a lease of an older version allows
_LONGEST = 2000  # characters of a failure's message that fit there


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who asks for the lease; host and pid are for people, since a replaced pod has the same ones."""

    run: str | None
    rank: int
    host: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Holder(Claim):
    """What the newest lease says: held, released or failed, how far its holder was, and for how many seconds it has been silent.

    ``timeout`` is the silence after which another may take it.
    """

    state: str
    silent: float
    timeout: float
    progress: Progress | None
    failure: str | None


def holder(directory: CacheDirectory) -> Holder | None:
    """Look who holds the lease, or held it last; None if nobody ever did, or it is being written at this moment.

    The silence is told by this node's clock, so it is for people: who takes a lease watches it.
    """
    generation, content = _newest(directory)
    said = _parsed(content)
    if not generation or "nonce" not in said:
        return None
    failure = said.get("failure")
    return Holder(
        **{name: said.get(name) for name in ("run", "rank", "host", "pid", "state")},  # type: ignore[arg-type]
        silent=time.time() - directory.written_at(f"{directory.split}.lease.{generation}"),
        timeout=timeout if isinstance(timeout := said.get("timeout"), int | float) else _USUAL,
        progress=_progress(said.get("progress")),
        failure=_told(failure) if isinstance(failure, dict) else None,
    )


def _told(failure: Mapping[str, Any]) -> str:
    """Give a failure in words; one that ended from outside has no other name than what ended it."""
    message = str(failure.get("message"))
    return (
        message
        if failure.get("error") == RankZeroLost.__name__
        else f"{failure.get('error')}: {message}"
    )


def _progress(value: object) -> Progress | None:
    """Return how far the holder was; None where the lease doesn't say it, or was edited."""
    try:
        return Progress.from_json(value)
    except ValueError:
        return None


def take(
    directory: CacheDirectory,
    claim: Claim,
    timeout: float,
    waiting: Callable[[str], bool],
    progress: Callable[[], Progress | None] = lambda: None,
) -> "Lease | None":
    """Take the lease, however long its holder works.

    ``waiting(holder)`` is asked every few seconds whether to go on waiting; None is returned when
    it says no. ``progress()`` gives how far the work is, for those who look at the lease meanwhile.
    Raises the failure that another rank of this same run has left there meanwhile or within the
    last quarter of ``timeout``: one try is enough for all of them, but a job that is started again
    tries again.
    """
    seen: tuple[int, bytes] | None = None
    since = time.monotonic()
    while True:
        generation, content = _newest(directory)
        if (generation, content) != seen:
            fresh = seen is not None and seen[0] == generation
            seen, since = (generation, content), time.monotonic()
            holder = _parsed(content)
            if _is_failure_of_this_run(holder, claim) and (
                fresh or _age(directory, generation) < timeout / 4
            ):
                raise from_value(holder["failure"])
        if generation == 0 or _may_take(holder, claim) or time.monotonic() - since >= timeout:
            lease = Lease(directory, claim, generation + 1, timeout, progress)
            if lease.taken():
                return lease
            continue
        if not waiting(
            f"{holder.get('host')} (rank {holder.get('rank')}, run {holder.get('run')})"
        ):
            return None
        time.sleep(min(2.0, timeout / 8))


def _newest(directory: CacheDirectory) -> tuple[int, bytes]:
    prefix = f"{directory.split}.lease."
    numbers = [
        int(n.removeprefix(prefix))
        for n in directory.refresh()
        if n.startswith(prefix) and n.removeprefix(prefix).isdigit()
    ]
    generation = max(numbers, default=0)
    return generation, (directory.read(f"{prefix}{generation}") if generation else None) or b""


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:  # read in the middle of a beat: somebody holds it
        value = {}
    return value if isinstance(value, dict) else {}


def _may_take(holder: dict[str, Any], claim: Claim) -> bool:
    ended = holder.get("state", "held") != "held"
    own_past = claim.run is not None and (holder.get("run"), holder.get("rank")) == (
        claim.run,
        claim.rank,
    )
    return ended or own_past


def _is_failure_of_this_run(holder: dict[str, Any], claim: Claim) -> bool:
    same_run = claim.run is not None and holder.get("run") == claim.run
    failure = holder.get("failure")
    # Else a hand has been at it
    told = isinstance(failure, dict) and {"error", "message"} <= failure.keys()
    return (
        told and same_run and holder.get("rank") != claim.rank and holder.get("state") == "failed"
    )


def _age(directory: CacheDirectory, generation: int) -> float:
    with contextlib.suppress(OSError, Step37Error):  # it has just been replaced
        return directory.age(f"{directory.split}.lease.{generation}")
    return float("inf")


def _briefly(error: BaseException) -> dict[str, str]:
    value = as_value(error)
    return {"error": value["error"], "message": value["message"][:_LONGEST]}


class Lease:
    """A held lease, beating in a thread of its own; a context manager whose exception, if any, stays in it."""

    def __init__(
        self,
        directory: CacheDirectory,
        claim: Claim,
        generation: int,
        timeout: float,
        progress: Callable[[], Progress | None] = lambda: None,
    ) -> None:
        """Describe the lease; `taken` takes it."""
        self._directory = directory
        self._generation = generation
        self._timeout = timeout
        self._progress = progress
        who = asdict(claim) | {"timeout": timeout}
        self._content: dict[str, Any] = {
            "nonce": secrets.token_hex(8),
            "state": "held",
            "beat": 0,
            **who,
        }
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._good = time.monotonic()
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="step37-lease", daemon=True)

    def taken(self) -> bool:
        """Try to take this generation; False if somebody was quicker."""
        name = f"{self._directory.split}.lease.{self._generation}"
        if not self._directory.create(name, self._written()):
            return False
        for old in self._directory.refresh():
            number = old.removeprefix(f"{self._directory.split}.lease.")
            if number.isdigit() and int(number) < self._generation:
                self._directory.discard(self._directory.home / old)
        self._good = time.monotonic()
        return True

    def __enter__(self) -> "Lease":  # noqa: PYI034 - Self is not in Python 3.10
        """Begin to beat."""
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """Stop beating and leave how it ended, for whoever waits."""
        self._ended.set()
        self._thread.join(self._timeout / 8)
        end = (
            {"state": "released"}
            if error is None
            else {"state": "failed", "failure": _briefly(error)}
        )
        # An end that can't be written is a silence that others will notice
        with contextlib.suppress(OSError, Step37Error):
            self._beat(end)

    def check(self) -> None:
        """Raise `LeaseLost` if another holds it now; to be called before each rename.

        Costs nothing while beats succeed; after a freeze, or when they don't, it looks.
        """
        if not self._lost and time.monotonic() - self._good > self._timeout / 2:
            self._beat({})
        if self._lost:
            raise LeaseLost(
                f"another downloader has taken over {self._directory.files}, since this one was silent for too long"
            )

    def _keep(self) -> None:
        pause = _FIRST_BEAT  # often at first: who looks at a run has often just started it
        while not self._lost and not self._ended.wait(pause := min(pause, self._timeout / 8)):
            pause *= 2
            try:
                self._beat({})
            except (OSError, Step37Error) as error:
                log.warning("the lease's beat failed, trying again: %s", error)

    def _beat(self, change: dict[str, Any]) -> None:
        with self._lock:
            generation, _ = _newest(self._directory)
            if generation != self._generation:
                self._lost = True
                return
            progress = self._progress()
            self._content |= {"progress": progress.as_json() if progress else {}} | change
            self._content["beat"] += 1
            self._directory.rewrite(
                f"{self._directory.split}.lease.{self._generation}", self._written()
            )
            self._good = time.monotonic()

    def _written(self) -> bytes:
        return json.dumps(self._content).encode().ljust(_ROOM)
