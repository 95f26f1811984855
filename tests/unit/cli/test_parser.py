"""The command line: what ``--help`` shows, and what a mistake is answered with."""

import re

import pytest

from step37_flickr8k.cli.commands import COMMANDS
from step37_flickr8k.cli.parser import parse_arguments, read_settings
from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.settings.names import variable_of
from step37_flickr8k.settings.reference import flags


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay help out for the usual terminal."""
    monkeypatch.setenv("COLUMNS", "80")


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what ``--help`` prints."""
    with pytest.raises(SystemExit) as ended:
        parse_arguments([command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command line is refused with."""
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_help_shows_each_flag_under_a_heading_with_its_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The headings are in the order in which one thinks of them."""
    shown = help_of("warmup", capsys)
    headings = re.findall(r"^(\w+):$", shown, re.MULTILINE)
    assert headings[1:6] == ["what", "where", "connection", "timeouts", "output"]
    for flag in flags():
        assert f"\n  {flag.flag}" in shown
        assert f"[env: {variable_of(flag.setting)}]" in shown


def test_help_breaks_no_line_inside_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a narrow terminal, too, flags and file names can be copied."""
    monkeypatch.setenv("COLUMNS", "47")
    assert "termination-log" in help_of("warmup", capsys)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_has_one_example_that_parses(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the example shows is a command line that is understood."""
    name = getattr(command, "name", "")
    shown = help_of(name, capsys)
    assert all(len(line) <= 80 for line in shown.splitlines())
    (example,) = re.findall(r"^example:\n  step37-flickr8k (.*)$", shown, re.MULTILINE)
    assert parse_arguments(example.split()).command == name


def test_a_command_takes_flags_that_it_does_not_need_and_does_not_show(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Warmup's command line is good for plan: one word is changed, and no flag."""
    given = ["plan", "--heartbeat-timeout", "45", "--report", "report.json"]
    assert read_settings(parse_arguments(given)).settings.heartbeat_timeout == 45
    shown = help_of("plan", capsys)
    assert "--heartbeat-timeout" not in shown
    assert "--report" not in shown


@pytest.mark.parametrize(
    ("written", "usage", "said"),
    [
        ("warmpu", "COMMAND [OPTIONS]", "'warmpu' is no command: did you mean warmup?"),
        ("xyz", "COMMAND [OPTIONS]", "'xyz' is no command"),
        ("plan --sample-cont 3", "plan [OPTIONS]", "did you mean --sample-count?"),
        (
            "status --jsn",
            "status [OPTIONS]",
            "'--jsn' is no argument of status: did you mean --json?",
        ),
        ("hub", "hub DIRECTORY [OPTIONS]", "directory"),
        ("--cache-dir x warmup", "COMMAND [OPTIONS]", "--cache-dir belongs behind a command"),
    ],
)
def test_a_mistyped_word_gets_the_usage_of_its_command_and_a_guess(
    written: str, usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of usage, then one that says what is wrong."""
    first, second = refused(written.split(), capsys).splitlines()
    assert first == f"usage: step37-flickr8k {usage}"
    assert second.startswith("error: ")
    assert said in second


def test_no_arguments_print_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is listed, and nothing ran."""
    shown = refused([], capsys)
    assert all(f"    {command.name} " in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--sample-count", "x", "not a whole number; sample_count is number of rows"),
        ("--read-timeout", "soon", "not a number of seconds; read_timeout is"),
        ("--concurrency", "1.5", "not a whole number; concurrency is"),
    ],
)
def test_a_value_of_the_wrong_type_is_answered_in_a_users_words(
    flag: str, value: str, said: str
) -> None:
    """Not in the parser's."""
    with pytest.raises(InvalidSettings, match=re.escape(said)):
        read_settings(parse_arguments(["plan", flag, value]))
