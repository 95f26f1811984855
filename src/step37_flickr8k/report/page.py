"""Pages that people open in a browser: one file each, nothing from elsewhere, and what others wrote is shown as text."""

import base64
import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.report.progress import counted
from step37_flickr8k.report.visible import visible

__all__ = ["render", "try_out", "write"]


def render(name: str, *, script: str = "", **values: Any) -> str:
    """Fill a page of ``pages/``; it may run that one script of it, by its hash, and no other."""
    loader = jinja2.PackageLoader("step37_flickr8k.report", "pages")
    ways: dict[str, Any] = {
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    environment = jinja2.Environment(loader=loader, autoescape=True, finalize=_shown, **ways)
    environment.globals["counted"] = counted
    code = loader.get_source(environment, script)[0] if script else ""
    allowed = (
        "'sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() + "'"
        if script
        else "'none'"
    )
    return environment.get_template(name).render(script=code, allowed=allowed, **values)


def _shown(value: Any) -> Any:
    return visible(value) if type(value) is str else value  # what is markup already is our own


def try_out(file: Path) -> None:
    """See whether a file can be written, before the work for it; one that is there stays as it is. Raises like `write`."""
    with _errors(file):
        if file.exists():
            file.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=file.parent).close()


def write(file: Path, content: str | bytes) -> None:
    """Write what was asked for where it was asked for; raises `InvalidSettings` where that can't be done."""
    with _errors(file):
        file.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidSettings(
            f"{file} can't be written: {error.strerror}: name another file"
        ) from error
