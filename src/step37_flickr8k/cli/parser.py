"""The arguments of every command, and how they become settings.

Building the parser imports nothing that only one command needs, so that ``--help`` stays fast.
"""

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from step37_flickr8k import __version__
from step37_flickr8k.cli.commands import COMMANDS, Command
from step37_flickr8k.settings import Loaded, load_settings
from step37_flickr8k.settings.names import closest
from step37_flickr8k.settings.reference import flags

__all__ = ["build_commands", "build_parser", "options_of", "parse_arguments", "read_settings"]

_WIDTH = 79  # columns
_EXITS = """exit codes:
  0    done
  2    configuration error: change something before the next run
  3    the cache is damaged or not ready (verify, status --check)
  75   transient error: run it again
  76   rank 0 was lost or never reached: start this rank again
  143  terminated by SIGTERM
  1    internal error"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; it stores the command's name as ``command``."""
    return _build()[0]


def build_commands() -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of each command, by its name."""
    return _build()[1]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says; those of the process unless given.

    What it doesn't mean ends the process with 2, a usage line and a guess.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser, commands = _build()
    if not given:
        parser.print_help(sys.stderr)
        parser.exit(2)
    first = given[0]
    if not first.startswith("-") and first not in commands:
        parser.error(f"{first!r} is no command{closest(first, commands)}")
    if first.startswith("-") and first not in {"-h", "--help", "--version"}:
        parser.error(f"{first} belongs behind a command: {parser.prog} COMMAND {first} ...")
    parsed, unknown = parser.parse_known_args(given)
    if unknown:
        command = commands[parsed.command]
        flag = unknown[0].split("=")[0]
        guess = closest(flag, options_of(command))
        command.error(f"{flag!r} is no argument of {parsed.command}{guess}")
    return parsed


def options_of(command: argparse.ArgumentParser) -> Mapping[str, argparse.Action]:
    """Return the options of a command by name, those that its help doesn't show among them."""
    return command._option_string_actions  # noqa: SLF001 - argparse has no other way to ask


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the commands do: ``error: message``; ends with 2 even if it can't."""

    def error(self, message: str) -> NoReturn:
        """Print a usage line and the error, and end the process with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Before Python 3.11.5 an stderr that takes nothing raised OSError here
        with contextlib.suppress(OSError):
            super()._print_message(message, file)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps ``[env: NAME]`` and flags on one line."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument; argparse forgets that the names of commands are indented further."""
        super().add_argument(action)
        if action.dest == "command":
            self._action_max_length += 2

    def _split_lines(self, text: str, width: int) -> list[str]:
        words = " ".join(text.split()).replace("[env: ", "[env:\x7f")
        lines = textwrap.wrap(words, width, break_on_hyphens=False)
        return [line.replace("\x7f", " ") for line in lines]


def _build() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and that of each command."""
    parser = _Parser(
        prog="step37-flickr8k",
        usage="%(prog)s COMMAND [OPTIONS]",
        description="Download an image-caption dataset of the Hugging Face Hub into a cache that\n"
        "all nodes share, before training starts.",
        epilog=f"{_EXITS}\n\n`step37-flickr8k COMMAND --help` shows the options of a command.",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        required=True, title="commands", metavar="COMMAND", dest="command", prog="step37-flickr8k"
    )
    added: dict[str, argparse.ArgumentParser] = {}
    for command in COMMANDS:
        # Abbreviations are off: --token would stand for --token-file, and the secret would be
        # taken for a path, which error messages show
        added[command.name] = commands.add_parser(
            command.name,
            help=command.help,
            usage=f"%(prog)s {command.usage}",
            description=textwrap.fill(
                f"{command.help[0].upper()}{command.help[1:]}.", _WIDTH, break_on_hyphens=False
            ),
            epilog=f"example:\n  step37-flickr8k {command.name} {command.example}\n\n{_EXITS}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        if command.reads_settings:
            _add_settings(added[command.name], command)
        _add_output(added[command.name])
        command.add_arguments(added[command.name])
    return parser, added


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print nothing but errors, and the JSON that --json asks for",
    )


def read_settings(parsed: argparse.Namespace) -> Loaded:
    """Return the settings from flags, environment and settings file.

    Raises `InvalidSettings` with a line for each problem.
    """
    given = {
        flag.setting: value
        for flag in flags()
        if (value := getattr(parsed, flag.setting, None)) is not None
    }
    if parsed.quiet:
        given = {"log_level": "error", "progress": "off", **given}
    return load_settings(given, file=parsed.settings, environ=os.environ)


def _add_settings(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.add_argument("--token", action=_RefuseToken, help=argparse.SUPPRESS)
    parser.add_argument(
        "--settings",
        metavar="FILE",
        type=Path,
        help="YAML or TOML file with settings [env: STEP37_SETTINGS]",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag in flags():
        if command.fields is not None and flag.setting not in command.fields:
            continue
        text = argparse.SUPPRESS if flag.setting in command.unused else flag.help
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        group = groups[flag.group]
        if flag.placeholder:
            group.add_argument(
                flag.flag,
                dest=flag.setting,
                help=text,
                choices=flag.choices,
                metavar=None if flag.choices else flag.placeholder,
            )
        else:
            group.add_argument(
                flag.flag, dest=flag.setting, help=text, action="store_const", const=True
            )


class _RefuseToken(argparse.Action):
    """Refuse a token on the command line and name the alternatives, without repeating it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            "--token is not supported, because every user of the machine can read command lines;"
            " use --token-file, STEP37_TOKEN or HF_TOKEN"
        )
