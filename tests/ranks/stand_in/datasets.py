"""What the how-to uses of Hugging Face's `datasets`, where that isn't installed.

The same calls, with a table as JSON. The real one needs pandas, dill, multiprocess and xxhash,
60 MB that nothing else here uses.
"""

import csv
import json
from pathlib import Path

from huggingface_hub import hf_hub_download


class Dataset(list[dict[str, str]]):
    """Rows."""

    def save_to_disk(self, path: str) -> None:
        """Write the rows to a directory."""
        Path(path).mkdir(parents=True)
        Path(path, "rows.json").write_text(json.dumps(self))


def load_dataset(repo_id: str, *, split: str) -> Dataset:
    """Download the split's metadata table."""
    path = hf_hub_download(repo_id, f"{split}/metadata.csv", repo_type="dataset")
    with Path(path).open(encoding="utf-8", newline="") as table:
        return Dataset(csv.DictReader(table))


def load_from_disk(path: str) -> Dataset:
    """Read what `Dataset.save_to_disk` wrote."""
    return Dataset(json.loads(Path(path, "rows.json").read_text()))
