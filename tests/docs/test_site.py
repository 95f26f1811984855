"""The documentation site: its reference says what the code says, and its pages fit a desk and a hand."""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import reference
from selenium.webdriver.support.wait import WebDriverWait

import step37_flickr8k
from step37_flickr8k import errors, localhub
from step37_flickr8k.cli.parser import build_parser
from step37_flickr8k.settings import WarmupSettings
from tests.helpers.browser import Browser, browser

ROOT = Path(__file__).parents[2]
PAGES = {
    name: ROOT / "docs" / "reference" / f"{name}.md"
    for name in ("settings", "command", "library", "exit-codes", "report")
}


def page(name: str) -> str:
    """Give a page's Markdown, filled as MkDocs fills it."""
    return reference.on_page_markdown(PAGES[name].read_text(encoding="utf-8"))


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_setting_has_a_section() -> None:
    """Each names type, default, flag and variable, and nothing else is there; numbers that aren't counts are seconds."""
    told = sections(page("settings"))
    assert [name.strip("`") for name in told] == [*WarmupSettings.model_fields]
    for name, text in told.items():
        for line in ("- type: ", "- default: ", "- flag: ", "- environment: `STEP37_"):
            assert line in text, name
        assert ("type: seconds" in text) == name.strip("`").endswith("_timeout"), name


def test_every_command_has_a_section_with_its_arguments() -> None:
    """Each subcommand stands there, with every argument that its own help shows, or that is a setting."""
    (group,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    told = sections(page("command"))
    assert [*told] == [*group.choices]
    for name, command in group.choices.items():
        shown = [
            action
            for action in command._actions
            if action.help != argparse.SUPPRESS and action.dest != "help"
        ]
        for action in [
            action for action in shown if action.dest not in WarmupSettings.model_fields
        ]:
            assert (
                f"`{(action.option_strings or [action.metavar or action.dest])[0]}" in told[name]
            ), action
        assert ("Takes every" in told[name]) == (name in {"warmup", "settings"}), name


def test_every_public_name_stands_in_the_library() -> None:
    """Each name of the package and of the local Hub has a mark that mkdocstrings fills."""
    text = page("library")
    for package in (step37_flickr8k, localhub):
        for name in package.__all__:
            assert f"\n::: {package.__name__}.{name}\n" in text


def test_every_error_stands_at_its_exit_code() -> None:
    """Each error class is in the section of the code that the command ends with, with its sentence and what to do."""
    told = sections(page("exit-codes"))
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and hasattr(kind, "exit_code")
    ]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.__doc__
        told_to_do = vars(kind).get("what_to_do")
        remedy = f" What to do: {told_to_do}." if told_to_do else ""
        assert (
            f"- `{kind.__name__}`: {kind.__doc__.splitlines()[0]}{remedy}\n"
            in told[str(kind.exit_code)]
        )


def test_every_field_of_a_report_is_told() -> None:
    """Each property of the published schema has a line with its type, in the list of its object."""
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    told = sections(page("report"))
    for part in (schema, *schema["$defs"].values()):
        for name in part["properties"]:
            assert re.search(rf"^- `{name}` \(\S.*\)", told[part["title"]], re.MULTILINE), name


# --- in a browser ---------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    """A web server without a log."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(directory)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return directory


@pytest.fixture(scope="module")
def seen() -> Iterator[Browser]:
    """Start the browser."""
    with browser() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_page_fits_two_widths(site: Path, seen: Browser) -> None:
    """Opened from the directory, without a network: nothing sticks out, nothing is missing, the text can be read, light and dark."""
    pages = [file for file in site.glob("**/*.html") if file.name != "404.html"]
    assert len(pages) > 30
    for file in pages:
        assert not re.search(
            r'<(script|link|img)[^>]+(src|href)="(https?:)?//', file.read_text(encoding="utf-8")
        ), file
        for width in (1280, 390):
            for dark in (False, True):
                seen.open(file, width, dark=dark)
                # Scripts are still at it
                WebDriverWait(seen.driver, 60).until(lambda _: seen.fits(), f"{file} at {width}")
                assert seen.contrast() >= 4.5, f"{file}, dark: {dark}"
        assert seen.complaints() == [], file


@pytest.mark.slow
def test_what_is_searched_for_is_found(site: Path, seen: Browser) -> None:
    """On any web server, with nothing from elsewhere, a word of a page is found."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen.driver.get(f"http://127.0.0.1:{server.server_port}/index.html")
        seen.driver.implicitly_wait(60)
        seen.press("/")
        seen.press(*"heartbeat_timeout")
        found = seen.one(".md-search-result__item").get_attribute("textContent")
        server.shutdown()
    assert "heartbeat_timeout" in found
