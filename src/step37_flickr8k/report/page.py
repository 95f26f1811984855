"""Pages for a browser: single files that load nothing, and show all text from outside as text."""

import base64
import hashlib
from typing import Any

import jinja2

from step37_flickr8k.report.progress import counted
from step37_flickr8k.visible import visible

__all__ = ["render"]


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
