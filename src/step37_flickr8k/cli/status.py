"""The command ``status``: what the cache directory holds."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from step37_flickr8k.cli.log import set_up_logging
from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.diagnostics.status import (
    Readiness,
    SplitStatus,
    as_json,
    readiness,
    status,
)
from step37_flickr8k.diagnostics.status_text import status_as_text
from step37_flickr8k.errors import CacheDamaged, TransientError
from step37_flickr8k.report.redrawn import redrawn

__all__ = ["run"]

# Seconds between two drawings
_INTERVAL = 2.0
_CODES = {
    Readiness.READY: 0,
    Readiness.UNDER_WAY: TransientError.exit_code,
    Readiness.ABSENT: CacheDamaged.exit_code,
}


def run(parsed: argparse.Namespace) -> int:
    """Print the status of every split; the code says how ready the selection is, if asked."""
    settings = read_settings(parsed).settings
    set_up_logging(settings)
    root = settings.cache_dir.absolute()
    splits = _watch(root) if parsed.watch else status(root)
    if parsed.json:
        print_json(as_json(root, splits))
    else:
        print_lines(*status_as_text(root, splits))
    if parsed.check or parsed.watch:
        return _CODES[readiness(root, settings.selection())]
    return 0


def _watch(root: Path) -> Sequence[SplitStatus]:
    """Draw the status on a terminal until nobody downloads; return the last one."""
    splits = status(root)
    with redrawn(sys.stdout) as draw:
        while any(split.is_filled for split in splits):
            draw(status_as_text(root, splits))
            time.sleep(_INTERVAL)
            splits = status(root)
    return splits
