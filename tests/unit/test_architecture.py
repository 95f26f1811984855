"""The architecture: imports point one way, each outside world has one user, sizes have limits.

The rules are in ``tools/architecture.py``, from which the documentation draws them, too.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import reference
from architecture import (
    APART,
    DELETES,
    EXCEPTIONS,
    FILES,
    LAYERS,
    OUTSIDE,
    PACKAGE,
    imported_packages,
    imports_of,
    module_of,
    package_of,
    purpose_of,
    tree_of,
)

import step37_flickr8k
from step37_flickr8k import errors
from tests.unit import ratchet

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "architecture.md"
MODULES = {module_of(file): file for file in FILES}
LEVEL = {name: number for number, layer in enumerate(LAYERS) for name in layer}

LINES_OF_A_MODULE = 300
LINES_OF_A_FUNCTION = 45
PARAMETERS = 7

# Functions over 45 lines because of their docstrings: without these they are under the limit.
LONG_DOCSTRINGS = {
    "flickr8k_loader.prepare_flickr8k_samples": "the library's main function: six errors and a"
    " dozen parameters with their meaning",
    "rank_zero.run_on_rank_zero": "the same, for any work",
}
# What is still to be split. Take out what no longer needs to be here; nothing may be added.
TEMPORARY: set[str] = set()

each_module = pytest.mark.parametrize("module", MODULES)


# --- layers and "only" ----------------------------------------------------------------------------


def test_every_package_has_a_layer() -> None:
    """Each package and module at the top stands in one layer, or apart, and none is missing."""
    names = [name for layer in LAYERS for name in layer]
    assert sorted([*names, APART]) == sorted({package_of(file) for file in FILES})


@each_module
def test_a_package_imports_only_from_lower_layers(module: str) -> None:
    """Imports point one way; only the command imports localhub, which imports no other package."""
    package = package_of(MODULES[module])
    for other in imported_packages(MODULES[module]):
        if other == APART:
            assert package == "cli", f"{module} imports {other}"
        else:
            assert package != APART, f"{module} imports {other}"
            assert LEVEL[other] < LEVEL[package], f"{module} imports {other}"


@each_module
def test_each_library_has_its_packages(module: str) -> None:
    """torch, huggingface_hub, Pillow and the like are imported in their own packages alone."""
    for name in imports_of(MODULES[module]):
        users = OUTSIDE.get(name.partition(".")[0])
        assert users is None or package_of(MODULES[module]) in users, f"{module} imports {name}"


def test_every_rule_about_a_library_is_needed() -> None:
    """Each package that may import a library does."""
    for library, users in OUTSIDE.items():
        real = {
            package_of(file)
            for file in FILES
            if library in {name.partition(".")[0] for name in imports_of(file)}
        }
        assert users == real, library


def may(rule: str, module: str) -> bool:
    """Return whether a module is one of those of a rule, or an exception to it."""
    names = (*EXCEPTIONS[rule].who, *EXCEPTIONS[rule].others)
    return any(module == name or module.startswith(f"{name}.") for name in names)


def names_in(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a file mentions, and those that it imports: ``os.environ``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls_in(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def deletes(call: ast.Call) -> bool:
    """Return whether a call renames, deletes, or changes the mode of a file."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in DELETES:
        return False
    if isinstance(call.func.value, ast.Name) and call.func.value.id in {"os", "shutil"}:
        return True
    # str.replace takes more, dataclasses.replace has keywords
    if call.func.attr == "replace":
        return len(call.args) == 1 and not call.keywords
    # A list or a set has it, a path has not
    return call.func.attr != "remove"


def writes(call: ast.Call) -> bool:
    """Return whether a call creates a file or directory, or opens one for writing."""
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    if name in {"write_text", "write_bytes", "mkdir", "makedirs", "touch", "symlink", "link"}:
        return True
    if function == "os.open":
        return True
    modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return name == "open" and any(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and re.fullmatch(r"[rwxabt+]+", mode.value) is not None
        and bool({*mode.value} & {*"wxa+"})
        for mode in modes
    )


def breaks(rule: str, tree: ast.AST) -> Iterator[str]:
    """Yield what a file does that is a rule's matter."""
    names = {*names_in(tree)}
    match rule:
        case "delete":
            yield from (ast.unparse(call) for call in calls_in(tree) if deletes(call))
            yield from names & {
                f"{module}.{name}" for module in ("os", "shutil") for name in DELETES
            }
        case "write":
            yield from (ast.unparse(call) for call in calls_in(tree) if writes(call))
        case "print":
            yield from names & {"print", "sys.stdout", "sys.__stdout__"}
            yield from (
                ast.unparse(call)
                for call in calls_in(tree)
                if ast.unparse(call.func) in {"os.dup", "os.write", "os.fdopen", "open"}
                and call.args
                and ast.unparse(call.args[0]) == "1"
            )
        case "stderr":
            yield from names & {"sys.stderr", "sys.__stderr__"}
        case "environ":
            yield from names & {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}
        case "read the environment":
            # The parameter by which an environment is handed over
            yield from names & {"environ"}


@pytest.mark.parametrize("rule", EXCEPTIONS)
def test_only_some_may(rule: str) -> None:
    """What design.md gives to one package alone no other does, but for the listed exceptions."""
    for module, file in MODULES.items():
        if package_of(file) != APART and not may(rule, module):
            assert not [*breaks(rule, tree_of(file))], f"{module} may not {EXCEPTIONS[rule].what}"


@pytest.mark.parametrize("rule", EXCEPTIONS)
def test_every_exception_is_needed(rule: str) -> None:
    """Each package that a rule names, and each exception to it, does what the rule is about."""
    for name in (*EXCEPTIONS[rule].who, *EXCEPTIONS[rule].others):
        files = [file for m, file in MODULES.items() if m == name or m.startswith(f"{name}.")]
        assert any([*breaks(rule, tree_of(file))] for file in files), (rule, name)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("delete", "os.replace(a, b)"),
        ("delete", "a.replace(b)"),
        ("delete", "path.unlink()"),
        ("delete", "from os import remove"),
        ("delete", "shutil.rmtree(a)"),
        ("delete", "os.chmod(a, 0o644)"),
        ("write", "path.open('wb')"),
        ("write", "open(path, mode='a')"),
        ("write", "path.write_text('')"),
        ("write", "os.open(path, flags)"),
        ("print", "print()"),
        ("print", "from sys import stdout"),
        ("print", "os.write(1, b'')"),
        ("stderr", "sys.stderr.write('')"),
        ("environ", "os.environ['A']"),
        ("environ", "from os import getenv"),
        ("read the environment", "def read(environ): return environ['A']"),
    ],
)
def test_what_breaks_a_rule_is_seen(rule: str, code: str) -> None:
    """The rules can fail: each way to break one is found."""
    assert [*breaks(rule, ast.parse(code))]


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("delete", "text.replace('a', 'b')"),
        ("delete", "dataclasses.replace(value, name=1)"),
        ("delete", "names.remove(name)"),
        ("write", "path.open('rb')"),
        ("write", "path.open(encoding='utf-8')"),
    ],
)
def test_what_breaks_no_rule_is_let_be(rule: str, code: str) -> None:
    """Methods of texts and sets have the same names as those of files."""
    assert not [*breaks(rule, ast.parse(code))]


# --- limits ---------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield the functions of a file with their dotted names."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, node
        yield from functions_of(node, name)


def lines_of(node: Function, *, docstring: bool = True) -> int:
    """Return how many lines a function has, with its docstring or without it."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if docstring or ast.get_docstring(node) is None:
        return lines
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1)


def parameters_of(node: Function) -> int:
    """Return how many parameters a function has, without the object that a method belongs to."""
    of = node.args
    parameters = [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg]
    return sum(each is not None and each.arg not in {"self", "cls"} for each in parameters)


def above_limits(module: str) -> dict[str, str]:
    """Return what of a module is above a limit, by its dotted name."""
    found = {}
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    if lines > LINES_OF_A_MODULE:
        found[module] = f"{lines} lines"
    for name, node in functions_of(tree_of(MODULES[module]), module):
        if lines_of(node, docstring=name not in LONG_DOCSTRINGS) > LINES_OF_A_FUNCTION:
            found[name] = f"{lines_of(node)} lines"
        if parameters_of(node) > PARAMETERS:
            found[name] = f"{parameters_of(node)} parameters"
    return found


@pytest.mark.filterwarnings("default:take out")
def test_modules_functions_and_signatures_are_small() -> None:
    """No module over 300 lines, no function over 45, none with more than 7 parameters."""
    found: dict[str, str] = {}
    for module, file in MODULES.items():
        if package_of(file) != APART:
            found |= above_limits(module)
    assert {name: size for name, size in found.items() if name not in TEMPORARY} == {}
    if small := sorted(TEMPORARY - found.keys()):
        warnings.warn(f"take out of TEMPORARY what is small now: {small}", stacklevel=1)


@pytest.mark.parametrize("name", LONG_DOCSTRINGS)
def test_a_long_docstring_is_still_an_exception(name: str) -> None:
    """Each function whose docstring may make it long is there, and is long because of that."""
    module = name.rpartition(".")[0]
    nodes = [node for own, node in functions_of(tree_of(MODULES[module]), module) if own == name]
    assert [lines_of(node) > LINES_OF_A_FUNCTION for node in nodes] == [True]


@pytest.mark.filterwarnings("default:lower")
def test_the_ratchet_only_falls() -> None:
    """What types and layout have given up is counted, and no count rises."""
    limits, counts = ratchet.read_limits(), ratchet.count()
    assert limits.keys() == counts.keys()
    risen = {
        name: f"{number}, at most {limits[name]}"
        for name, number in counts.items()
        if number > limits[name]
    }
    assert risen == {}, "a value with a type, or a shorter line, instead of one more of these"
    if fallen := {name: number for name, number in counts.items() if number < limits[name]}:
        message = f"lower the limits, with `python -m tests.unit.ratchet`: {fallen}"
        warnings.warn(message, stacklevel=1)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x: dict[str, Any]\ny: dict[str, int]", 1),
        ("def f(a: 'list[dict[str, Any]]') -> 'dict[str, Any]': ...", 2),
        ("'dict[str, Any]'", 0),
    ],
)
def test_untyped_dictionaries_are_counted(code: str, expected: int) -> None:
    """In annotations, quoted ones, too; not in texts."""
    assert ratchet.dict_any(ast.parse(code)) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("f(**bag)\nf(**self.bag)\nf(**{'a': 1})", 3),
        ("{**bag}", 0),
        ("def f(**values): g(**values)", 0),
        ("def f(**values): g(**bag)", 1),
    ],
)
def test_keyword_bags_are_counted(code: str, expected: int) -> None:
    """Only in calls; a function may hand on the keywords that it was called with."""
    assert ratchet.keyword_bags(ast.parse(code)) == expected


def test_comments_long_lines_and_other_names_are_counted() -> None:
    """A text that speaks of a comment is none; an alias is as loose as what it stands for."""
    text = "x = 1  # type: ignore[attr]\ny = '# type: ignore'\n" + "z" * 101 + "\n"
    assert ratchet.has_comment(text, "type: ignore") == 1
    assert ratchet.long_lines(text) == 1
    code = "Value = dict[str, Any]\nObject: TypeAlias = Mapping[str, Any]\nx = 1"
    assert ratchet.loose_aliases(ast.parse(code)) == {"Value", "Object"}


# --- names and imports ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("", set()),
        (".errors", set()),
        # Validates its arguments by the settings' model
        (".flickr8k_loader", {"pydantic"}),
        (".rank_zero", {"pydantic"}),
        # Decodes images
        (".download.worker", {"PIL"}),
    ],
)
def test_an_import_is_cheap(module: str, allowed: set[str]) -> None:
    """Neither the package, its loader nor a worker process loads a heavy library needlessly."""
    heavy = {"torch", "huggingface_hub", "PIL", "aiohttp", "pydantic"}
    code = f"import json, sys, {PACKAGE}{module}; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & {*json.loads(done.stdout)} <= allowed


@each_module
def test_the_names_of_all_exist(module: str) -> None:
    """``__all__`` names what is there, each once, and nothing private."""
    if module == "__main__":
        return
    imported = importlib.import_module(f"{PACKAGE}.{module}".removesuffix(".__init__"))
    names = getattr(imported, "__all__", [])
    assert sorted({*names}) == sorted(names)
    assert [name for name in names if not hasattr(imported, name) or name.startswith("_")] == []


@each_module
def test_what_is_imported_from_a_module_is_public(module: str) -> None:
    """Other modules import only what stands in a module's ``__all__``, where it has one."""
    for name in imports_of(MODULES[module]):
        source, _, taken = name.rpartition(".")
        if not source.startswith(f"{PACKAGE}.") or source not in sys.modules:
            continue
        public = getattr(sys.modules[source], "__all__", None)
        assert public is None or taken in public or f"{source}.{taken}" in sys.modules, name
        assert not taken.startswith("_"), name


def test_the_public_names_are_these() -> None:
    """The public surface is small and every name of it exists."""
    assert sorted(step37_flickr8k.__all__) == [
        "ConfigurationError",
        "Flickr8kSample",
        "MultimodalSFTSample",
        "RankZeroLost",
        "Step37Error",
        "Step37Flickr8kDataset",
        "Template",
        "Timeouts",
        "TransientError",
        "get_flickr8k_dataset_file",
        "prepare_flickr8k_samples",
        "run_on_rank_zero",
    ]
    assert all(hasattr(step37_flickr8k, name) for name in step37_flickr8k.__all__)


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    """Every error class stands in the docstring of ``errors.py``, and nothing else does."""
    drawn = {
        word
        for line in (errors.__doc__ or "").splitlines()
        for word in line.replace("│", " ").split()[:2]
        if word[0].isupper()
    }
    real = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert {name for name in drawn if name in real} == real
    parents = {
        errors.ConfigurationError: 2,
        errors.CacheDamaged: 3,
        errors.TransientError: 75,
        errors.RankZeroLost: 76,
    }
    for name in real - {"Step37Error", "Terminated"}:
        (code,) = {
            code for parent, code in parents.items() if issubclass(getattr(errors, name), parent)
        }
        assert getattr(errors, name).exit_code == code


# --- the page -------------------------------------------------------------------------------------


def test_the_page_draws_every_layer_and_package() -> None:
    """The drawing and the sections name each package once, with its purpose and real imports."""
    text = reference.on_page_markdown(PAGE.read_text(encoding="utf-8"))
    names = sorted({package_of(file) for file in FILES} - {"__init__", "__main__"})
    assert sorted(re.findall(r'<a href="#(\w+)">', text)) == names
    rows = re.findall(r'<div class="layer">(.*?)</div>', text)
    drawn = [sorted(re.findall(r"#(\w+)", row)) for row in reversed(rows)]
    assert drawn == [sorted(layer) for layer in LAYERS if layer[0][0] != "_"]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == names
    for name, section in sections.items():
        assert purpose_of(name) in section
        (line,) = re.findall(r"^- imports: (.*)$", section, re.MULTILINE)
        files = [file for file in FILES if package_of(file) == name]
        real = set().union(*map(imported_packages, files)) - {"__init__"}
        assert {*re.findall(r"\(#(\w+)\)", line)} == real


def test_the_page_names_every_rule() -> None:
    """The table has a line for each "only", with its exceptions."""
    text = reference.on_page_markdown(PAGE.read_text(encoding="utf-8"))
    for rule in EXCEPTIONS.values():
        assert f"| {rule.what} |" in text
        assert all(f"`{name}`: {reason}" in text for name, reason in rule.others.items())
    assert all(f"| import `{library}` |" in text for library in OUTSIDE)


def test_what_the_page_points_to_is_there() -> None:
    """Each dotted name in the page is a module, or something in one: the answers stay true."""
    names = {
        name
        for name in re.findall(r"`([\w.]+)`", PAGE.read_text(encoding="utf-8"))
        if name.partition(".")[0] in {package_of(file) for file in FILES} and name[-3:] != ".py"
    }
    assert len(names) > 15
    for name in names:
        module = name
        while module not in MODULES and f"{module}.__init__" not in MODULES:
            module = module.rpartition(".")[0]
            assert module, name
        value = importlib.import_module(f"{PACKAGE}.{module}")
        for part in name.removeprefix(module).split(".")[1:]:
            assert hasattr(value, part), name
            value = getattr(value, part)
