"""The arguments of every command, and how they become settings.

Building the parser imports nothing that only one command needs, so that ``--help`` stays fast.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from step37_flickr8k import __version__
from step37_flickr8k.settings import Loaded, load_settings
from step37_flickr8k.settings.reference import flags

__all__ = ["build_parser", "read_settings"]

_EXITS = """exit codes: 0 done; 2 configuration error, change something before the next run;
75 transient error, run it again; 76 rank 0 was lost or never reached, start this rank again;
143 terminated by SIGTERM; 1 internal error."""


@dataclass(frozen=True)
class _Command:
    """A command; ``fields`` are the settings that it takes as flags, None stands for all."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    fields: frozenset[str] | None = None
    reads_settings: bool = True


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; it stores the command's name as ``command``."""
    parser = argparse.ArgumentParser(
        prog="step37-flickr8k",
        description="Download an image-caption dataset of the Hugging Face Hub into a cache that"
        " all nodes share, before training starts.",
        epilog=_EXITS,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command in _COMMANDS:
        # Abbreviations are off: --token would stand for --token-file, and the secret would be
        # taken for a path, which error messages show
        added = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=_EXITS,
            allow_abbrev=False,
        )
        if command.reads_settings:
            _add_settings(added, command.fields)
        command.add_arguments(added)
    return parser


def read_settings(parsed: argparse.Namespace) -> Loaded:
    """Return the settings from flags, environment and settings file.

    Raises `InvalidSettings` with a line for each problem.
    """
    given = {
        flag.setting: value
        for flag in flags()
        if (value := getattr(parsed, flag.setting, None)) is not None
    }
    return load_settings(given, file=parsed.settings, environ=os.environ)


def _add_settings(command: argparse.ArgumentParser, fields: frozenset[str] | None) -> None:
    command.add_argument("--token", action=_RefuseToken, help=argparse.SUPPRESS)
    command.add_argument(
        "--settings", metavar="FILE", type=Path, help="YAML or TOML file with settings"
    )
    for flag in flags():
        if fields is not None and flag.setting not in fields:
            continue
        if flag.takes_value:
            command.add_argument(
                flag.flag,
                dest=flag.setting,
                help=flag.help,
                choices=flag.choices,
                metavar=None if flag.choices else flag.setting.upper(),
            )
        else:
            command.add_argument(
                flag.flag, dest=flag.setting, help=flag.help, action="store_const", const=True
            )


class _RefuseToken(argparse.Action):
    """Refuse a token on the command line and name the alternatives, without repeating it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            "--token is not supported, because every user of the machine can read command lines;"
            " use --token-file, STEP37_TOKEN or HF_TOKEN"
        )


# --- the arguments of each command ----------------------------------------------------------------


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """Add nothing beyond the settings."""


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_verify_arguments(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.add_argument(
        "--repair", action="store_true", help="download the missing and damaged files again"
    )


def _add_preview_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, default="preview.html", help="the page (default: %(default)s)"
    )
    command.add_argument(
        "--png", type=Path, metavar="FILE", help="also write the first images as one PNG"
    )


def _add_settings_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json-schema", action="store_true", help="print the JSON schema of the settings"
    )


def _add_report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="the report's JSON; - for stdin"
    )
    command.add_argument(
        "--html", type=Path, metavar="PAGE", help="also write it as a page with small plots"
    )
    command.add_argument(
        "--json-schema", action="store_true", help="print the JSON schema of reports"
    )


def _add_hub_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory",
        type=Path,
        help="directory that holds <split>/metadata.csv, or another table, and the images",
    )
    command.add_argument(
        "--repo-id", default="intro/flickr8k", help="name of the repository (default: %(default)s)"
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    command.add_argument(
        "--port", type=_port, default=0, help="port to listen on (default: a free one)"
    )
    command.add_argument(
        "--parquet",
        type=Path,
        help="directory to serve as its Parquet conversion: default/<split>/*.parquet",
    )
    command.add_argument(
        "--delay",
        type=float,
        default=0.0,
        help="seconds that every request waits, to imitate a distant Hub",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is not a port; choose one up to 65535, or 0 for any free one"
        )
    return int(text)


_SHOWN = frozenset({"log_level", "log_format", "progress"})
_COMMANDS = (
    _Command(
        "warmup",
        "the job: rank 0 downloads, the other ranks wait, then every rank reads; run it on every"
        " rank",
        _add_nothing,
    ),
    _Command(
        "plan",
        "what warmup would do: files, bytes, requests; downloads no image",
        _add_json,
    ),
    _Command(
        "verify",
        "hash the cache again and compare it with its manifest; --repair downloads what differs",
        _add_verify_arguments,
    ),
    _Command(
        "status",
        "what the cache directory holds, and who is downloading into it now; makes no request",
        _add_json,
        frozenset({"cache_dir"}),
    ),
    _Command(
        "preview",
        "the samples of a warm cache as a page with a search box, and as an image",
        _add_preview_arguments,
        frozenset({"split", "sample_count", "caption_key", "cache_dir"}) | _SHOWN,
    ),
    _Command(
        "doctor",
        "check what usually goes wrong, with a remedy for each problem; run as two ranks on two"
        " nodes it also checks the shared directory",
        _add_json,
    ),
    _Command("settings", "the settings in force and where each came from", _add_settings_arguments),
    _Command(
        "report",
        "what a run did, from the report that rank 0 wrote: states, throughput, retries, ranks,"
        " slowest files",
        _add_report_arguments,
        reads_settings=False,
    ),
    _Command(
        "hub",
        "serve a directory as a Hub dataset repository, for rehearsals and tests",
        _add_hub_arguments,
        reads_settings=False,
    ),
)
