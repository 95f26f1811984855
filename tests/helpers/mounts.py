"""File systems that a test mounts, whoever runs it: no root and no `mount` program needed where a user namespace may be made.

A helper process, this file as a script, makes a mount namespace of its own and mounts there; the
test reaches it through ``/proc/<pid>/root``. Nothing is left when the helper ends, which it does
with the test's process, however that ends.
"""

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

__all__ = [
    "CannotMount",
    "Tmpfs",
    "bind",
    "enter_namespace",
    "enter_read_only_root",
    "has_sys_admin",
    "mount_tmpfs",
]

# <sys/mount.h> and <linux/sched.h>
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = (
    1,
    32,
    4096,
    16384,
    1 << 18,
    2,
)
# Of <sys/statvfs.h>: nosuid, nodev, noexec, noatime and nodiratime are the same bits
_MS_SAME_AS_ST, _ST_RELATIME, _MS_RELATIME = 2 | 4 | 8 | 1024 | 2048, 4096, 1 << 21
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_CAP_SYS_ADMIN = 21


def has_sys_admin() -> bool:
    """Whether this process is root as on a machine of its own: with CAP_SYS_ADMIN, in no user namespace."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        mapped = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except OSError:
        return False
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return bool(effective >> _CAP_SYS_ADMIN & 1) and mapped == ["0", "0", "4294967295"]


class CannotMount(Exception):
    """Neither this process nor a user namespace of its own may mount here."""


class Tmpfs:
    """An empty tmpfs that the test sees under ``path``, with mount(8)'s options for the size."""

    def __init__(self, place: Path, options: str = "") -> None:
        place.mkdir()
        command = [sys.executable, "-I", "-S", __file__, str(place), options]
        self._helper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.path = Path(f"/proc/{self._helper.pid}/root{place}")
        try:
            self._hear()
        except CannotMount:
            self.close()
            raise

    def make_read_only(self) -> None:
        """Refuse every write from now on."""
        assert self._helper.stdin is not None
        print("read-only", file=self._helper.stdin, flush=True)
        self._hear()

    def close(self) -> None:
        """Unmount it."""
        self._helper.communicate(timeout=240)

    def _hear(self) -> None:
        assert self._helper.stdout is not None
        answer = self._helper.stdout.readline().strip()
        if answer != "done":
            raise CannotMount(answer or "the helper process has ended")


def enter_namespace() -> None:
    """Give this process, which has no other thread, a mount namespace of its own, and the right to mount in it."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNS)
    except PermissionError:
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    # in a chroot "/" need be no mount point
    with suppress(OSError):
        _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def mount_tmpfs(place: str, options: str = "", flags: int = 0) -> None:
    """Mount a tmpfs in this process's own namespace."""
    _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode())


def bind(source: str, place: str) -> None:
    """Show a directory in another place of this process's own namespace, too."""
    _call("mount", os.fsencode(source), os.fsencode(place), None, _MS_BIND, None)


def enter_read_only_root(place: Path) -> None:
    """Give this process a root without any directory that it can write to, through ``place``."""
    enter_namespace()
    _call("mount", b"/", os.fsencode(place), None, _MS_BIND | _MS_REC, None)
    os.chroot(place)
    os.chdir("/")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        mount = line.split()[1].encode().decode("unicode_escape")
        with suppress(OSError):
            status = os.statvfs(mount)
            # What another user has set may not be taken away
            kept = status.f_flag & _MS_SAME_AS_ST
            kept |= _MS_RELATIME if status.f_flag & _ST_RELATIME else 0
            flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept
            _call("mount", None, os.fsencode(mount), None, flags, None)


def _call(name: str, *arguments: bytes | int | None) -> None:
    """Call a function of libc, with its error as an OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _hold(place: str, options: str) -> None:
    """Hold a tmpfs until standard input ends; a line there makes it read-only."""
    enter_namespace()
    mount_tmpfs(place, options)
    print("done", flush=True)
    for _ in sys.stdin:
        mount_tmpfs(place, options, _MS_REMOUNT | _MS_RDONLY)
        print("done", flush=True)
    _call("umount2", os.fsencode(place), _MNT_DETACH)


if __name__ == "__main__":
    try:
        _hold(*sys.argv[1:])
    except OSError as error:
        print(error.strerror)
