"""The pages in a real browser: two widths, light and dark, keyboard only, silent console."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k import cli
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import captioned, picture, write_rows
from tests.helpers.browser import Browser, browser

pytestmark = pytest.mark.slow

HOSTILE = "</script><b id=evil onmouseover=alert(1)>'\"&\u202egpj.exe"
VIEWS = [(width, dark) for width in (1200, 420) for dark in (False, True)]


@pytest.fixture(scope="module")
def seen() -> Iterator[Browser]:
    with browser() as started:
        yield started


def look(seen: Browser, page: Path) -> None:
    """Check a page in all views: layout, contrast, dark mode, console and requests."""
    for width, dark in VIEWS:
        seen.open(page, width, dark=dark)
        assert seen.fits(), (width, dark)
        assert seen.contrast() > 7, (width, dark)
        ground = seen.run("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") != dark
        assert (
            seen.run(
                "performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
            )
            == 0
        )
        assert seen.complaints() == []


@pytest.fixture
def preview(hub: LocalHub, cache: Path, tmp_path: Path) -> Path:
    """Return the page of 250 rows, some of them bad or hostile."""
    (hub.directory / "train" / "0002.jpg").write_bytes(b"no picture")
    (hub.directory / "train" / "evil.jpg").write_bytes(picture(77))
    rows = [
        captioned(number % 12) | {"caption_0": f"a dog, number {number}"} for number in range(250)
    ]
    rows[1] = {"file_name": "evil.jpg", "caption_0": HOSTILE, "caption_1": "x"}
    rows[3]["caption_0"] = "\u05db\u05dc\u05d1 \u05e8\u05e5 a cat"
    write_rows(hub.directory / "train", rows)
    hub.refresh()
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    page = tmp_path / "preview.html"
    assert cli.run(["preview", "--cache-dir", str(cache), "--output", str(page)]) == 0
    return page


def test_the_preview_can_be_read_everywhere(seen: Browser, preview: Path) -> None:
    """At most 200 images are decoded at once, and each has its caption as alternative text."""
    look(seen, preview)
    images = seen.run(
        "[...document.images].map(image => [image.complete && image.naturalWidth > 0, image.alt])"
    )
    assert 80 < len(images) <= 200
    assert all(decoded and caption for decoded, caption in images)
    assert seen.run("document.getElementById('page').textContent") == "page 1 of 3"


def test_the_preview_is_searched_and_turned_with_the_keyboard(seen: Browser, preview: Path) -> None:
    """Search, paging and focus work with the keyboard alone."""

    def captions() -> list[str]:
        found: list[str] = seen.run(
            "[...document.querySelectorAll('#tiles li > p:first-of-type')].map(p => p.textContent)"
        )
        return found

    seen.open(preview)
    seen.press("/", *"number 249")
    assert captions() == ["a dog, number 249"]
    assert seen.one("#found").text == "1 found"
    assert seen.one("#query").get_attribute("value") == "number 249"
    seen.press("ESCAPE")
    assert seen.one("#page").text == "page 1 of 3"
    seen.press("ARROW_RIGHT")
    assert captions()[0] == "a dog, number 96"
    seen.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert seen.one("#page").text == "page 3 of 3"
    seen.press("ARROW_LEFT")
    assert seen.one("#page").text == "page 2 of 3"
    seen.open(preview)
    stops = []
    for _ in range(4):
        seen.press("TAB")
        stops.append(
            seen.run(
                "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
    assert stops == [[name, "solid"] for name in ("query", "bad", "back", "on")]
    seen.press("ENTER", "ENTER", "ENTER")
    assert seen.one("#page").text == "page 3 of 3"
    assert seen.run("document.activeElement.id") == "on"
    seen.open(preview)
    seen.press("TAB", *"cat")
    assert captions() == ["\u05db\u05dc\u05d1 \u05e8\u05e5 a cat"]
    seen.press("ENTER")
    assert captions() == ["\u05db\u05dc\u05d1 \u05e8\u05e5 a cat"]
    seen.press("ESCAPE", "TAB", "SPACE")
    assert len(captions()) == seen.run("document.querySelectorAll('#tiles .bad').length") == 21
    assert seen.complaints() == []


def test_hostile_captions_are_text_in_the_browser(seen: Browser, preview: Path) -> None:
    """Hostile captions are shown as text; nothing of them becomes an element or runs."""
    seen.open(preview)
    assert seen.run("document.querySelectorAll('#tiles li > p')[3].textContent") == HOSTILE.replace(
        "\u202e", "\\u202e"
    )
    assert seen.run("document.querySelectorAll('#tiles img')[1].alt") == HOSTILE.replace(
        "\u202e", "\\u202e"
    )
    assert seen.run("document.querySelectorAll('#evil, b, iframe').length") == 0
    assert seen.run("document.scripts.length") == 2
    assert seen.complaints() == []


@pytest.mark.parametrize("status", [404, 503])
def test_the_report_can_be_read_everywhere(
    seen: Browser, hub: LocalHub, cache: Path, tmp_path: Path, status: int
) -> None:
    """The report page shows failures and successes, and its plots have size and labels."""
    hub.faults.add(
        Fault.status(status, path="train/0003.jpg", times=None if status == 404 else 2),
        Fault.delay(0.3, every=3),
    )
    file, page = tmp_path / "report.json", tmp_path / "report.html"
    code = 75 if status == 404 else 0
    assert (
        cli.run(["warmup", "--cache-dir", str(cache), "--report", str(file), "--concurrency", "1"])
        == code
    )
    assert cli.run(["report", str(file), "--html", str(page)]) == 0
    look(seen, page)
    assert ("failed after" in seen.one("h1").text) == (code == 75)
    assert (len(seen.driver.find_elements("css selector", ".failure")) == 1) == (code == 75)
    plot = seen.one("figure svg")
    assert plot.size["height"] == 160
    assert plot.get_attribute("aria-label").startswith("throughput over time, at most")
