"""The command ``preview``: the samples of a warm cache as a page and as an image."""

import argparse

from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.named_files import check_writable, write
from step37_flickr8k.cli.output import print_json
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.diagnostics.preview import preview
from step37_flickr8k.report.display import display

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Write the page, and the image if one is asked for."""
    settings, world = read_settings(parsed).settings, World.from_environment({})
    set_up_logging(settings)
    for file in (parsed.output, parsed.png):
        if file is not None:
            check_writable(file)
    show = display(settings, world)
    try:
        made = preview(settings, show)
    finally:
        show.close()
    write(parsed.output, made.page())
    if parsed.png is not None:
        write(parsed.png, made.sheet())
    if parsed.json:
        files = {"output": str(parsed.output), "png": parsed.png and str(parsed.png)}
        print_json({**files, "rows": made.shown + made.bad, "without_image": made.bad})
    without = f", {made.bad:,} without an image" if made.bad else ""
    log.info("%s shows %s rows%s", parsed.output, f"{made.shown + made.bad:,}", without)
    return 0
