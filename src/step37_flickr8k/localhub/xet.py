"""A Xet store in a directory: hf_xet's own, which its client reads without a network."""

import importlib
from collections.abc import Iterable
from pathlib import Path


def seed(store: Path, sources: Iterable[Path]) -> dict[Path, str]:
    """Put files into the store of a directory, as an upload does; return each one's Xet hash."""
    # An optional part of the Hub's own client, so it is imported only for a Xet store
    hf_xet = importlib.import_module("hf_xet")
    store.mkdir(parents=True, exist_ok=True)
    with hf_xet.XetSession().new_upload_commit(endpoint=f"local://{store}") as commit:
        uploads = {source: commit.start_upload_file(str(source)) for source in sources}
    return {source: upload.result().xet_info.hash for source, upload in uploads.items()}
