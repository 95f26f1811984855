"""The job's settings, validated before anything else happens; the only reader of the environment besides ``world.py``.

Strongest first: command line, ``STEP37_*`` variables, settings file, the Hub's own variables (``HF_ENDPOINT``, ``HF_TOKEN``...),
defaults.
"""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from step37_flickr8k.errors import InvalidSettings

__all__ = [
    "Loaded",
    "WarmupSettings",
    "contradictions",
    "describe_settings",
    "flags",
    "json_schema",
    "library_settings",
    "load_settings",
    "settings_table",
]

log = logging.getLogger("step37_flickr8k")

PREFIX = "STEP37_"
# known, but no fields: two belong to the world, the third names a file
_OTHERS = {"STEP37_RUN_ID", "STEP37_NODE_NAME", "STEP37_SETTINGS"}
_TRUE = {"1", "on", "yes", "true"}
_SECRET = {"token", "headers"}
_SELECTION = {"repo_id", "revision", "split", "sample_count", "caption_key", "cache_dir", "bad_images"}


def _number(value: object) -> object:
    if isinstance(value, bool):  # YAML's `yes` and `on`
        raise ValueError("not a number")  # noqa: TRY004 - pydantic's sign
    return value


def _rows(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in {"all", "null", "none"} else _number(value)


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
    if not urlsplit(value).hostname or urlsplit(value).port == 0:  # raises ValueError itself for what is no host or port
        raise ValueError("no host, or no port that can be")
    return value.rstrip("/")


def _token(value: SecretStr | None) -> SecretStr | None:
    """Refuse what can't be sent: an HTTP client would put the whole header into its error."""
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("empty, or holds white space or characters outside of ASCII")
    return value


def _headers(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("no JSON object") from None
    if isinstance(value, dict) and not all(
        re.fullmatch(r"[A-Za-z0-9-]+", str(name)) and re.fullmatch(r"[ -~]*", str(text)) for name, text in value.items()
    ):
        raise ValueError("a name or value can't be sent: letters, digits and - in names, ASCII in values")
    return value


def _visible(value: str) -> str:
    if not value.strip():
        raise ValueError("empty")
    return value


def _place(value: object) -> object:
    """Expand ``~``; an empty path would be the current folder."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("empty")
    try:
        return Path(value).expanduser() if isinstance(value, str | Path) else value
    except RuntimeError as error:  # no such user, or no HOME
        raise ValueError(str(error)) from None


_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_RepoId = Annotated[str, Field(max_length=96), _matching(rf"(?!.*--)(?!.*\.git$)({_NAME}/)?{_NAME}")]
_Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=7 * 86400)]


class WarmupSettings(BaseModel):
    """Everything the job can be told; keyword arguments alone are read here, see `load_settings` for the other sources."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    repo_id: _RepoId = Field("intro/flickr8k", description="dataset repository on the Hub, `namespace/name`")
    revision: Annotated[str | None, _matching(r"[^\s:?*\[\\^~]+")] = Field(
        "main", description="branch, tag or commit; a commit pins the bytes and asks the Hub nothing"
    )
    split: Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*")] = Field(
        "train", description="folder of the repository that holds `metadata.csv` and the images: one plain name"
    )
    sample_count: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_rows)] = Field(
        None, description="how many rows from the top, at least 1, or `all`"
    )
    caption_key: Annotated[str, AfterValidator(_visible)] = Field("caption_0", description="column of the captions, not empty")
    cache_dir: Annotated[Path, BeforeValidator(_place)] = Field(
        Path(".cache/step37_flickr8k"), description="folder to fill, on a file system that all ranks share"
    )
    cache_scope: Literal["shared", "node"] = Field(
        "shared", description="`shared`: one folder for all nodes; `node`: each node has its own, and one downloader"
    )
    endpoint: Annotated[str | None, AfterValidator(_endpoint)] = Field(
        None,
        description="address of the Hub or of a mirror, http or https, without credentials; default: the public Hub",
    )
    token: Annotated[SecretStr | None, AfterValidator(_token)] = Field(
        None, description="token for a private or gated repository; no flag, since command lines are public"
    )
    token_file: Annotated[Path | None, BeforeValidator(_place)] = Field(
        None, description="readable file that holds the token and nothing else"
    )
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_headers)] = Field(
        {}, description="further HTTP headers for the endpoint alone, as a JSON object; no flag, since they may be secrets"
    )
    offline: bool = Field(False, description="never ask the Hub: take what the cache holds, or fail")
    fetch_mode: Literal["auto", "files", "parquet"] = Field(
        "auto",
        description="`files`: a request per image; `parquet`: the split's Parquet conversion in a few requests, if there is "
        "one and pyarrow is installed; `auto`: Parquet when most of it is wanted",
    )
    bad_images: Literal["skip", "error"] = Field(
        "skip",
        description="images that can't be decoded: `skip` leaves their rows out on every rank and names them, `error` refuses "
        "the selection",
    )
    concurrency: Annotated[int, BeforeValidator(_number)] = Field(
        64, ge=1, le=1024, description="files in flight at once, 1 to 1024"
    )
    attempts: Annotated[int, BeforeValidator(_number)] = Field(
        8, ge=1, le=100, description="tries for each file before it is given up, 1 to 100"
    )
    connect_timeout: _Seconds = Field(10, description="seconds to connect to the Hub; also `90s`, `15m`, `1h`")
    read_timeout: _Seconds = Field(30, description="seconds without a byte after which a file is tried again")
    arrival_timeout: _Seconds = Field(
        900, description="seconds to wait for rank 0 to appear: as long as a queue may delay a node"
    )
    heartbeat_timeout: Annotated[_Seconds, Field(ge=1)] = Field(
        30,
        description="seconds of silence, at least 1, after which rank 0 is lost: longer than any pause of a healthy node",
    )
    stall_timeout: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = Field(
        600, description="seconds without progress, though alive, after which rank 0 has stalled; 0 is off"
    )
    visibility_timeout: _Seconds = Field(
        120,
        description="seconds for every node to see what rank 0 published: longer than a file system caches what is missing",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or a JSON object a line for machines")
    progress: Literal["auto", "on", "off"] = Field(
        "auto", description="`auto` draws a bar on a terminal and writes lines elsewhere"
    )
    report: Annotated[Path | None, BeforeValidator(_place)] = Field(
        None,
        description="file that rank 0 writes its JSON report to, besides printing it; one called `termination-log`, a pod's "
        "message, gets at most 4,096 bytes",
    )


@dataclass(frozen=True)
class Loaded:
    """Settings and, by name, where each value came from."""

    settings: WarmupSettings
    origins: Mapping[str, str]


@dataclass(frozen=True)
class _Layer:
    """One source: its values by setting, and how it calls a setting."""

    values: Mapping[str, object]
    origin: Callable[[str], str]


def load_settings(flags: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str]) -> Loaded:
    """Read and validate every source; raises `InvalidSettings` with a line for each problem."""
    problems = [f"{name}: no such setting{_guess(name, _variables())}" for name in _unknown_variables(environ)]
    layers, wrong = _layers(_named_file(file, environ), environ)
    return _validated([*layers, _Layer(flags, _flag)], [*problems, *wrong])


def _layers(file: Path | None, environ: Mapping[str, str]) -> tuple[list[_Layer], list[str]]:
    """Give what huggingface_hub's variables, the file and ours say, weakest first, and a line for each wrong key of the file."""
    values = _read_file(file) if file is not None else {}
    wrong = [f"{key}: no such setting in {file}{_guess(key, _fields())}" for key in values if key not in _fields()]
    told = _Layer({name: value for name, value in values.items() if name in _fields()}, lambda _: str(file))
    return [_hub_layer(environ), told, _environment_layer(environ)], wrong


def contradictions(*, file: Path | None = None, environ: Mapping[str, str]) -> list[str]:
    """Name the settings to which the environment gives another value than the settings file, and say which one holds.

    To be asked after `load_settings`, which raises for what is wrong.
    """
    file = _named_file(file, environ)
    told = _read_file(file) if file is not None else {}
    found = []
    for layer, holds in ((_hub_layer(environ), str(file)), (_environment_layer(environ), "the environment")):
        for name, value in layer.values.items():
            if name in told and _understood(name, value) != _understood(name, told[name]):
                here, there = ("", "") if name in _SECRET else (f" is {value}", f" is {told[name]}")
                found.append(f"{name}{here} by {layer.origin(name)} and{there or ' another'} in {file}: that of {holds} holds")
    return found


def _understood(name: str, value: object) -> object:
    with contextlib.suppress(ValidationError):  # one that is overridden was never looked at
        return getattr(WarmupSettings(**{name: value}), name)
    return value


def library_settings(selection: Mapping[str, object], environ: Mapping[str, str]) -> Loaded:
    """Take the selection from a call's arguments, the rest from the environment and from the file that ``STEP37_SETTINGS`` names.

    An unknown ``STEP37_`` variable is a warning here: in a training job the prefix may belong to others, too.
    """
    for name in _unknown_variables(environ):
        log.warning("%s is no setting of step37-flickr8k%s", name, _guess(name, _variables()))
    layers, wrong = _layers(_named_file(None, environ), environ)
    rest = [_Layer({name: each.values[name] for name in each.values.keys() - _SELECTION}, each.origin) for each in layers]
    return _validated([*rest, _Layer(selection, lambda _: "the call")], wrong)


def describe_settings(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Give (setting, value, origin) of every setting, secrets masked."""
    values = {name: getattr(loaded.settings, name) for name in _fields()}
    return [
        (name, "all" if (name, value) == ("sample_count", None) else str(value), loaded.origins[name])
        for name, value in values.items()
    ]


def json_schema() -> dict[str, Any]:
    """Give the JSON schema of the settings."""
    return WarmupSettings.model_json_schema()


def settings_table() -> str:
    """Give the Markdown table of the README."""
    lines = ["| setting | flag | environment | default | meaning |", "|---|---|---|---|---|"]
    for name, field in WarmupSettings.model_fields.items():
        flag = "" if name in _SECRET else f"`{_flag(name)}`"
        default = {"None": "", "600.0": "600", "{}": "", "False": "false"}.get(str(field.default), str(field.default))
        default = "`all`" if name == "sample_count" else default and f"`{default}`"
        lines.append(f"| `{name}` | {flag} | `{_variable(name)}` | {default} | {field.description} |")
    return "\n".join(lines)


def flags() -> Iterator[tuple[str, str, str, tuple[str, ...] | None]]:
    """Give (setting, flag, help, choices) of every flag; secrets have none, since command lines are public.

    A flag without a value has no choices at all, ``()``; one with any value has None.
    """
    for name, field in WarmupSettings.model_fields.items():
        if name not in _SECRET:
            choices = get_args(field.annotation) if field.annotation in _CHOICES else None
            choices = () if field.annotation is bool else choices
            default = "all" if name == "sample_count" else field.default
            shown = "" if default is None else f" (default: {default})"
            yield name, _flag(name), f"{field.description}{shown}".replace("%", "%%").replace("`", ""), choices


_CHOICES = [field.annotation for field in WarmupSettings.model_fields.values() if get_origin(field.annotation) is Literal]


def _fields() -> list[str]:
    return list(WarmupSettings.model_fields)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _variables() -> list[str]:
    return [*map(_variable, _fields()), *sorted(_OTHERS)]


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environ if name.upper().startswith(PREFIX) and name not in _variables())


def _guess(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only when something is wrong

    bare = {each.removeprefix(PREFIX): each for each in known}
    close = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return f": did you mean {bare[close[0]]}?" if close else f": known are {', '.join(known)}"


def _environment_layer(environ: Mapping[str, str]) -> _Layer:
    return _Layer({name: environ[_variable(name)] for name in _fields() if environ.get(_variable(name))}, _variable)


def _hub_layer(environ: Mapping[str, str]) -> _Layer:
    """Read what users of huggingface_hub have set anyway."""
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    if environ.get("HF_ENDPOINT"):
        values["endpoint"], origins["endpoint"] = environ["HF_ENDPOINT"], "HF_ENDPOINT"
    if environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        values["offline"], origins["offline"] = True, "HF_HUB_OFFLINE"
    if environ.get("HF_TOKEN"):
        values["token"], origins["token"] = environ["HF_TOKEN"].strip(), "HF_TOKEN"
    elif environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() not in _TRUE:
        home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
        # none there, another user's home, HF_HOME as `hf auth login` leaves it, no text, no home at all: no login
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            path = Path(environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
            if token := path.read_text(encoding="utf-8").strip():
                values["token"], origins["token"] = token, "huggingface_hub's login"
    return _Layer(values, lambda name: origins[name])


def _named_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get("STEP37_SETTINGS")
    return Path(named) if file is None and named else file


def _read_file(file: Path) -> dict[str, object]:
    if file.suffix not in {".yaml", ".yml", ".toml"}:
        raise InvalidSettings(f"settings file {file}: {file.suffix or 'no ending'} is not known: name it .yaml, .yml or .toml")
    try:
        values = _parse(file.read_text(encoding="utf-8"), file.suffix)
    except FileNotFoundError:
        raise InvalidSettings(f"settings file {file} is not there: correct --settings or STEP37_SETTINGS") from None
    except Exception as error:  # noqa: BLE001 - each parser has its own tree of errors
        raise InvalidSettings(f"settings file {file} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InvalidSettings(f"settings file {file} holds no settings: write a line for each, as in sample_count: 8")
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _parse(text: str, ending: str) -> object:
    if ending == ".toml":
        if sys.version_info >= (3, 11):
            import tomllib  # noqa: PLC0415 - only for whom has such a file
        else:
            import tomli as tomllib  # noqa: PLC0415
        return tomllib.loads(text)
    import yaml  # noqa: PLC0415

    return yaml.safe_load(text) or {}


def _validated(layers: list[_Layer], problems: list[str]) -> Loaded:
    values: dict[str, object] = {}
    origins = dict.fromkeys(_fields(), "default")
    strongest = ""  # of token and token_file
    for layer in layers:
        given = {name: value for name, value in layer.values.items() if (name, value) != ("token_file", None)}
        for name, value in given.items():
            values[name], origins[name] = value, layer.origin(name)
        if {"token", "token_file"} <= given.keys():
            problems.append(f"token and token_file are both set by {layer.origin('token')} and its like: keep one")
        strongest = next((name for name in ("token_file", "token") if name in given), strongest)
    if strongest == "token_file":
        token, problem = _read_token(values["token_file"])
        values["token"], origins["token"] = token, origins["token_file"]
        problems += [f"token_file: {problem} ({origins['token_file']})"] if problem else []
    settings = None
    try:
        settings = WarmupSettings(**values)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        problems += [_explain(str(each["loc"][0]), each["msg"], values, origins) for each in told]
    if problems or settings is None:
        raise InvalidSettings("\n".join(problems)) from None
    return Loaded(settings, origins)


def _read_token(named: object) -> tuple[str | None, str]:
    try:
        file = Path(str(_place(named)))
    except ValueError:  # which is said of the setting itself
        return None, ""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        return (
            None,
            f"{file} can't be read ({getattr(error, 'strerror', None) or 'it is no text'}): name a file with the token",
        )
    return (token, "") if token else (None, f"{file} is empty: put the token into it")


def _explain(name: str, message: str, values: Mapping[str, object], origins: Mapping[str, str]) -> str:
    """Name the setting, its value (no secret's), where it came from, what is wrong and what is right."""
    if name not in _fields():
        return f"{name}: no such setting{_guess(name, _fields())}"
    value = re.sub(r"//[^/]*@", "//***@", repr(values.get(name)))
    shown = "" if name in _SECRET else f"={value}"
    what = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name}{shown} ({origins[name]}) is wrong: {what}; {name} is {WarmupSettings.model_fields[name].description}"
