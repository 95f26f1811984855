"""The variables and the login of huggingface_hub, read as that library reads them.

Its constants are the model (``huggingface_hub.constants``). They aren't imported, because they are
read once for a process.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BYTE_ORDER_MARK", "Layer", "hub_layer", "token_in"]

BYTE_ORDER_MARK = "\ufeff"

_TRUE = {"1", "on", "yes", "true"}
# The first that isn't empty decides. The last is that of ``datasets``: this is one.
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TOKEN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a file in it begins


@dataclass(frozen=True)
class Layer:
    """One source: its values by setting, how it calls a setting, and how a file writes it."""

    values: Mapping[str, object]
    origin: Callable[[str], str]
    written: Mapping[str, str] = field(default_factory=dict)


def hub_layer(environ: Mapping[str, str]) -> Layer:
    """Read what users of huggingface_hub have set anyway."""
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    if environ.get("HF_ENDPOINT"):
        values["endpoint"], origins["endpoint"] = environ["HF_ENDPOINT"], "HF_ENDPOINT"
    offline = next((name for name in _OFFLINE if environ.get(name)), "")
    if _is_true(environ.get(offline)):
        values["offline"], origins["offline"] = True, offline
    variable = next((name for name in _TOKEN if environ.get(name)), "")
    if token := environ.get(variable, "").strip():
        values["token"], origins["token"] = token, variable
    elif not _is_true(environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        # There is no login if the file is missing, belongs to another user or is no text, or if
        # there is no home.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            file = _login_file(environ)
            if token := token_in(file):
                values["token"], origins["token"] = token, f"huggingface_hub's login, {file}"
    return Layer(values, lambda name: origins[name])


def token_in(file: Path) -> str:
    """Return the token in a file, with the byte order mark that it may begin with.

    Raises OSError for a file that can't be read and ValueError for one that is no text.
    """
    content = file.read_bytes()
    if content.startswith(_UTF_16):
        token = content.decode("utf-16").strip()
        return token and BYTE_ORDER_MARK + token
    return content.decode("utf-8").strip()


def _login_file(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{cache}/huggingface"
    file = environ.get("HF_TOKEN_PATH") or f"{home}/token"
    return Path(os.path.expandvars(file)).expanduser()


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in _TRUE
