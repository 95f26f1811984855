"""The command ``report``: what a run did, on the terminal and as a page."""

import argparse
import sys

from step37_flickr8k.cli.named_files import write
from step37_flickr8k.cli.output import print_json, print_styled
from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.report.html import report_page
from step37_flickr8k.report.model import json_schema, read_report
from step37_flickr8k.report.text import report_as_text

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print a report for people, or the schema of all reports."""
    if parsed.json_schema:
        print_json(json_schema())
        return 0
    if parsed.file is None:
        raise InvalidSettings(
            "no report is named; name the file that warmup --report wrote, or - for stdin"
        )
    report = read_report(parsed.file)
    if parsed.html is not None:
        write(parsed.html, report_page(report))
    if parsed.json:
        print_json(report.as_json())
    else:
        print_styled(report_as_text(report, sys.stdout))
    return 0
