"""A FUSE pass-through that sees its backing directory late, as NFS clients do, and fails where it is told to.

Mounted twice over one backing directory it is two nodes: each mount has its own caches of names,
attributes and pages.

With ``--nfs`` names that were missed are cached as by the Linux NFS client: a name once missed
stays missing for as long as the node believes its directory unchanged, by attributes of that
directory which are ``--negative`` seconds old (up to twice that once they were asked for again).
Opening the directory for listing, or a change below it by this node, asks anew. Without it the
kernel's plain time-outs hold, as on sshfs: listing the directory shows a file while stat still
doesn't.

``--control FILE`` is JSON, read again when it changes; no file, no faults:

- ``flock``: ``real`` (through the backing file), ``noop`` (granted to everybody), or the name of an
error such as ``ENOLCK`` - ``full``: ``{"after": BYTES, "errno": "ENOSPC", "told": false}``: files
can grow by so many bytes, then a short write, then the
  error; ``told`` says whether statfs tells, which it doesn't for quotas on most file systems
- ``fail``: ``[{"op": regex, "path": regex, "errno": name, "after": N, "count": M}]``: M operations
after the first N - ``delay``: ``[{"op": regex, "path": regex, "s": SECONDS}]`` - ``exdev``: true: a
rename or link from one directory to another answers EXDEV - ``stale_on_replace``: true: a handle
whose file was replaced or deleted answers ESTALE

Each fault of ``fail`` is printed as it happens: error, operation, path.
"""

import argparse
import errno
import fcntl
import json
import os
import re
import threading
import time
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # read at import

import mfusepy

_UTIME_NOW, _UTIME_OMIT = 0x3FFFFFFF, 0x3FFFFFFE
_STATUS = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks", "st_ino")
_SPACE = (
    "f_bavail",
    "f_bfree",
    "f_blocks",
    "f_bsize",
    "f_favail",
    "f_ffree",
    "f_files",
    "f_flag",
    "f_frsize",
    "f_namemax",
)


def _error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


class Faults:
    """What the control file says, and how much of it has happened since it was written."""

    def __init__(self, control: Path | None) -> None:
        self._control = control
        self._stamp: int | None = None
        self._lock = threading.Lock()
        self._said: dict[str, Any] = {}
        self._times: dict[int, int] = {}
        self._written = 0

    def said(self, key: str) -> Any:
        """Give what is said under a key now."""
        with self._lock:
            stamp = (
                self._control.stat().st_mtime_ns
                if self._control is not None and self._control.exists()
                else None
            )
            if stamp != self._stamp and self._control is not None:
                self._said = (
                    json.loads(self._control.read_text(encoding="utf-8"))
                    if stamp is not None
                    else {}
                )
                self._stamp, self._written, self._times = stamp, 0, {}
            return self._said.get(key)

    def gate(self, op: str, path: str) -> None:
        """Be slow, or raise, where that is said of this operation on this path."""
        for rule in self.said("delay") or ():
            if _means(rule, op, path):
                time.sleep(rule["s"])
        for number, rule in enumerate(self.said("fail") or ()):
            if _means(rule, op, path):
                with self._lock:
                    self._times[number] = times = self._times.get(number, 0) + 1
                first = rule.get("after", 0)
                if first < times <= first + rule.get("count", 1 << 60):
                    print(rule["errno"], op, path, flush=True)
                    raise _error(rule["errno"])

    def room_for(self, content: bytes, free: int) -> bytes:
        """Give what of the content can be written, whose first ``free`` bytes need no room; raises when that is nothing."""
        full = self.said("full")
        if full is None:
            return content
        with self._lock:
            content = content[: max(0, free) + max(0, full["after"] - self._written)]
            if not content:
                raise _error(full.get("errno", "ENOSPC"))
            self._written += max(0, len(content) - max(0, free))
            return content

    def told_left(self) -> int | None:
        """Give the bytes that statfs tells of; None: those of the backing directory."""
        full = self.said("full")
        return (
            max(0, full["after"] - self._written) if full is not None and full.get("told") else None
        )


def _means(rule: dict[str, Any], op: str, path: str) -> bool:
    return bool(re.fullmatch(rule["op"], op) and re.search(rule.get("path", ""), path))


@dataclass
class _Directory:
    """A directory as this node believes it to be: until when, by which mtime, and which names it doesn't have."""

    until: float
    mtime_ns: int
    lifetime: float
    missed: set[str] = field(default_factory=set)


class Latent:
    """The names that this node has missed and goes on missing."""

    def __init__(self, root: str, lifetime: float) -> None:
        self._root = root
        self._lifetime = lifetime
        self._directories: dict[str, _Directory] = {}

    def misses(self, path: str) -> bool:
        """Tell whether the name is held to be missing without looking."""
        directory, name = os.path.split(path)
        self.ask(directory, only_if_due=True)
        return directory in self._directories and name in self._directories[directory].missed

    def missed(self, path: str) -> None:
        """Keep that the name was looked for in vain."""
        directory, name = os.path.split(path)
        if directory in self._directories:
            self._directories[directory].missed.add(name)

    def ask(self, directory: str, *, only_if_due: bool = False) -> None:
        """Look at the directory's own attributes again, and forget what was missed if they have changed."""
        now = time.monotonic()
        known = self._directories.get(directory)
        if only_if_due and known is not None and now < known.until:
            return
        try:
            mtime_ns = Path(self._root + directory).stat().st_mtime_ns
        except OSError:
            self._directories.pop(directory, None)
            return
        if known is None or known.mtime_ns != mtime_ns:
            self._directories[directory] = _Directory(
                now + self._lifetime, mtime_ns, self._lifetime
            )
        else:
            known.lifetime = (
                min(2 * known.lifetime, 2 * self._lifetime) if only_if_due else known.lifetime
            )
            known.until = now + known.lifetime

    def forget(self, *directories: str) -> None:
        """Ask anew at the next look: this node itself has changed something there."""
        for directory in directories:
            self._directories.pop(directory, None)


class LatentFS(mfusepy.Operations):
    """The file system of one mount; ``latent`` is None without ``--nfs``."""

    use_ns = True

    def __init__(self, backing: Path, faults: Faults, latent: float | None) -> None:
        self._root = str(backing.resolve())
        self._faults = faults
        self._latent = Latent(self._root, latent) if latent is not None else None

    def _own_change(self, *paths: str) -> None:
        if self._latent is not None:
            self._latent.forget(*map(os.path.dirname, paths))

    def _check(self, op: str, path: str, handle: int) -> None:
        self._faults.gate(op, path)
        if self._faults.said("stale_on_replace"):
            held = os.fstat(handle)
            try:
                now = Path(self._root + path).stat()
            except OSError:
                raise _error("ESTALE") from None
            if (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino):
                raise _error("ESTALE")

    def _give_to_caller(self, path: str) -> None:
        user, group, _ = mfusepy.fuse_get_context()
        os.lchown(self._root + path, user, group)

    # --- names and attributes ---

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Give the attributes; a name that this node has missed is missed again."""
        if fh is not None:
            self._check("getattr", path, fh)
            return _attributes(os.fstat(fh))
        self._faults.gate("getattr", path)
        if self._latent is not None and path != "/" and self._latent.misses(path):
            raise _error("ENOENT")
        try:
            return _attributes(os.lstat(self._root + path))
        except FileNotFoundError:
            if self._latent is not None:
                self._latent.missed(path)
            raise

    def access(self, path: str, amode: int) -> int:
        """Tell whether the daemon may; the kernel checks the caller."""
        if not os.access(self._root + path, amode):
            raise _error("EACCES")
        return 0

    def opendir(self, path: str) -> int:
        """Begin a listing: an NFS client asks the server whether the directory has changed."""
        self._faults.gate("opendir", path)
        if self._latent is not None:
            self._latent.ask(path)
        return 0

    def readdir(self, path: str, _: int) -> list[Any]:
        """List the backing directory as it is; entries without an inode would be dropped by glibc."""
        self._faults.gate("readdir", path)
        listed: list[Any] = [(name, {"st_ino": 1, "st_mode": 0o40755}, 0) for name in (".", "..")]
        with os.scandir(self._root + path) as entries:
            for entry in entries:
                mode = (
                    0o40000
                    if entry.is_dir(follow_symlinks=False)
                    else 0o120000
                    if entry.is_symlink()
                    else 0o100000
                )
                listed.append((entry.name, {"st_ino": entry.inode(), "st_mode": mode}, 0))
        return listed

    def statfs(self, path: str) -> dict[str, int]:
        """Give the space of the backing directory, or what the control file leaves."""
        self._faults.gate("statfs", path)
        backing = os.statvfs(self._root)
        space = {name: getattr(backing, name) for name in _SPACE}
        left = self._faults.told_left()
        return (
            space
            if left is None
            else space | dict.fromkeys(("f_bavail", "f_bfree"), left // space["f_frsize"])
        )

    # --- files ---

    def open(self, path: str, flags: int) -> int:
        self._faults.gate("open", path)
        return os.open(self._root + path, flags & ~os.O_APPEND)

    def create(self, path: str, mode: int, fi: int = os.O_RDWR) -> int:
        self._own_change(path)
        self._faults.gate("create", path)
        handle = os.open(self._root + path, (fi & ~os.O_APPEND) | os.O_CREAT, mode)
        self._give_to_caller(path)
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._check("read", path, fh)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._check("write", path, fh)
        return os.pwrite(fh, self._faults.room_for(data, os.fstat(fh).st_size - offset), offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._faults.gate("truncate", path)
        os.truncate(self._root + path if fh is None else fh, length)

    def flush(self, path: str, _: int) -> int:
        """Be closed: on NFS the place where a full disk shows."""
        self._faults.gate("flush", path)
        return 0

    def fsync(self, path: str, _: int, fh: int) -> int:
        self._check("fsync", path, fh)
        os.fsync(fh)
        return 0

    def release(self, _: str, fh: int) -> int:
        os.close(fh)
        return 0

    def flock(self, _: str, fh: int, op: int) -> int:
        how = self._faults.said("flock") or "real"
        if how == "real":
            fcntl.flock(fh, op)
        elif how != "noop":
            raise _error(how)
        return 0

    # --- changes of the tree ---

    def unlink(self, path: str) -> None:
        self._own_change(path)
        self._faults.gate("unlink", path)
        Path(self._root + path).unlink()

    def rename(self, old: str, new: str, _: int = 0) -> None:
        self._own_change(old, new)
        self._faults.gate("rename", new)
        self._same_directory(old, new)
        Path(self._root + old).replace(self._root + new)

    def link(self, target: str, source: str) -> None:
        self._own_change(target)
        self._faults.gate("link", target)
        self._same_directory(source, target)
        os.link(self._root + source, self._root + target)

    def _same_directory(self, one: str, other: str) -> None:
        if self._faults.said("exdev") and Path(one).parent != Path(other).parent:
            raise _error("EXDEV")

    def symlink(self, target: str, source: str) -> None:
        self._own_change(target)
        Path(self._root + target).symlink_to(source)
        self._give_to_caller(target)

    def readlink(self, path: str) -> str:
        return str(Path(self._root + path).readlink())

    def mkdir(self, path: str, mode: int) -> None:
        self._own_change(path)
        self._faults.gate("mkdir", path)
        Path(self._root + path).mkdir(mode)
        self._give_to_caller(path)

    def rmdir(self, path: str) -> None:
        self._own_change(path)
        self._faults.gate("rmdir", path)
        Path(self._root + path).rmdir()

    def chmod(self, path: str, mode: int) -> None:
        self._faults.gate("chmod", path)
        Path(self._root + path).chmod(mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._root + path, uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        self._faults.gate("utimens", path)
        was, now = os.lstat(self._root + path), time.time_ns()
        told = [
            now if given == _UTIME_NOW else kept if given == _UTIME_OMIT else int(given)
            for given, kept in zip(
                times or (_UTIME_NOW, _UTIME_NOW), (was.st_atime_ns, was.st_mtime_ns), strict=True
            )
        ]
        os.utime(self._root + path, ns=(told[0], told[1]), follow_symlinks=False)


class FoldingFS(LatentFS):
    """Takes names for one that differ in case or Unicode form alone, as APFS does."""

    def known(self, path: str) -> str:
        """Give the path with the names that the backing directory has."""
        real = ""
        for name in path.strip("/").split("/"):
            try:
                names = os.listdir(self._root + real)
            except OSError:
                names = []
            same = [each for each in names if _folded(each) == _folded(name)]
            real += f"/{same[0] if same and name not in names else name}"
        return real


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _with_known_names(method: Any) -> Any:
    def mapped(self: FoldingFS, *arguments: Any) -> Any:
        return method(
            self,
            *(
                self.known(each) if isinstance(each, str) and each.startswith("/") else each
                for each in arguments
            ),
        )

    return mapped


for _name, _method in list(vars(LatentFS).items()):
    if callable(_method) and not _name.startswith("_"):
        setattr(FoldingFS, _name, _with_known_names(_method))


def _attributes(status: os.stat_result) -> dict[str, Any]:
    times = {f"st_{kind}time": getattr(status, f"st_{kind}time_ns") for kind in "amc"}
    return {name: getattr(status, name) for name in _STATUS} | times


def main() -> None:
    """Mount, and stay until it is unmounted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("backing", type=Path)
    parser.add_argument("mount", type=Path)
    parser.add_argument(
        "--nfs", action="store_true", help="miss names as the Linux NFS client does"
    )
    parser.add_argument(
        "--negative",
        type=float,
        default=30.0,
        help="seconds for which a missed name is missing (default: 30)",
    )
    parser.add_argument(
        "--entry",
        type=float,
        default=0.0,
        help="seconds for which a found name is believed (default: 0)",
    )
    parser.add_argument(
        "--attr",
        type=float,
        default=3.0,
        help="seconds for which attributes are believed (default: 3)",
    )
    parser.add_argument("--control", type=Path, help="JSON file with the faults")
    parser.add_argument(
        "--fold", action="store_true", help="take A for a, and one form for another"
    )
    asked = parser.parse_args()
    # Libfuse changes the directory to /
    control = asked.control.absolute() if asked.control else None
    kind = FoldingFS if asked.fold else LatentFS
    system = kind(asked.backing, Faults(control), asked.negative if asked.nfs else None)
    os.umask(0)  # the kernel has applied the caller's
    mfusepy.FUSE(
        *(system, str(asked.mount)),
        foreground=True,
        allow_other=True,
        default_permissions=True,
        use_ino=True,
        negative_timeout=0 if asked.nfs else asked.negative,
        entry_timeout=asked.entry,
        attr_timeout=asked.attr,
        ac_attr_timeout=0,
        auto_cache=True,
        fsname="latentfs",
    )


if __name__ == "__main__":
    main()
