"""What this node is like: the file system below a folder, the proxy before the Hub, the memory; asked for advice alone."""

import contextlib
import ctypes
import os
import resource
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

__all__ = ["local_file_system", "memory_limit", "proxy_before"]

# f_type of those that no other node can see; FUSE is not among them, since sshfs, CephFS, GlusterFS and others come by it
_LOCAL = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
}


def local_file_system(folder: Path) -> str | None:
    """Name the file system of a folder, or of what is to hold it, if only this node can see it; else None."""
    if sys.platform != "linux":
        return None
    statfs = ctypes.CDLL(None).statfs
    buffer = ctypes.create_string_buffer(1024)  # a struct statfs, whose first member is f_type
    if not any(statfs(os.fsencode(place), buffer) == 0 for place in (folder, *folder.parents)):
        return None
    return _LOCAL.get(ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF)


def memory_limit() -> tuple[int, str]:
    """Give the bytes of memory that this process and its children may use at most, and what says so."""
    limits = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this node has")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "ulimit -v allows"))
    limits += [(limit, "its control group allows") for limit in _control_group_limits()]
    return min(limits)


def _control_group_limits() -> Iterator[int]:
    """Give the memory limits of this process's control group and of those above it, of both versions."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            mount = Path("/sys/fs/cgroup") / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            own = mount / group.lstrip("/")
            # in a container the name may be that outside of it, and the mount the group itself
            for place in (own, *(above for above in own.parents if above.is_relative_to(mount))):
                with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                    yield int((place / name).read_text(encoding="ascii"))


def proxy_before(address: str) -> str | None:
    """Give the proxy through which the environment sends requests for this address, without its password; None without one."""
    url = urllib.parse.urlsplit(address)
    if urllib.request.proxy_bypass(url.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme, proxies.get("all"))
    return proxy and proxy.rpartition("//")[2].rpartition("@")[2]
