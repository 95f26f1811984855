"""The command ``plan``: what warmup would do."""

import argparse
from typing import Any

from step37_flickr8k.cli.log import set_up_logging
from step37_flickr8k.cli.output import print_json, print_text
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.job.warmup import Warmup

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print the plan."""
    settings, world = read_settings(parsed).settings, World.from_environment({})
    set_up_logging(settings, world)
    plan = Warmup(settings, world).plan()
    if parsed.json:
        print_json(plan)
    else:
        print_text("\n".join(_lines(plan)))
    return 0


def _lines(plan: dict[str, Any]) -> list[str]:
    if plan["warm"]:
        rows = f"all {plan['rows']:,} rows at commit {plan['commit']}"
        return [f"nothing to do: {plan['cache_dir']} holds {rows}"]
    size = f"{plan['bytes'] / 1e6:,.1f} MB"
    lines = [
        f"commit    {plan['commit']}",
        f"rows      {plan['rows']:,} with {plan['files']:,} images",
        f"to fetch  {plan['fetch']:,} images, {size}, into {plan['cache_dir']}",
        f"requests  {plan['requests']:,} to the Hub, {plan['mode']}",
    ]
    if plan["wait"]:
        quota = f"{plan['quota']['limit']:,} requests in {plan['quota']['window']:.0f} s"
        lines.append(f"limit     {quota}; expect to wait {plan['wait']:.0f} s")
    return lines
