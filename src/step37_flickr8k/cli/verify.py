"""The command ``verify``: hash the cache again, and repair it if asked."""

import argparse
from typing import Any

from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.output import print_json, print_text
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.job.warmup import Warmup

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print what was found, and raise if files are missing or damaged and not repaired."""
    settings, world = read_settings(parsed).settings, World.from_environment({})
    set_up_logging(settings, world)

    def show(found: dict[str, Any]) -> None:
        for name in found["foreign"]:
            log.info("foreign: %s is not a file of the dataset", name)
        if parsed.json:
            print_json(found)

    found = Warmup(settings, world).verify(show, repair=parsed.repair)
    repaired = f"; {found['repaired']:,} of them were downloaded again" if found["repaired"] else ""
    if not parsed.json:
        print_text(f"{found['files']:,} files, all verified{repaired}")
    return 0
