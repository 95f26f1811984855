"""Pages for a browser: single files that load nothing, and show all text from outside as text."""

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

__all__ = ["check_writable", "render", "write"]


def render(name: str, *, script: str = "", **values: Any) -> str:
    """Return a template of ``pages/`` filled with values.

    The page may run only ``script``, another file of ``pages/``: its content security policy names
    that script's hash.
    """
    loader = jinja2.PackageLoader("step37_flickr8k.report", "pages")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    code = loader.get_source(environment, script)[0] if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return environment.get_template(name).render(script=code, allowed=allowed, **values)


def _shown(value: Any) -> Any:
    # Markup, a subclass of str, comes from the templates and stays
    return visible(value) if type(value) is str else value


def check_writable(file: Path) -> None:
    """Raise `InvalidSettings` if a file can't be written; a file that exists isn't changed."""
    with _errors(file):
        if file.exists():
            file.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=file.parent).close()


def write(file: Path, content: str | bytes) -> None:
    """Write a file that the user named; raises `InvalidSettings` if that fails."""
    with _errors(file):
        file.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidSettings(
            f"{file} can't be written: {error.strerror}; name another file"
        ) from error
