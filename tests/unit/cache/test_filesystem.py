"""File systems that no other node sees."""

from pathlib import Path

from step37_flickr8k.cache.filesystem import local_file_system


def test_a_tmpfs_is_visible_on_this_node_alone() -> None:
    """It is named, also for a directory that isn't there yet; any other may be shared."""
    assert local_file_system(Path("/dev/shm/not/there/yet")) == "tmpfs"
    assert local_file_system(Path("/proc")) is None
