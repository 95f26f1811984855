"""The command ``plan``: what warmup would do."""

import argparse

from step37_flickr8k.cli.log import set_up_logging
from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.dataset.words import amount
from step37_flickr8k.job.plan import make_plan
from step37_flickr8k.job.results import Mode, Plan
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.report.progress import counted

__all__ = ["run"]

_MODES = {
    Mode.NOTHING: "nothing to fetch",
    Mode.FILES: "one for each file",
    Mode.PARQUET: "in bulk, from its Parquet conversion",
}


def run(parsed: argparse.Namespace) -> int:
    """Print the plan."""
    settings, world = read_settings(parsed).settings, World.from_environment({})
    set_up_logging(settings)
    plan = make_plan(Run(Task.from_settings(settings), world))
    if parsed.json:
        print_json(plan.as_json())
    else:
        print_lines(*_lines(plan))
    return 0


def _lines(plan: Plan) -> list[str]:
    if plan.warm:
        rows = f"all {plan.rows:,} rows at commit {plan.commit}"
        return [f"nothing to do: {plan.cache_dir} holds {rows}", *_accounts(plan)]
    size = amount(plan.bytes)
    lines = [
        f"commit    {plan.commit}",
        f"rows      {plan.rows:,} with {plan.files:,} images",
        *_accounts(plan),
        f"to fetch  {plan.fetch:,} images, {size}, into {plan.cache_dir}",
        f"requests  {plan.requests:,} to the Hub, {_MODES[plan.mode]}",
    ]
    if plan.wait and plan.rate_limit:
        limit = f"{plan.rate_limit.limit:,} requests in {plan.rate_limit.window:.0f} s"
        lines.append(f"limit     {limit}; expect to wait {plan.wait:.0f} s")
    return lines


def _accounts(plan: Plan) -> list[str]:
    """Return a line for rows that don't count, and one for images that no row names."""
    lines = []
    if plan.left_out:
        rows = counted(plan.left_out, "row")
        lines.append(f"left out  {rows}; the first is {plan.why_left_out}")
    if plan.unnamed:
        lines.append(f"unnamed   {counted(plan.unnamed, 'image')} of the commit: no row names them")
    return lines
