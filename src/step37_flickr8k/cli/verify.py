"""The command ``verify``: hash the cache again, and repair it if asked."""

import argparse

from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.errors import CacheDamaged
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.verify import repair, verify

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print what was found, and raise if files are missing or damaged and not repaired."""
    settings, world = read_settings(parsed).settings, World.from_environment({})
    set_up_logging(settings)
    job = Run(Task.from_settings(settings), world)
    found = verify(job)
    try:
        if found.damaged:
            if not parsed.repair:
                raise CacheDamaged(f"{found.summary}: verify --repair fetches just these")
            log.warning("%s", found.summary)
            found = repair(job, found)
    finally:
        for name in found.foreign:
            log.info("foreign: %s is not a file of the dataset", name)
        if parsed.json:
            print_json(found.as_json())
    if not parsed.json:
        repaired = f"; {found.repaired:,} of them were downloaded again" if found.repaired else ""
        print_lines(f"{found.files:,} files, all verified{repaired}")
    return 0
