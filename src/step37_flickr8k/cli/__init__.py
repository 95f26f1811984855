"""The command: the only module that prints, sets up logging and turns errors into exit codes."""

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from step37_flickr8k import __version__
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import (
    InvalidSettings,
    Terminated,
    TransientError,
    exit_code_of,
    message_of,
)
from step37_flickr8k.report.progress import CLEAR, count_rows, display, terminal
from step37_flickr8k.settings import Loaded, WarmupSettings, contradictions, load_settings
from step37_flickr8k.settings.reference import describe_settings, flags, json_schema
from step37_flickr8k.signals import ignore_sigterm, raise_signals

__all__ = ["main", "run"]

log = logging.getLogger("step37_flickr8k")

_PREVIEWED = {
    "split",
    "sample_count",
    "caption_key",
    "cache_dir",
    "log_level",
    "log_format",
    "progress",
}
# Kubernetes' name of the file that becomes a pod's termination message
_MESSAGE = "termination-log"
_MESSAGE_SIZE = 4096  # bytes that it keeps, the last ones: half a JSON object
_EXITS = """exit codes: 0 done; 2 configuration: change something first; 75 transient: run it again;
76 rank 0 was lost or never met: start this rank again; 143 ended by SIGTERM; 1 a bug."""
_BUG = ": this is a bug: run it again with --log-level debug, and tell us what that says"


def main() -> NoReturn:
    """Run the command and end the process.

    At once: a thread that waits in torch's store would abort the interpreter's own shutdown and
    spoil the exit code.
    """
    # A lost store is said by us, in one line, not in C++ stack frames
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    raise_signals()
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - closed by `>&-`
    code = run()
    with contextlib.suppress(OSError):  # what can't be printed was said, or its reader has gone
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except (Exception, KeyboardInterrupt, Terminated) as error:  # noqa: BLE001 - one that nobody foresaw is a line, too
        _say(error)
        return exit_code_of(error)
    finally:
        log.handlers.clear()
    return code


def _say(error: BaseException) -> None:
    name = "" if isinstance(error, KeyboardInterrupt | Terminated) else f"{type(error).__name__}: "
    is_bug = exit_code_of(error) == 1
    message = f"{name}{message_of(error)}{_BUG if is_bug else ''}"
    if log.handlers:
        log.error("%s", message)
        log.debug("where it happened", exc_info=error)
        return
    if is_bug:  # before there is a log level
        traceback.print_exception(error)
    print(f"step37-flickr8k: {message}", file=sys.stderr)


# --- the commands ---------------------------------------------------------------------------------


def _warmup(parsed: argparse.Namespace) -> int:
    settings = _load(parsed).settings
    world = World.from_environment(os.environ)
    _set_up_logging(settings, world)
    log.info(
        "%s, step37-flickr8k %s, %s split %s",
        world.describe(),
        __version__,
        settings.repo_id,
        settings.split,
    )

    from step37_flickr8k.cluster.stores import job_group  # noqa: PLC0415
    from step37_flickr8k.job.warmup import Warmup  # noqa: PLC0415
    from step37_flickr8k.report.model import beginning, failure  # noqa: PLC0415
    from step37_flickr8k.report.recorder import Recorder  # noqa: PLC0415 - whatever is wrong so far is said before anything heavy loads

    # What is loaded by now stays: looking through it again and again costs a twentieth of the fetch
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    recorder = Recorder(display(settings, world))
    report = beginning(settings, world)
    job = Warmup(settings, world)
    try:
        result, rows = job.run(job_group(world), recorder)
    except BaseException as error:
        report |= failure(error, world, recorder.state) | job.done.value()
        raise
    else:
        report |= {"ok": True, "exit_code": 0, **result, "ready_rows": len(rows)}
        how = "the cache was warm" if result["warm"] else f"{result['files']:,} files fetched"
        if result["skipped"]:
            log.warning("left out, since they can't be decoded: %s", _few(result["skipped"]))
        log.info(
            "ready: %s at commit %s; %s",
            count_rows(len(rows), result["rows"] - len(rows)),
            result["commit"],
            how,
        )
    finally:
        ignore_sigterm()
        recorder.close()
        if world.rank == 0:
            _write_report(report | recorder.value() | report, settings)
    return 0


def _few(names: Collection[str]) -> str:
    return listed(names, more="more (all are in the report)")


def _plan(parsed: argparse.Namespace) -> int:
    settings = _load(parsed).settings
    _set_up_logging(settings, World.from_environment({}))
    from step37_flickr8k.job.warmup import Warmup  # noqa: PLC0415 - imports the HTTP client

    plan = Warmup(settings, World.from_environment({})).plan()
    if parsed.json:
        _print(json.dumps(plan, indent=2))
    elif plan["warm"]:
        _print(
            f"nothing to do: {plan['cache_dir']} holds all {plan['rows']:,} rows at commit {plan['commit']}"
        )
    else:
        _print(f"commit    {plan['commit']}")
        _print(f"rows      {plan['rows']:,} with {plan['files']:,} images")
        _print(
            f"to fetch  {plan['fetch']:,} images, {plan['bytes'] / 1e6:,.1f} MB, into {plan['cache_dir']}"
        )
        _print(f"requests  {plan['requests']:,} to the Hub, {plan['mode']}")
        if plan["wait"]:
            quota = f"{plan['quota']['limit']:,} requests in {plan['quota']['window']:.0f} s"
            _print(f"quota     {quota}: expect to wait {plan['wait']:.0f} s")
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    settings = _load(parsed).settings
    _set_up_logging(settings, World.from_environment({}))
    from step37_flickr8k.job.warmup import Warmup  # noqa: PLC0415 - imports the HTTP client

    def tell(found: dict[str, Any]) -> None:
        for name in found["foreign"]:
            log.info("foreign: %s is no file of the dataset", name)
        if parsed.json:
            _print(json.dumps(found, indent=2))

    found = Warmup(settings, World.from_environment({})).verify(tell, repair=parsed.repair)
    mended = f", {found['repaired']:,} of them fetched again" if found["repaired"] else ""
    if not parsed.json:
        _print(f"{found['files']:,} files, all right{mended}")
    return 0


def _status(parsed: argparse.Namespace) -> int:
    settings = _load(parsed).settings
    _set_up_logging(settings, World.from_environment({}))
    from step37_flickr8k.diagnostics import status  # noqa: PLC0415

    root = settings.cache_dir.absolute()
    splits = status.status(root)
    _print(
        json.dumps(status.as_value(root, splits), indent=2)
        if parsed.json
        else "\n".join(status.as_lines(root, splits))
    )
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from step37_flickr8k.report import model as report  # noqa: PLC0415 - imports rich
    from step37_flickr8k.report import text as report_text  # noqa: PLC0415

    if parsed.json_schema:
        _print(json.dumps(report.json_schema(), indent=2))
        return 0
    if parsed.file is None:
        raise InvalidSettings(
            "no report is named: name the file that warmup --report wrote, or - for stdin"
        )
    read = report.read_report(parsed.file)
    if parsed.html is not None:
        from step37_flickr8k.report import html as report_page  # noqa: PLC0415
        from step37_flickr8k.report import page  # noqa: PLC0415 - imports jinja2

        page.write(parsed.html, report_page.report_page(read))
    _print(report_text.report_as_text(read, sys.stdout))
    return 0


def _preview(parsed: argparse.Namespace) -> int:
    settings, world = _load(parsed).settings, World.from_environment({})
    _set_up_logging(settings, world)
    from step37_flickr8k.diagnostics import preview  # noqa: PLC0415
    from step37_flickr8k.report import page  # noqa: PLC0415 - imports jinja2

    for file in (parsed.output, parsed.png):
        if file is not None:
            page.try_out(file)
    show = display(settings, world)
    try:
        made = preview.preview(settings, show)
    finally:
        show.close()
    page.write(parsed.output, made.page())
    if parsed.png is not None:
        page.write(parsed.png, made.sheet())
    without = f", {made.bad:,} without a picture" if made.bad else ""
    log.info("%s shows %s rows%s", parsed.output, f"{made.shown + made.bad:,}", without)
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    settings, world = _load(parsed).settings, World.from_environment(os.environ)
    _set_up_logging(settings, world)
    from step37_flickr8k.cluster.stores import job_group  # noqa: PLC0415
    from step37_flickr8k.diagnostics import doctor, doctor_text  # noqa: PLC0415

    found: list[doctor.Finding] = []
    for part in doctor.examine(
        settings, world, job_group(world), contradictions(file=parsed.settings, environ=os.environ)
    ):
        found += part
        if world.rank == 0 and not parsed.json:  # at once: it may be long until the others come
            _print(doctor_text.findings_as_text(part, sys.stdout))
    if world.rank != 0:
        return 0  # what it found is told by rank 0, whose code speaks for all
    if parsed.json:
        _print(json.dumps([vars(finding) for finding in found], indent=2))
    return 2 if any(finding.state == "problem" for finding in found) else 0


def _settings(parsed: argparse.Namespace) -> int:
    if parsed.json_schema:
        _print(json.dumps(json_schema(), indent=2))
        return 0
    rows = [("setting", "value", "from"), *describe_settings(_load(parsed))]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        _print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0


def _hub(parsed: argparse.Namespace) -> int:
    from step37_flickr8k import localhub  # noqa: PLC0415 - imports the HTTP server

    def say(hub: localhub.LocalHub) -> None:
        print(
            f"serving {parsed.directory} as {parsed.repo_id} at commit {hub.commit}; Ctrl-C ends it",
            file=sys.stderr,
        )
        _print(f"export HF_ENDPOINT={hub.endpoint}")

    where = {"host": parsed.host, "port": parsed.port, "parquet": parsed.parquet}
    hub = localhub.LocalHub(parsed.directory, repo_id=parsed.repo_id, **where)
    if parsed.delay:
        hub.faults.add(localhub.Fault.delay(parsed.delay))
    try:
        localhub.run(hub, on_ready=say)
    except OSError as error:
        raise InvalidSettings(f"can't serve {parsed.directory}: {error}") from error
    return 0


# --- the command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="step37-flickr8k",
        description="Fill a shared cache with an image-caption dataset of the Hugging Face Hub before training starts.",
        epilog=_EXITS,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about, reads in (
        (
            "warmup",
            _warmup,
            "the job: rank 0 downloads, the others wait, all read (run it on every rank)",
            None,
        ),
        ("plan", _plan, "what warmup would do: files, bytes, requests; downloads no image", None),
        (
            "verify",
            _verify,
            "hash the cache again and compare it with its manifest; --repair mends it",
            None,
        ),
        (
            "status",
            _status,
            "what the cache directory holds, and who is filling it right now; asks nobody",
            {"cache_dir"},
        ),
        (
            "preview",
            _preview,
            "the samples of a warm cache as a page with a search box, and as a picture",
            _PREVIEWED,
        ),
        (
            "doctor",
            _doctor,
            "checks what usually goes wrong, with a remedy for each; as two ranks on two nodes the directory, too",
            None,
        ),
        ("settings", _settings, "the settings in force and where each came from", None),
    ):
        # no abbreviations: --token would be taken for --token-file, and the secret for a path that
        # is then shown
        command = commands.add_parser(
            name, help=about, description=about, epilog=_EXITS, allow_abbrev=False
        )
        command.add_argument("--token", action=_RefuseToken, help=argparse.SUPPRESS)
        command.set_defaults(run=run)
        command.add_argument(
            "--settings", metavar="FILE", type=Path, help="YAML or TOML file with settings"
        )
        for flag in flags():
            if reads is not None and flag.setting not in reads:
                continue
            if flag.takes_value:
                command.add_argument(
                    flag.flag,
                    dest=flag.setting,
                    help=flag.help,
                    choices=flag.choices,
                    metavar=None if flag.choices else flag.setting.upper(),
                )
            else:
                command.add_argument(
                    flag.flag,
                    dest=flag.setting,
                    help=flag.help,
                    action="store_const",
                    const=True,
                )
        if name in {"plan", "verify", "status", "doctor"}:
            command.add_argument("--json", action="store_true", help="print JSON")
        if name == "preview":
            command.add_argument(
                "--output",
                type=Path,
                default="preview.html",
                help="the page (default: %(default)s)",
            )
            command.add_argument(
                "--png", type=Path, metavar="FILE", help="the first pictures as PNG, too"
            )
        if name == "verify":
            command.add_argument(
                "--repair",
                action="store_true",
                help="fetch again what is missing or wrong, and only that",
            )
        if name == "settings":
            command.add_argument(
                "--json-schema", action="store_true", help="print the JSON schema of the settings"
            )
    about = "what a run did, from the report that rank 0 wrote: states, throughput, retries, ranks, slowest files"
    report = commands.add_parser("report", help=about, description=about, allow_abbrev=False)
    report.set_defaults(run=_report)
    report.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="the report's JSON; - for stdin"
    )
    report.add_argument(
        "--html", type=Path, metavar="PAGE", help="write it as a page, too, with small plots"
    )
    report.add_argument(
        "--json-schema", action="store_true", help="print the JSON schema of reports"
    )
    hub = commands.add_parser(
        "hub", help="serve a directory as a Hub dataset repository, for rehearsals and tests"
    )
    hub.set_defaults(run=_hub)
    hub.add_argument(
        "directory", type=Path, help="directory that holds <split>/metadata.csv and the images"
    )
    hub.add_argument(
        "--repo-id", default="intro/flickr8k", help="name of the repository (default: %(default)s)"
    )
    hub.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    hub.add_argument(
        "--port", type=_port, default=0, help="port to listen on (default: a free one)"
    )
    hub.add_argument(
        "--parquet",
        type=Path,
        help="directory to serve as its Parquet conversion: default/<split>/*.parquet",
    )
    hub.add_argument(
        "--delay",
        type=float,
        default=0.0,
        help="seconds that every request waits, as a far Hub's would",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is no port: choose one up to 65535, or 0 for any free one"
        )
    return int(text)


class _RefuseToken(argparse.Action):
    """Say where a token belongs, without repeating it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            "there is no --token, since all users see command lines: use --token-file, STEP37_TOKEN or HF_TOKEN"
        )


def _load(parsed: argparse.Namespace) -> Loaded:
    given = {
        flag.setting: value
        for flag in flags()
        if (value := getattr(parsed, flag.setting, None)) is not None
    }
    return load_settings(given, file=parsed.settings, environ=os.environ)


# --- what is printed ------------------------------------------------------------------------------


def _print(text: str) -> None:
    """Print to stdout at once; raises `TransientError` where that takes nothing. A reader that has gone has what it wanted."""
    try:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)
    except OSError as error:
        raise TransientError(
            f"nothing can be printed: {error.strerror}: look at where stdout goes"
        ) from error


def _write_report(report: dict[str, Any], settings: WarmupSettings) -> None:
    file, text = settings.report, json.dumps(report, indent=2)
    try:
        # where logs are JSON, a pod's say, they and this are one stream: a line each
        _print(json.dumps(report) if settings.log_format == "json" else text)
    # The cache is warm all the same, or what went wrong counts more
    except TransientError as error:
        log.error("the report: %s", error)  # noqa: TRY400 - the reason is enough
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                _abridged(report) if file.name == _MESSAGE else text + "\n", encoding="utf-8"
            )
        except OSError as error:
            log.error(  # noqa: TRY400 - the reason is enough
                "the report can't be written to %s: %s", file, error.strerror
            )


def _abridged(report: dict[str, Any]) -> str:
    """Give the report as JSON that Kubernetes doesn't cut: the longest parts are shortened, and "cut" names them."""
    parts = dict(report)
    while len(text := json.dumps(parts)) > _MESSAGE_SIZE:
        name = max(parts, key=lambda name: len(json.dumps(parts[name])))
        less = _thinned(parts[name]) if name == "timeline" else _less(parts[name])
        parts |= {name: less, "cut": sorted({*parts.get("cut", []), name})}
    return text


def _thinned(points: list[Any]) -> list[Any]:
    """Give every other point and the last one: it is still the whole run."""
    return [*points[:-1:2], points[-1]]


def _less(value: Any) -> Any:
    """Give half of a text, a list or a mapping; of ranks, first only those that didn't say ok."""
    if isinstance(value, str | list):
        return value[: len(value) // 2]
    telling = {k: v for k, v in value.items() if not (isinstance(v, dict) and v.get("ok"))}
    return telling if len(telling) < len(value) else dict([*value.items()][: len(value) // 2])


def _set_up_logging(settings: Any, world: World) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter(world, CLEAR if terminal(settings) else "")
    handler.setFormatter(_JsonFormatter(world) if settings.log_format == "json" else text)
    log.handlers[:] = [handler]
    log.setLevel(settings.log_level.upper())


class _TextFormatter(logging.Formatter):
    def __init__(self, world: World, before: str = "") -> None:
        super().__init__(
            f"{before}%(asctime)s {world.label} %(levelname)s %(message)s", datefmt="%H:%M:%S"
        )


class _JsonFormatter(logging.Formatter):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def format(self, record: logging.LogRecord) -> str:
        """Give one line of JSON."""
        place = {
            "host": self._world.host,
            "node": self._world.node_rank,
            "rank": self._world.rank,
            "world_size": self._world.size,
        }
        fields = {
            "time": record.created,
            "level": record.levelname.lower(),
            **place,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
