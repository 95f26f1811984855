"""The Parquet conversion that the Hub makes of a dataset."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def convert(
    directory: Path,
    target: Path,
    *,
    rows: int = 20,
    files: int = 2,
    other: Callable[[int], bytes] | None = None,
) -> Path:
    """Convert a dataset as the Hub does, with ``rows`` images in each row group.

    ``other`` draws other images instead, by their number in the row group.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption_0", pa.string())])
    directory_of_split = target / "default" / "train"
    directory_of_split.mkdir(parents=True)
    paths = sorted((directory / "train").glob("*.jpg"))
    share = -(-len(paths) // files)
    for number in range(files):
        with pq.ParquetWriter(
            directory_of_split / f"{number:04}.parquet",
            schema,
            compression="none",
            use_dictionary=False,
        ) as writer:
            some = paths[number * share : (number + 1) * share]
            for start in range(0, len(some), rows):
                group = some[start : start + rows]
                images = [
                    {"bytes": other(i) if other else p.read_bytes(), "path": p.name}
                    for i, p in enumerate(group)
                ]
                captions = ["a caption " * 5] * len(group)
                writer.write_table(
                    pa.table({"image": images, "caption_0": captions}, schema=schema)
                )
    return target
