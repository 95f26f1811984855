"""Which files to fetch, decided from rows, listing and what is verified already: pure, no I/O."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from step37_flickr8k.dataset.listing import Chosen, Listing, RemoteFile
from step37_flickr8k.dataset.selection import Row
from step37_flickr8k.errors import ImageNotFound

__all__ = ["Plan", "decide"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files to fetch, how many of the selection's rows and files there are, and how many bytes are to come."""

    rows: int
    files: int
    fetch: Sequence[RemoteFile]
    bytes: int


def decide(rows: Iterable[Row], listing: Listing, verified: Mapping[str, str]) -> Plan:
    """Plan = wanted - already verified; ``verified`` maps names to digests of what the folder holds, proven right.

    Raises `ImageNotFound` for a row whose image the commit doesn't hold.
    """
    count = size = 0
    wanted = bytearray(len(listing))
    fetch = array("Q")
    for row in rows:
        count += 1
        number = listing.position(row.file_name)
        if number is None:
            raise ImageNotFound(f"row {count} names {row.file_name}, which the commit doesn't hold: tell the dataset's owner")
        if wanted[number]:
            continue
        wanted[number] = 1
        file = listing.at(number)
        if verified.get(file.name) != file.digest:
            fetch.append(number)
            size += file.size
    return Plan(rows=count, files=sum(wanted), fetch=Chosen(listing, fetch), bytes=size)
