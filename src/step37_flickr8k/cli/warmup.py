"""The command ``warmup``: the job itself, run on every rank."""

import argparse
import os

from step37_flickr8k import __version__
from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Warm the cache on every rank; rank 0 also prints and writes the report."""
    settings, world = read_settings(parsed).settings, World.from_environment(os.environ)
    set_up_logging(settings, world)
    log.info(
        "%s, step37-flickr8k %s, %s split %s",
        world.describe(),
        __version__,
        settings.repo_id,
        settings.split,
    )
    # Imported last, so that a wrong setting and the first log line don't wait for the HTTP client
    from step37_flickr8k.cli.warmup_job import warm  # noqa: PLC0415

    warm(settings, world, as_json=parsed.json)
    return 0
