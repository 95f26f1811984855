"""Which files to fetch, decided from the rows, the listing and what is verified: pure, no I/O."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from step37_flickr8k.dataset.listing import Chosen, Listing, RemoteFile
from step37_flickr8k.dataset.names import is_image, similar
from step37_flickr8k.dataset.selection import Row
from step37_flickr8k.errors import ImageNotFound

__all__ = ["Decision", "decide"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The files to fetch, with their ``bytes`` in all.

    ``rows`` and ``files`` count the whole selection, whether its files have to be fetched or not.
    ``unnamed`` counts the images of the commit that none of the rows names.
    """

    rows: int
    files: int
    unnamed: int
    fetch: Sequence[RemoteFile]
    bytes: int


def decide(rows: Iterable[Row], listing: Listing, verified: Mapping[str, str]) -> Decision:
    """Return which files to fetch: those that the rows name, without those already verified.

    ``verified`` maps the names of verified files in the directory to their digests. Takes a few
    bytes per file, so that a million of them fit in memory. Raises `ImageNotFound` for a row whose
    image the commit doesn't hold.
    """
    count = size = 0
    wanted = bytearray(len(listing))
    fetch = array("Q")
    for row in rows:
        count += 1
        number = listing.position(row.file_name)
        if number is None:
            raise _not_found(row.file_name, count, listing)
        if wanted[number]:
            continue
        wanted[number] = 1
        file = listing.at(number)
        if verified.get(file.name) != file.digest:
            fetch.append(number)
            size += file.size
    return Decision(
        rows=count,
        files=sum(wanted),
        unnamed=sum(
            is_image(name) for name, named in zip(listing, wanted, strict=True) if not named
        ),
        fetch=Chosen(listing, fetch),
        bytes=size,
    )


def _not_found(name: str, row: int, listing: Listing) -> ImageNotFound:
    """Return the error for an image that isn't there, with the one that may be meant."""
    meant = similar(name, listing)
    if meant is None:
        return ImageNotFound(
            f"row {row} names {name}, which the commit doesn't hold:"
            " report it to the dataset's owner"
        )
    shown = (repr(name), repr(meant))
    # On a screen they may be the same
    if len(meant) != len(name) or not (name + meant).isascii():
        shown = (ascii(name), ascii(meant))
    return ImageNotFound(
        f"row {row} names {shown[0]}, which the commit doesn't hold; it holds {shown[1]}:"
        " report it to the dataset's owner"
    )
