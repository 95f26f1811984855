"""The command ``completion``: what a shell needs to complete the command line.

It is printed once and kept by the shell, so that a press of Tab starts no Python.
"""

import argparse
import shlex
from collections.abc import Iterator, Mapping

from step37_flickr8k.cli.commands import COMMANDS, SHELLS
from step37_flickr8k.cli.output import print_json, print_lines
from step37_flickr8k.cli.parser import build_commands, options_of

__all__ = ["run"]

_PROGRAM = "step37-flickr8k"
_BASH = """\
_step37_flickr8k() {
  local current=${COMP_WORDS[COMP_CWORD]} words=
  case $COMP_CWORD,${COMP_WORDS[1]} in
COMMANDS
  esac
  case ${COMP_WORDS[COMP_CWORD-1]} in
VALUES
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _step37_flickr8k step37-flickr8k
"""


def run(parsed: argparse.Namespace) -> int:
    """Print the script for a shell, whose lines are of use to `eval` or in a file."""
    begin = ["autoload -U +X bashcompinit && bashcompinit"] if parsed.shell == "zsh" else []
    lines = [*_fish()] if parsed.shell == "fish" else begin + _bash()
    if parsed.json:
        print_json({"shell": parsed.shell, "script": "\n".join(lines)})
    else:
        print_lines(*lines)
    return 0


def _shown(command: argparse.ArgumentParser) -> Mapping[str, argparse.Action]:
    """Return the options that the help of a command shows, by name."""
    options = options_of(command).items()
    return {name: action for name, action in options if action.help != argparse.SUPPRESS}


def _bash() -> list[str]:
    """Return a function that completes what is typed: a command, a flag, or a flag's value.

    What it doesn't know are files, for example behind ``--cache-dir``.
    """
    commands = build_commands()
    first = f'    1,*) words="{" ".join(commands)}" ;;'
    flags, values = [first], {}
    for name, command in commands.items():
        options = _shown(command)
        words = [*options, *(SHELLS if name == "completion" else ())]
        flags.append(f'    *,{name}) words="{" ".join(words)}" ;;')
        for option, action in options.items():
            if action.nargs != 0:
                values[option] = " ".join(map(str, action.choices or ()))
    known = [f'    {option}) words="{words}" ;;' for option, words in values.items() if words]
    files = "|".join(option for option, words in values.items() if not words)
    script = _BASH.replace("COMMANDS", "\n".join(flags))
    return script.replace("VALUES", "\n".join([*known, f"    {files}) words= ;;"])).splitlines()


def _fish() -> Iterator[str]:
    """Yield a line for each command, and one for each of its flags."""
    for about in COMMANDS:
        words = f"-f -n __fish_use_subcommand -a {about.name} -d {shlex.quote(about.help)}"
        yield f"complete -c {_PROGRAM} {words}"
    for name, command in build_commands().items():
        seen = f"'__fish_seen_subcommand_from {name}'"
        for option, action in _shown(command).items():
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            value = "" if action.nargs == 0 else " -r"
            if action.choices:
                value += f" -f -a {shlex.quote(' '.join(map(str, action.choices)))}"
            yield f"complete -c {_PROGRAM} -n {seen} {flag}{value}"
