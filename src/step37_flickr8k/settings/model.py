"""The settings model: every setting with its type, its limits, its default and its meaning."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from step37_flickr8k.dataset.selection import MAX_PIXELS, Selection
from step37_flickr8k.settings.hub_variables import BYTE_ORDER_MARK
from step37_flickr8k.settings.meant import as_meant, as_meant_in_a_table, expand_path
from step37_flickr8k.settings.options import FetchOptions, HubOptions

__all__ = ["BEGINS_WITH_A_MARK", "WarmupSettings", "expand_path"]

BEGINS_WITH_A_MARK = (
    "begins with a byte order mark (BOM), which is no part of a token: save it as UTF-8 without one"
)


def _number(value: object) -> object:
    if isinstance(value, bool):  # YAML's `yes` and `on`
        raise ValueError("not a number")  # noqa: TRY004 - pydantic's sign
    return value


def _rows(value: object) -> object:
    return (
        None
        if isinstance(value, str) and value.strip().lower() in {"all", "null", "none"}
        else _number(value)
    )


def _seconds(value: object) -> object:
    value = _number(value)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([smh])\s*", value) if isinstance(value, str) else None
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else value


def _matching(pattern: str) -> AfterValidator:
    def check(value: str | None) -> str | None:
        if value is not None and (not re.fullmatch(pattern, value) or ".." in value):
            raise ValueError("not well formed")
        return value

    return AfterValidator(check)


def _endpoint(value: str | None) -> str | None:
    if value is None:
        return None
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", value):
        raise ValueError("not an http(s) address without credentials")
    # Raises ValueError itself for what is no host or port
    if not urlsplit(value).hostname or urlsplit(value).port == 0:
        raise ValueError("no host, or no port that can be")
    return value.rstrip("/")


def _token(value: SecretStr | None) -> SecretStr | None:
    """Refuse what can't be sent: an HTTP client would put the whole header into its error."""
    secret = value.get_secret_value() if value is not None else ""
    if secret.startswith(BYTE_ORDER_MARK):
        raise ValueError(BEGINS_WITH_A_MARK)
    if secret[:1] in {"'", '"'}:
        raise ValueError("it begins with a quotation mark: leave that out")
    if secret.startswith(("$", "{{", "`")):
        raise ValueError(
            "it begins with $, {{ or `, which nothing has expanded: set the token itself"
        )
    if value is not None and not re.fullmatch(r"[!-~]+", secret):
        raise ValueError("empty, or holds white space or characters outside of ASCII")
    return value


def _headers(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("no JSON object") from None
    if isinstance(value, dict) and not all(
        re.fullmatch(r"[A-Za-z0-9-]+", str(name)) and re.fullmatch(r"[ -~]*", str(text))
        for name, text in value.items()
    ):
        raise ValueError(
            "a name or value can't be sent: letters, digits and - in names, ASCII in values"
        )
    return value


_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_RepoId = Annotated[
    str,
    Field(max_length=96),
    BeforeValidator(as_meant),
    _matching(rf"(?!.*--)(?!.*\.git$)({_NAME}/)?{_NAME}"),
]
_Revision = Annotated[str | None, BeforeValidator(as_meant), _matching(r"[^\s:?*\[\\^~]+")]
_Split = Annotated[str, BeforeValidator(as_meant), _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*")]
_Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=7 * 86400)]


class WarmupSettings(BaseModel):
    """All settings of the job.

    Only keyword arguments are read here; `load_settings` reads the other sources.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    repo_id: _RepoId = Field(
        "intro/flickr8k", description="dataset repository on the Hub, `namespace/name`"
    )
    revision: _Revision = Field(
        "main",
        description=(
            "branch, tag or commit; a commit SHA pins the contents and skips the Hub lookup"
        ),
    )
    split: _Split = Field(
        "train",
        description=(
            "directory of the repository that holds the images and their table, `metadata.csv`, "
            "`.jsonl` or `.parquet`, which may also be at the root: one plain name"
        ),
    )
    sample_count: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_rows)] = Field(
        None, description="number of rows from the top (at least 1), or `all`"
    )
    caption_key: Annotated[str, BeforeValidator(as_meant_in_a_table)] = Field(
        "caption_0", description="column of the captions"
    )
    cache_dir: Annotated[Path, BeforeValidator(expand_path)] = Field(
        Path(".cache/step37_flickr8k"),
        description="directory to download into, on a file system that all ranks share",
    )
    cache_scope: Literal["shared", "node"] = Field(
        "shared",
        description=(
            "`shared`: one directory for all nodes; `node`: a directory and a downloader for "
            "each node"
        ),
    )
    endpoint: Annotated[str | None, BeforeValidator(as_meant), AfterValidator(_endpoint)] = Field(
        None,
        description=(
            "address of the Hub or of a mirror, http or https, without credentials; "
            "default: the public Hub"
        ),
    )
    token: Annotated[SecretStr | None, AfterValidator(_token)] = Field(
        None,
        description=(
            "token for a private or gated repository; it has no flag, since command lines are "
            "public"
        ),
    )
    token_file: Annotated[Path | None, BeforeValidator(expand_path)] = Field(
        None, description="file that holds the token and nothing else"
    )
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_headers)] = Field(
        {},
        description=(
            "further HTTP headers for the endpoint alone, as a JSON object; it has no flag, "
            "since they may be secrets"
        ),
    )
    offline: bool = Field(False, description="never ask the Hub: use what the cache holds, or fail")
    fetch_mode: Literal["auto", "files", "parquet"] = Field(
        "auto",
        description=(
            "`files`: a request for each image; `parquet`: the split's Parquet conversion in a "
            "few requests, if there is one and pyarrow is installed; `auto`: Parquet when most of "
            "it is wanted"
        ),
    )
    bad_images: Literal["skip", "error"] = Field(
        "skip",
        description=(
            "images that can't be decoded: `skip` leaves their rows out on every rank and names "
            "them, `error` refuses the selection"
        ),
    )
    max_pixels: Annotated[int, BeforeValidator(_number)] = Field(
        MAX_PIXELS,
        ge=1,
        description=(
            "most pixels of an image, width times height: larger ones are left out; above the "
            "default Pillow warns, above twice as many its own limit must be raised in the training"
        ),
    )
    concurrency: Annotated[int, BeforeValidator(_number)] = Field(
        64, ge=1, le=1024, description="files in flight at once (1 to 1024)"
    )
    attempts: Annotated[int, BeforeValidator(_number)] = Field(
        8, ge=1, le=100, description="attempts for each request before it fails (1 to 100)"
    )
    connect_timeout: _Seconds = Field(
        10, description="seconds to connect to the Hub; also `90s`, `15m`, `1h`"
    )
    read_timeout: _Seconds = Field(
        30, description="seconds without a byte before a request is retried"
    )
    arrival_timeout: _Seconds = Field(
        900,
        description=(
            "seconds to wait for rank 0 to appear; set it as long as the queue may delay a node"
        ),
    )
    heartbeat_timeout: Annotated[_Seconds, Field(ge=1)] = Field(
        30,
        description=(
            "seconds without a heartbeat before rank 0 is declared lost (minimum 1); set it above "
            "the longest pause you expect from a healthy node"
        ),
    )
    stall_timeout: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = Field(
        600,
        description=(
            "seconds without progress before a living rank 0 is declared stalled; 0 turns it off"
        ),
    )
    visibility_timeout: _Seconds = Field(
        120,
        description=(
            "seconds for every node to see what rank 0 published; set it above the time for which "
            "the file system caches missing names"
        ),
    )
    job_secret_file: Annotated[Path | None, BeforeValidator(expand_path)] = Field(
        None,
        description=(
            "file with a secret of this job, the same for all its ranks, that no other user can "
            "read: they sign what they write to each other, and ignore what isn't signed"
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`text`: lines for people; `json`: one JSON object a line"
    )
    progress: Literal["auto", "on", "off"] = Field(
        "auto", description="`auto`: a bar on a terminal, lines elsewhere"
    )
    report: Annotated[Path | None, BeforeValidator(expand_path)] = Field(
        None,
        description=(
            "file that rank 0 writes its JSON report to, besides printing it; one called "
            "`termination-log`, a pod's message, gets at most 4,096 bytes"
        ),
    )

    def selection(self) -> Selection:
        """Return what is asked for."""
        return Selection(
            repo_id=self.repo_id,
            split=self.split,
            caption_key=self.caption_key,
            sample_count=self.sample_count,
            revision=self.revision,
            max_pixels=self.max_pixels,
        )

    def fetch_options(self) -> FetchOptions:
        """Return how files are fetched."""
        return FetchOptions(
            concurrency=self.concurrency,
            attempts=self.attempts,
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            mode=self.fetch_mode,
        )

    def hub_options(self) -> HubOptions:
        """Return how the Hub is reached."""
        return HubOptions(
            endpoint=self.endpoint,
            token=self.token.get_secret_value() if self.token else None,
            headers={name: value.get_secret_value() for name, value in self.headers.items()},
            offline=self.offline,
        )
