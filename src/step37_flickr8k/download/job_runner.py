"""Verifies, writes and decodes files, in a worker process."""

from collections.abc import Iterator, Sequence

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.names import is_table
from step37_flickr8k.download.file_writer import FileWriter
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.errors import Step37Error, TransientError
from step37_flickr8k.images.decoding import examine
from step37_flickr8k.images.examined import Examined
from step37_flickr8k.images.opening import Source, Undecodable
from step37_flickr8k.images.thumbnails import thumbnail
from step37_flickr8k.images.weight import TooHeavy
from step37_flickr8k.limited.budget import image_memory, pixels_for
from step37_flickr8k.limited.limits import Allowance

__all__ = ["JobRunner"]


class JobRunner:
    """Does jobs in this process."""

    def __init__(self, directory: CacheDirectory, writer: FileWriter, allowance: Allowance) -> None:
        """Decode what ``writer`` has written, or what is in the directory, within an allowance."""
        self._directory = directory
        self._writer = writer
        self._allowance = allowance

    def do(self, max_pixels: int, jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield what becomes of each job: all are written, then decoded one by one."""
        for job, done in zip(jobs, self._writer.write_all(jobs), strict=True):
            finished = done.error or done.wrong or is_table(job.name)
            yield done if finished else self._decode(job, max_pixels)

    def _decode(self, job: Job, max_pixels: int) -> Done:
        try:
            with self._directory.errors():
                return self._decode_within(job, max_pixels)
        except Step37Error as error:
            return Done(error=error)

    def _decode_within(self, job: Job, max_pixels: int) -> Done:
        """Decode an image in little memory if that is enough, else in much; raises `Step37Error`.

        An image that needs more than any image may have is left out, on every machine. One for
        which this machine alone has too little says nothing about the image.
        """
        allowance, most = self._allowance, image_memory(max_pixels)
        try:
            with allowance.small():
                done = self._decoded(job, max_pixels, allowance.budget.small)
            # A decoder may take a lack of memory for a broken image
            if not done.examined.decode_error or done.examined.too_large:
                return done
        except (MemoryError, TooHeavy):
            pass
        whole = False
        try:
            with allowance.large() as whole:
                return self._decoded(job, max_pixels, allowance.budget.large)
        except TooHeavy as error:
            if error.weight > most:
                return _too_heavy(error.weight, max_pixels)
            self._writer.discard(job)
            raise _too_little(job, error.weight, allowance) from error
        except MemoryError as error:
            if whole and allowance.budget.large >= most:
                return _too_heavy(most + 1, max_pixels)
            self._writer.discard(job)
            raise _too_little(job, most, allowance) from error

    def _decoded(self, job: Job, max_pixels: int, memory: int) -> Done:
        if job.content is not None:
            return _decode(job, job.content, max_pixels, memory)
        with self._directory.tree.open(job.path) as file:
            return _decode(job, file, max_pixels, memory)


def _decode(job: Job, source: Source, max_pixels: int, memory: int) -> Done:
    if not job.thumbnail:
        return Done(examine(source, job.name, max_pixels, memory))
    try:
        copy, size = thumbnail(source, job.name, job.thumbnail, memory)
    except (Undecodable, ValueError) as error:
        return Done(Examined(str(error)))
    return Done(copy=copy, size=size)


def _too_heavy(weight: int, max_pixels: int) -> Done:
    shown = Examined(
        f"it takes {weight / 1e6:,.0f} MB or more to decode, max_pixels ({max_pixels:,}) allows"
        f" {image_memory(max_pixels) / 1e6:,.0f} MB",
        too_large=max(max_pixels + 1, pixels_for(weight)),
    )
    return Done(shown)


def _too_little(job: Job, weight: int, allowance: Allowance) -> TransientError:
    return TransientError(
        f"{job.name}: not enough memory to decode it, {weight / 1e6:,.0f} MB, where this job may"
        f" take {allowance.budget.large / 1e6:,.0f} MB for one image: give the job more memory"
    )
