"""The documents say what the code does."""

import argparse
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import step37_flickr8k
from step37_flickr8k import errors
from step37_flickr8k.cli.parser import build_parser
from step37_flickr8k.cluster.protocol import messages
from step37_flickr8k.settings.names import variables
from step37_flickr8k.settings.reference import settings_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FOLDERS = {
    "benchmarks",
    "demo",
    "docs",
    "examples",
    "k8s",
    "requirements",
    "slurm",
    "src",
    "tests",
    "tools",
}
TREE = [file for directory in FOLDERS for file in (ROOT / directory).glob("**/*")]
(COMMANDS,) = (
    action.choices
    for action in build_parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)
FLAGS = {flag for command in COMMANDS.values() for flag in command._option_string_actions}
ERRORS = {name: value for name, value in vars(errors).items() if hasattr(value, "exit_code")}
# flags, and names that look like those of our errors, of others
OTHERS = """
    tar: --format; examples/train.py: --tokenizer; torchrun: --local-addr --standalone
    accelerate and transformers: PartialState TrainingArguments
    Python, torch and HTTP: RuntimeError DistributedSampler RateLimit
    SLURM: --array --container-env --dependency --exclusive --kill-on-bad-exit
    --kill-on-invalid-dep --no-kill --nodelist --signal --open-mode --requeue --time --wait BatchHost JobRequeue KillOnBadExit WaitTime
    Kubernetes: ContainerCreating DeadlineExceeded DoNotSchedule ErrImageNeverPull ErrImagePull FailedIndexes FailedMount
    FileSystemId MaxFailedIndexesExceeded MountName NotReady PersistentVolume PodFailurePolicy ScheduleAnyway SuccessCriteriaMet
    FailedCreate TrainJob TrainingRuntime
"""
PUBLIC = [getattr(step37_flickr8k, name) for name in step37_flickr8k.__all__]
KNOWN = {
    *FLAGS,
    *ERRORS,
    *step37_flickr8k.__all__,
    *messages.__all__,
    *re.findall(r"[\w-]+", OTHERS),
}


def first_cells(heading: str, text: str = README) -> list[str]:
    """Give the first column of the table whose first column has this heading."""
    rows = text.partition(f"\n| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [row.removeprefix("| ").partition(" | ")[0] for row in rows]


def stale(span: str) -> list[str]:
    """Give what a piece of code in a sentence calls ours, and isn't there."""
    first = span.partition(" ")[0]
    flags = (
        re.findall(r"(?<!\S)--[a-z-]+", span) if first.startswith("--") or first in COMMANDS else []
    )
    names = re.findall(r"^(?:[A-Z][a-z0-9]+){2,}\b", span)
    paths = re.findall(r"(?<![\w./<-])\w[\w./-]*(?![\w./<*-])", span)
    return [name for name in flags + names if name not in KNOWN] + [
        path for path in paths if not is_there(path)
    ]


def is_there(path: str) -> bool:
    """Tell whether a path of the repository is there, whole or its end alone (`lease.py`, `overlays/cron`), or this is none."""
    top = path.partition("/")[0]
    if top in FOLDERS and "/" in path:
        return (ROOT / path).exists()
    return not (path.endswith((".py", ".sbatch", "/")) or top == "overlays") or any(
        file.match(path) for file in TREE
    )


def test_the_settings_shown_are_the_real_ones() -> None:
    """The table is the one that the code generates."""
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert shown.strip() == settings_table(), "put the output of settings_table() between the marks"


def test_the_readmes_exit_codes_are_the_real_ones() -> None:
    """Each code that the command can end with stands in the table, once, and no other."""
    told = [int(code) for cell in first_cells("exit code") for code in cell.split(", ")]
    assert sorted(told) == sorted(
        {0, errors.exit_code_of(KeyboardInterrupt()), *(each.exit_code for each in ERRORS.values())}
    )


def test_the_readmes_commands_and_errors_are_the_real_ones() -> None:
    """Each subcommand stands in the table of the command, and what that of failures names is an error."""
    assert sorted(first_cells("command")) == sorted(f"`{name}`" for name in COMMANDS)
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    rows = page.partition("\n| it says |")[2].partition("\n\n")[0].splitlines()[2:]
    told = {row.split(" | ")[1].strip("`") for row in rows}
    assert told
    assert told <= ERRORS.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_documents_name_nothing_that_is_not_there(document: Path) -> None:
    """A variable of ours is a real one, and the code in a sentence names only flags, errors and files that are there."""
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"STEP37_[A-Z][A-Z_]*", text)) <= {*variables()}
    sentences = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not [name for span in re.findall(r"`([^`\n]+)`", sentences) for name in stale(span)]


@pytest.mark.parametrize(
    "function",
    [*filter(inspect.isfunction, PUBLIC), step37_flickr8k.Step37Flickr8kDataset.__init__],
)
def test_public_functions_tell_every_parameter(function: Callable[..., object]) -> None:
    """The docstring's Args hold the parameters, in their order, and nothing else."""
    told = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    assert re.findall(r"^    (\w+): ", told, re.MULTILINE) == names


def test_documents_name_no_file_that_is_not_there() -> None:
    """Links between the project's own documents lead somewhere."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(
            r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")
        ):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
