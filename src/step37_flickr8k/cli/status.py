"""The command ``status``: what the cache directory holds."""

import argparse

from step37_flickr8k.cli.log import set_up_logging
from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.diagnostics.status import as_json, status
from step37_flickr8k.diagnostics.status_text import status_as_text

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print the status of every split."""
    settings = read_settings(parsed).settings
    set_up_logging(settings)
    root = settings.cache_dir.absolute()
    splits = status(root)
    if parsed.json:
        print_json(as_json(root, splits))
    else:
        print_lines(*status_as_text(root, splits))
    return 0
