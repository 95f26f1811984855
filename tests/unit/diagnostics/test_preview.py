"""Preview: what the page and the PNG hold. How a browser shows them: `test_pages.py`."""

import base64
import io
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from step37_flickr8k import cli
from step37_flickr8k.diagnostics.preview import _MAXIMUM_ROWS
from step37_flickr8k.images.sheet import contact_sheet
from step37_flickr8k.images.thumbnails import thumbnail
from step37_flickr8k.localhub import LocalHub
from tests.conftest import captioned, write_rows

HOSTILE = "</script><script>alert(1)</script><b>'\"&\u202egpj.exe"


def noise(number: int, size: int = 256) -> bytes:
    """Draw an image that compresses badly, the worst case of a thumbnail."""
    out = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(number).randbytes(size * size * 3)).save(
        out, "JPEG", quality=80
    )
    return out.getvalue()


@pytest.fixture
def shown(hub: LocalHub, cache: Path, tmp_path: Path) -> Any:
    """Warm the cache from the Hub and return the page and its rows."""

    def show(*arguments: str) -> tuple[str, list[list[Any]]]:
        hub.refresh()
        assert cli.run(["warmup", "--cache-dir", str(cache), "--log-level", "error"]) == 0
        hub.clear_requests()
        page = tmp_path / "preview.html"
        assert (
            cli.run(["preview", "--cache-dir", str(cache), "--output", str(page), *arguments]) == 0
        )
        assert not hub.requests
        text = page.read_text()
        return text, rows_of(text)

    return show


def rows_of(page: str) -> list[list[Any]]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.DOTALL)
    assert found
    told: dict[str, Any] = json.loads(found[1])
    assert told["perPage"] <= 200
    rows: list[list[Any]] = told["rows"]
    return rows


def test_the_page_holds_each_row_and_asks_for_nothing(hub: LocalHub, shown: Any) -> None:
    """The page holds name, caption, size and thumbnail of each row, and loads nothing."""
    page, rows = shown()
    assert [row[0] for row in rows] == [f"{number:04}.jpg" for number in range(12)]
    assert rows[3][1:6] == [
        captioned(3)["caption_0"],
        (hub.directory / "train" / "0003.jpg").stat().st_size,
        16,
        16,
        "",
    ]
    with Image.open(io.BytesIO(base64.b64decode(rows[3][6]))) as copy:
        assert (copy.format, copy.size) == ("WEBP", (16, 16))
    assert hub.commit in page
    assert "12 rows with caption_0, 12 images here" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "default-src 'none'" in page
    assert "url(" not in page


def test_what_has_no_picture_is_shown_with_its_reason(
    hub: LocalHub, cache: Path, shown: Any, tmp_path: Path
) -> None:
    """Rows without an image show the reason, also if the file was deleted or changed."""
    (hub.directory / "train" / "0002.jpg").write_bytes(b"no picture")
    rows = [captioned(number) for number in range(12)]
    rows[5]["caption_0"], rows[6]["file_name"] = " ", ""
    write_rows(hub.directory / "train", rows)
    shown()
    (cache / "train" / "0008.jpg").unlink()
    (cache / "train" / "0009.jpg").write_bytes((cache / "train" / "0009.jpg").read_bytes()[:300])
    page = tmp_path / "preview.html"
    assert cli.run(["preview", "--cache-dir", str(cache), "--output", str(page)]) == 0
    decode_errors = {row[0]: row[5] for row in rows_of(page.read_text()) if row[5]}
    assert decode_errors.keys() == {
        "0002.jpg",
        "metadata.csv, line 7",
        "metadata.csv, line 8",
        "0008.jpg",
        "0009.jpg",
    }
    assert "cannot identify image file" in decode_errors["0002.jpg"]
    assert decode_errors["metadata.csv, line 7"] == "the row has no caption_0"
    assert decode_errors["metadata.csv, line 8"] == "the row has no file_name"
    assert decode_errors["0008.jpg"] == "No such file or directory"
    assert "truncated" in decode_errors["0009.jpg"].lower()
    assert "10 rows with caption_0, 7 images here" in page.read_text()
    assert (
        "3 without one</span>; 2 lines of metadata.csv without a name or a caption"
        in page.read_text()
    )


def test_hostile_names_and_captions_are_text(hub: LocalHub, shown: Any) -> None:
    """HTML in captions can't end the page's data, and hidden characters are written out."""
    name = HOSTILE.replace("/", "")
    (hub.directory / "train" / "0001.jpg").rename(hub.directory / "train" / f"{name}.jpg")
    rows = [captioned(number) for number in range(12)]
    rows[1] = {"file_name": f"{name}.jpg", "caption_0": HOSTILE, "caption_1": "x"}
    write_rows(hub.directory / "train", rows)
    page, told = shown()
    assert page.count("<script") == 2
    assert "\u202e" not in page
    assert told[1][1] == HOSTILE.replace("\u202e", "\\u202e")
    assert told[1][0].endswith("\\u202egpj.exe.jpg")


def test_a_very_long_caption_is_cut_and_says_so(hub: LocalHub, shown: Any) -> None:
    """A caption is cut to a thousand characters and an ellipsis."""
    write_rows(
        hub.directory / "train",
        [captioned(0) | {"caption_0": "x" * 1001}, captioned(1) | {"caption_0": "x" * 1000}],
    )
    _, told = shown()
    assert [row[1] for row in told] == ["x" * 1000 + "\u2026", "x" * 1000]


def test_six_thousand_rows_stay_below_25_megabytes(hub: LocalHub, shown: Any) -> None:
    """6,000 rows of badly compressible images stay below 25 MB, and the page says what it omits."""
    for number in range(12):
        (hub.directory / "train" / f"{number:04}.jpg").write_bytes(noise(number))
    long = (
        "a caption of a length that is seldom, with which somebody tells of all that is seen in the picture, twice: "
        * 2
    )
    rows = [
        {"file_name": f"{number % 12:04}.jpg", "caption_0": f"{number} {long}"}
        for number in range(_MAXIMUM_ROWS + 10)
    ]
    write_rows(hub.directory / "train", rows)
    page, told = shown()
    assert len(told) == 6000
    assert max(len(base64.b64decode(row[6])) for row in told) <= 3000
    assert min(len(base64.b64decode(row[6])) for row in told) > 1000
    assert len(page.encode()) < 25_000_000
    assert (
        "6,010 rows with caption_0, 6,000 images here; this page holds the first 6,000 rows" in page
    )


def test_a_small_copy_of_any_picture(tmp_path: Path) -> None:
    """Every kind of image has a thumbnail of its own shape."""
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [
        ("RGBA", (300, 200)),
        ("P", (300, 200)),
        ("L", (300, 200)),
        ("I;16", (300, 200)),
        ("RGB", (3000, 3)),
    ]
    for number, (mode, size) in enumerate(kinds):
        path = tmp_path / f"{number}.png"
        Image.new(mode, size).save(path, "PNG")
        copy, pixels = thumbnail(path, path.name, 2900)
        assert pixels == size
        with Image.open(io.BytesIO(copy)) as small:
            assert max(small.size) == 144
    Image.new("RGB", (300, 200)).save(tmp_path / "turned.jpg", exif=turned)
    copy, pixels = thumbnail(tmp_path / "turned.jpg", "a", 2900)
    with Image.open(io.BytesIO(copy)) as small:
        assert small.height > small.width
    with pytest.raises(ValueError, match="takes only 10 bytes"):
        thumbnail(tmp_path / "turned.jpg", "a", 10)


def test_the_contact_sheet_shows_the_first_rows(hub: LocalHub, shown: Any, tmp_path: Path) -> None:
    """The PNG has six columns, a cell for each row, and frames where there is no image."""
    (hub.directory / "train" / "0002.jpg").write_bytes(b"no picture")
    (hub.directory / "train" / "0000.jpg").write_bytes(noise(0))
    sheet = tmp_path / "sheet.png"
    shown("--png", str(sheet))
    with Image.open(sheet) as image:
        assert (image.format, image.size) == ("PNG", (6 * 152 + 8, 2 * 182 + 8))
        colours = image.convert("RGB").crop((8, 8, 152, 152)).getcolors(1 << 16)
        framed = image.convert("RGB").getpixel((2 * 152 + 8, 8))
        assert image.convert("RGB").getpixel((152 + 8, 8)) != (255, 255, 255), (
            "a small copy fills its place"
        )
    assert colours is not None
    assert len(colours) > 50
    assert isinstance(framed, tuple)
    assert framed[0] > 150 > framed[1]
    shown("--png", str(sheet), "--sample-count", "2")
    with Image.open(sheet) as image:
        assert image.size == (2 * 152 + 8, 182 + 8)
    fitting = f"{'a' * 23} {'b' * 23}"
    copy = (hub.directory / "train" / "0001.jpg").read_bytes()
    assert contact_sheet([(copy, fitting)], 1) != contact_sheet([(copy, f"{fitting} more")], 1), (
        "what is cut ends in ..."
    )


def test_what_cannot_be_shown_is_said(
    hub: LocalHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cold cache, a caption key that isn't ready and an unwritable page are exit code 2."""
    assert hub.commit
    assert cli.run(["preview", "--cache-dir", str(cache)]) == 2
    assert "has no ready record of train; run warmup first" in capsys.readouterr().err
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    assert cli.run(["preview", "--cache-dir", str(cache), "--caption-key", "caption_1"]) == 2
    assert "caption_key 'caption_1' isn't ready in" in (told := capsys.readouterr().err)
    assert "run warmup with it, or choose from caption_0" in told
    assert (
        cli.run(
            ["preview", "--cache-dir", str(cache), "--output", str(tmp_path / "none" / "x.html")]
        )
        == 2
    )
    assert "x.html can't be written" in capsys.readouterr().err
    shutil.rmtree(cache / "train")
    # Reported before anything is decoded
    for word, file in (("png", tmp_path), ("output", tmp_path / "none" / "x.html")):
        assert cli.run(["preview", "--cache-dir", str(cache), f"--{word}", str(file)]) == 2
        assert f"{file} can't be written" in capsys.readouterr().err
    page = tmp_path / "y.html"
    assert cli.run(["preview", "--cache-dir", str(cache), "--output", str(page)]) == 2
    assert "train/metadata.csv is no longer there; run warmup" in capsys.readouterr().err
    assert not page.exists()
