"""The command ``settings``: the settings in force and where each came from."""

import argparse

from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.settings.reference import describe_settings, json_schema, settings_as_json

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print a table of the settings, as words or as JSON, or their schema."""
    if parsed.json_schema:
        print_json(json_schema())
        return 0
    loaded = read_settings(parsed)
    if parsed.json:
        print_json(settings_as_json(loaded))
        return 0
    rows = [("setting", "value", "from"), *describe_settings(loaded)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        print_lines(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0
