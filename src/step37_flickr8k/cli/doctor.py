"""The command ``doctor``: check what usually goes wrong."""

import argparse
import json
import os
import sys

from step37_flickr8k.cli.log import set_up_logging
from step37_flickr8k.cli.named_files import check_writable, write
from step37_flickr8k.cli.output import print_json, print_styled
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.cluster.stores import job_group
from step37_flickr8k.diagnostics.doctor import examine
from step37_flickr8k.diagnostics.doctor_text import findings_as_text
from step37_flickr8k.diagnostics.finding import Finding, State
from step37_flickr8k.diagnostics.version_checks import version_of
from step37_flickr8k.errors import InvalidWorld
from step37_flickr8k.settings import WarmupSettings, contradictions, read_job_secret
from step37_flickr8k.settings.reference import settings_as_json

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Print the findings of all ranks on rank 0, whose exit code speaks for the job."""
    loaded = read_settings(parsed)
    settings, world = loaded.settings, World.from_environment(os.environ)
    set_up_logging(settings, world)
    found: list[Finding] = []
    contradicting = contradictions(file=parsed.settings, environ=os.environ)
    if parsed.output is not None and world.rank == 0:
        check_writable(parsed.output)
    group = _group(settings, world)
    for part in examine(settings, world, group, contradicting):
        found += part
        # At once, because the other ranks may take long to arrive
        if world.rank == 0 and not parsed.json:
            print_styled(findings_as_text(part, sys.stdout))
    if world.rank != 0:
        return 0
    if parsed.output is not None:
        ticket = {
            "findings": [finding.as_json() for finding in found],
            "settings": settings_as_json(loaded),
        }
        write(parsed.output, json.dumps(ticket, indent=2) + "\n")
    if parsed.json:
        print_json([finding.as_json() for finding in found])
    return 2 if any(finding.state is State.PROBLEM for finding in found) else 0


def _group(settings: WarmupSettings, world: World) -> Group | None:
    """Return the group of the ranks; on rank 0 None without torch, which is one of the findings."""
    try:
        return job_group(world, read_job_secret(settings.job_secret_file))
    except InvalidWorld:
        if world.rank != 0 or version_of("torch"):
            raise
        return None
