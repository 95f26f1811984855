"""The architecture as data, read from the source where it can be: for the tests and for the docs.

`LAYERS`, `OUTSIDE` and `EXCEPTIONS` are the rules. ``tests/unit/test_architecture.py`` checks the source
against them, ``tools/reference.py`` draws them into ``docs/explanation/architecture.md``.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import step37_flickr8k

__all__ = [
    "APART",
    "DELETES",
    "EXCEPTIONS",
    "FILES",
    "LAYERS",
    "OUTSIDE",
    "PACKAGE",
    "imported_packages",
    "imports_of",
    "layer_sections",
    "module_of",
    "package_of",
    "package_sections",
    "purpose_of",
    "rule_sections",
    "tree_of",
]

PACKAGE = step37_flickr8k.__name__
SOURCE = Path(step37_flickr8k.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
_PACKAGES = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in FILES}

# From the bottom. A package imports only from layers below its own; `APART` imports none of them.
LAYERS = (
    ("visible",),
    ("errors",),
    ("limited",),
    ("dataset", "images", "signals", "threads"),
    ("settings", "cluster"),
    ("cache", "hub", "report"),
    ("download",),
    ("job",),
    ("diagnostics", "flickr8k_loader", "rank_zero"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
# It may be used without the rest; only the command, which starts it, imports it.
APART = "localhub"

# Which packages import a library.
OUTSIDE = {
    "aiohttp": {"hub", "localhub"},
    "huggingface_hub": {"hub"},
    "jinja2": {"report"},
    "PIL": {"images"},
    "pyarrow": {"dataset", "download"},
    "pydantic": {"cache", "cluster", "job", "report", "settings"},
    "rich": {"diagnostics", "report"},
    "torch": {"cluster"},
}

# What deletes, renames, or changes the mode or the owner of a file.
DELETES = {
    "chmod",
    "chown",
    "fchmod",
    "fchown",
    "lchmod",
    "move",
    "remove",
    "removedirs",
    "rename",
    "renames",
    "replace",
    "rmdir",
    "rmtree",
    "unlink",
}


class Rule(NamedTuple):
    """Something that only some packages or modules do, and why others do it all the same."""

    what: str
    who: tuple[str, ...]
    others: dict[str, str]


EXCEPTIONS = {
    "delete": Rule(
        "rename, delete, or change the mode of a file",
        ("cache",),
        {},
    ),
    "write": Rule(
        "create a file or a directory, or open one for writing",
        ("cache",),
        {
            "cli.output": "the directory of the run report that the settings name, outside of the"
            " cache directory, and `/dev/null` for a stream that the shell has closed",
        },
    ),
    "print": Rule(
        "print, or use the standard output",
        ("cli",),
        {
            "dataset.parquet_process": "its pipe to the process that started it",
            "download.worker": "its pipe to the process that started it",
            "hub.download_process": "its pipe to the process that started it",
        },
    ),
    "stderr": Rule(
        "use the standard error",
        ("cli",),
        {"report.display": "the progress bar, if it is a terminal"},
    ),
    "environ": Rule(
        "name `os.environ`",
        ("cli", "flickr8k_loader", "rank_zero"),
        {
            "limited.process": "processes that parse strangers' data inherit a little of it",
            "hub.single_file": "the process that downloads a file inherits it",
            "hub.certificates": "the variable that Python's `ssl` reads by itself",
        },
    ),
    "read the environment": Rule(
        "read a variable out of an environment that it is given",
        ("settings", "cluster.launcher", "cluster.node", "cluster.variables"),
        {},
    ),
}


def module_of(file: Path) -> str:
    """Return a file's module without the package's name: ``cache.lease``, ``cli.__init__``."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


def package_of(file: Path) -> str:
    """Return the package, or the single module, that a file belongs to: ``cache``."""
    return module_of(file).partition(".")[0]


@functools.cache
def tree_of(file: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Return the full names of what a file imports, also in functions and for types alone."""
    return (*_imports(file),)


def _imports(file: Path) -> Iterator[str]:
    # The package that a relative import starts from
    parents = (PACKAGE, *module_of(file).split("."))[:-1]
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_packages(file: Path) -> set[str]:
    """Return the other packages of the project that a file imports.

    The version belongs to nobody: every package may read it.
    """
    found = set()
    for name in imports_of(file):
        top, *rest = name.split(".")
        if top == PACKAGE and name != f"{PACKAGE}.__version__":
            found.add(rest[0] if rest and rest[0] in _PACKAGES else "__init__")
    return found - {package_of(file)}


def purpose_of(package: str) -> str:
    """Return the first paragraph of a package's docstring as one line."""
    file = SOURCE / package / "__init__.py"
    text = ast.get_docstring(tree_of(file if file.exists() else SOURCE / f"{package}.py")) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`")


def _drawn() -> list[tuple[str, ...]]:
    """Return the layers from the top, without the modules that only start others."""
    layers = [tuple(name for name in layer if name[0] != "_") for layer in reversed(LAYERS)]
    return [layer for layer in layers if layer]


# --- for the page ---------------------------------------------------------------------------------


def layer_sections() -> Iterator[str]:
    """Yield the drawing: a row for each layer, the highest first."""
    yield '<div class="layers">'
    for layer in [*_drawn(), (APART,)]:
        kind = "layer apart" if layer == (APART,) else "layer"
        boxes = "".join(f'<a href="#{name}">{name}</a>' for name in layer)
        yield f'<div class="{kind}">{boxes}</div>'
    yield "</div>"


def package_sections() -> Iterator[str]:
    """Yield a section for each package: its purpose, its libraries, what it imports."""
    for package in [*(name for layer in _drawn() for name in layer), APART]:
        files = [file for file in FILES if package_of(file) == package]
        libraries = [name for name, users in OUTSIDE.items() if package in users]
        imported = set().union(*map(imported_packages, files)) - {"__init__"}
        users = {
            package_of(file)
            for file in FILES
            if package in imported_packages(file) and package_of(file)[0] != "_"
        }
        yield f"### {package}\n\n{purpose_of(package)}\n"
        yield f"- libraries: {_names(libraries) or 'none'}"
        yield f"- imports: {_links(imported) or 'no other package'}"
        yield f"- imported by: {_links(users) or 'no other package'}\n"


def rule_sections() -> Iterator[str]:
    """Yield a table: what only some may do, who that is, and the exceptions with their reasons."""
    yield "| only | may | except |\n|---|---|---|"
    for rule in EXCEPTIONS.values():
        others = "; ".join(f"`{name}`: {reason}" for name, reason in rule.others.items())
        yield f"| {_names(rule.who)} | {rule.what} | {others} |"
    for library, users in OUTSIDE.items():
        yield f"| {_names(sorted(users))} | import `{library}` | |"


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _links(names: set[str]) -> str:
    return ", ".join(f"[{name}](#{name})" for name in sorted(names))
