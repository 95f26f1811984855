"""The loader: image-caption samples of Flickr8k from a cache that all ranks share.

On a training cluster rank 0 downloads and the other ranks wait for it, through the store of the
process group that the caller has initialized; then every rank builds the same list from disk.
"""

import functools
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.cluster.stores import barrier, current_group, is_rank_zero
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.report.progress import how_far
from step37_flickr8k.settings import call_settings, ignored_by, library_settings
from step37_flickr8k.settings.meant import path_argument
from step37_flickr8k.visible import VISIBLE

if TYPE_CHECKING:
    from step37_flickr8k.job import Run

__all__ = [
    "Flickr8kSample",
    "MultimodalSFTSample",
    "Step37Flickr8kDataset",
    "Template",
    "get_flickr8k_dataset_file",
    "prepare_flickr8k_samples",
]

log = logging.getLogger("step37_flickr8k")
# The log goes to the program's handlers
log.addFilter(VISIBLE)

_REMINDER = 30.0  # s between two warnings about the same wait


class _DefaultCount(int):
    """A sample_count that the caller didn't choose: the number, and no other."""


_DEFAULT_COUNT = _DefaultCount(8)


@dataclass(frozen=True)
class Flickr8kSample:
    """An image with its caption; ``image_path`` is the absolute path of a file in the cache."""

    image_path: str
    caption: str


class MultimodalSFTSample(TypedDict):
    """What a template returns: one tokenized sample of T tokens.

    Attributes:
        tokens: ``torch.Tensor``, int64, [T]: the token ids of the whole dialog.
        loss_mask: ``torch.Tensor``, float32, [T]: 1.0 where a token counts in the loss, 0.0
            elsewhere.
        image_paths: a ``(path, type)`` pair for each image, in the order in which ``tokens`` refer
            to them. ``path`` is a file that can be opened. ``type`` is an int, as Step3.7's
            preprocessing takes it: 0 for a whole image, 1 for a patch.
    """

    tokens: Any
    loss_mask: Any
    image_paths: list[tuple[str, int]]


class Template(Protocol):
    """Turns a dialog into a tokenized sample."""

    def __call__(self, dialog: dict[str, Any], /) -> MultimodalSFTSample:
        """Tokenize a dialog.

        It is ``{"images": [path], "conversations": [{"role": ..., "content": ...}, ...]}``.
        """


class Step37Flickr8kDataset:
    """Map-style dataset for ``torch.utils.data.DataLoader``, by duck typing.

    Item ``i`` is ``template(dialog)`` of sample ``i``. The arguments are the attributes
    ``samples``, ``template`` and ``prompt``.
    """

    def __init__(self, samples: Sequence[Flickr8kSample], template: Template, prompt: str) -> None:
        """Wrap samples.

        Args:
            samples: what `prepare_flickr8k_samples` returns.
            template: tokenizes a dialog; it is called on each access, in the process that asks.
            prompt: what the user says about the image.

        Raises:
            ValueError: there are no samples.
        """
        if not samples:
            raise ValueError(
                "samples is empty: a dataset needs at least one, see prepare_flickr8k_samples"
            )
        self.samples = samples
        self.template = template
        self.prompt = prompt

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> MultimodalSFTSample:
        """Return one sample, tokenized; what the template raises goes through."""
        return self.template(self._to_dialog(self.samples[index], self.prompt))

    @staticmethod
    def _to_dialog(sample: Flickr8kSample, prompt: str) -> dict[str, Any]:
        """Return the dialog of a sample: image and prompt by the user, caption by the assistant."""
        return {
            "images": [sample.image_path],
            "conversations": [
                {"role": "user", "content": f"<image>\n{prompt}"},
                {"role": "assistant", "content": sample.caption},
            ],
        }


def get_flickr8k_dataset_file(*, repo_id: str, filename: str, cache_dir: Path) -> Path:
    """Download one file, or reuse it, with ``hf_hub_download`` to ``cache_dir/<filename>``.

    Each call starts a process of about 0.2 s, in which huggingface_hub asks nobody but the endpoint
    and its redirects. It writes into a private directory, from which the verified file is renamed:
    several calls at once on one directory each download the file, and don't disturb each other.

    Args:
        repo_id: dataset repository on the Hub.
        filename: path of the file in the repository.
        cache_dir: directory to download into.

    Raises:
        ConfigurationError: what is asked for doesn't exist or may not be read.
        TransientError: the Hub doesn't answer, or there is no space.
    """
    # Imported late, so that importing the package doesn't import huggingface_hub.
    from step37_flickr8k.download.single_file import download_file  # noqa: PLC0415

    connection = library_settings(os.environ)
    return download_file(
        repo_id,
        filename,
        path_argument("cache_dir", cache_dir),
        options=connection.hub_options(),
        fetch=connection.fetch_options(),
    )


def _is_global_rank_0() -> bool:
    """Return whether this is global rank 0.

    True without an initialized process group, so it never decides who downloads.
    """
    return is_rank_zero()


def _maybe_barrier() -> None:
    """Wait at ``torch.distributed.barrier()`` if a process group is initialized."""
    barrier()


def prepare_flickr8k_samples(
    *,
    repo_id: str = "intro/flickr8k",
    split: str = "train",
    sample_count: int | None = _DEFAULT_COUNT,
    caption_key: str = "caption_0",
    cache_dir: str = ".cache/step37_flickr8k",
    revision: str | None = None,
    bad_images: Literal["skip", "error"] = "skip",
) -> list[Flickr8kSample]:
    """Download the first ``sample_count`` rows of a split to ``cache_dir`` and return them.

    Every rank returns the same list. With an initialized process group, whatever its backend, every
    rank must call this with the same arguments: rank 0 downloads, and its outcome or its error
    reaches all ranks. Without one, the lease of the directory lets one process download at a time.

    A row that is left out isn't replaced by one from beyond ``sample_count``. The Hub's address,
    the token, the timeouts (in seconds), the most pixels of an image and all else come from the
    environment (``HF_ENDPOINT``, ``HF_TOKEN``, ``STEP37_*``) and from the file that
    ``STEP37_SETTINGS`` names.

    Args:
        repo_id: dataset repository on the Hub.
        split: directory of the repository with the images and ``metadata.csv``, ``metadata.jsonl``
            or ``metadata.parquet``. The table may also be at the repository's root.
        sample_count: number of rows that count, in file order; None for all. A row counts when its
            ``file_name`` and its ``caption_key`` cell are non-empty.
        caption_key: column of the captions.
        cache_dir: directory on a file system that all ranks share; a file is
            ``cache_dir/<split>/<file_name>``.
        revision: branch, tag or commit; None takes what the cache holds, and the Hub's ``main``
            when it holds nothing that fits.
        bad_images: "skip" leaves rows out whose image can't be decoded, with a warning; "error"
            raises `BadImages`.

    Raises:
        ConfigurationError: a retry can't help; with its subclass `EmptySelection`, a RuntimeError
            too, no row counts.
        TransientError: the same call may well succeed later.
        RankZeroLost: rank 0 was signalled, killed, silent or never met.
    """
    # Imported late, so that importing the package doesn't import an HTTP client.
    from step37_flickr8k.job import Run, Task, Warmup  # noqa: PLC0415

    selection = Selection(
        repo_id=repo_id,
        split=split,
        caption_key=caption_key,
        sample_count=sample_count,
        revision=revision,
    )
    call = call_settings(selection, cache_dir=cache_dir, bad_images=bad_images)
    task = Task.from_settings(call, connection=library_settings(os.environ), check="names")
    group = current_group()
    world = (
        World.of_process_group(group.rank, group.size, os.environ)
        if group
        else World.from_environment(os.environ, needs_rank=False)
    )
    group = replace(group or Group.alone(), host=world.host)
    run = Run(task, world)
    warmed = Warmup(run).share(group, _Watch(is_rank_zero=group.rank == 0))
    if warmed.result.skipped:
        named = listed(f"{name} ({why})" for name, why in sorted(warmed.result.skipped.items()))
        log.warning("left out, because they can't be decoded: %s", named)
    if group.rank == 0:
        _warn_of_what_was_not_asked_for(run, sample_count, ignored_by(call, os.environ))
    return samples_of(run.directory, warmed.rows)


def samples_of(directory: CacheDirectory, rows: Iterable[Row]) -> list[Flickr8kSample]:
    """Return the samples of rows, whose images are files of the directory."""
    # Names are plain, so pathlib would join them to the same paths, in several times the time
    files = str(directory.files)
    return [Flickr8kSample(f"{files}/{row.file_name}", row.caption) for row in rows]


def _warn_of_what_was_not_asked_for(
    run: "Run", sample_count: int | None, ignored: Iterator[str]
) -> None:
    """Warn, once a process, of a default that hides rows and of settings that a call ignores."""
    if differing := "; ".join(ignored):
        _warn_once(f"a library call takes its selection from its arguments alone: {differing}")
    if isinstance(sample_count, _DefaultCount):
        record = read_record(run.directory)
        coverage = record and record.captions.get(run.selection.caption_key)
        if coverage and coverage.rows > sample_count:
            _warn_once(
                f"{sample_count} of the {coverage.rows:,} rows in {run.directory.files} are"
                " returned, which is sample_count's default: pass sample_count=None for all"
            )


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


class _Watch:
    """Logs progress for debugging; on rank 0 a wait that has no limit is a warning now and then."""

    def __init__(self, *, is_rank_zero: bool) -> None:
        self._is_rank_zero = is_rank_zero
        self._due = 0.0

    def __call__(self, progress: Progress) -> None:
        level, now = logging.DEBUG, time.monotonic()
        if self._is_rank_zero and progress.state.is_waiting and now >= self._due:
            level, self._due = logging.WARNING, now + _REMINDER
        log.log(level, "rank 0: %s", how_far(progress))
