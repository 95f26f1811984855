"""What the API's listings hold: files with sizes and digests; pure functions over parsed JSON."""

from collections.abc import Iterable

from step37_flickr8k.dataset.listing import RemoteFile

__all__ = ["directories_of", "files_of", "parquet_of"]


def files_of(page: object) -> Iterable[RemoteFile]:
    """Yield the files of a page of a listing; raises ValueError for what is no listing."""
    if not isinstance(page, list):
        raise ValueError("a page is no list")  # noqa: TRY004 - what a malformed listing raises
    for entry in page:
        match entry:
            case {"type": "file", "path": str(path), "size": int(size), "lfs": {"oid": str(oid)}}:
                yield RemoteFile(path, size, f"sha256:{oid}")
            case {"type": "file", "path": str(path), "size": int(size), "oid": str(oid)}:
                yield RemoteFile(path, size, f"git-sha1:{oid}")
            case {"type": str(kind)} if kind != "file":
                continue
            case _:
                raise ValueError(f"an entry is {str(entry)[:200]}")


def directories_of(page: object) -> list[str]:
    """Return the directories of a page of a listing; none of what is no listing."""
    entries = page if isinstance(page, list) else []
    return [
        str(entry["path"])
        for entry in entries
        if isinstance(entry, dict) and entry.get("type") == "directory" and "path" in entry
    ]


def parquet_of(split: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return the split's Parquet files of one configuration: the default one if there is one."""
    directories = ([split], [f"partial-{split}"])
    of_split = [
        file
        for file in files
        if file.name.endswith(".parquet") and file.name.split("/")[1:-1] in directories
    ]
    configurations = {file.name.split("/")[0] for file in of_split}
    chosen = "default" if "default" in configurations else min(configurations, default="")
    return [file for file in of_split if file.name.startswith(f"{chosen}/")]
