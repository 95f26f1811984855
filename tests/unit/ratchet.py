"""Counts over the source that may only fall: ``python -m tests.unit.ratchet`` lowers their limits.

The limits are in ``ratchet.json``. The counts are made over syntax trees and tokens, so that a
docstring may name what is counted.
"""

import ast
import io
import json
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "step37_flickr8k"
LIMITS = Path(__file__).with_name("ratchet.json")
COLUMNS = 100
# Their JSON is shown to people and sent to clients: it has no other type.
_JSON_PACKAGES = ("report", "localhub")
_LOOSE_TYPES = ("dict[str, Any]", "Mapping[str, Any]")


def count() -> dict[str, int]:
    """Return each count by its name in ``ratchet.json``."""
    source = sorted(SOURCE.rglob("*.py"))
    tests = sorted((ROOT / "tests").rglob("*.py"))
    inner = [file for file in source if file.relative_to(SOURCE).parts[0] not in _JSON_PACKAGES]
    return {
        "dict[str, Any] in src": _sum(dict_any, source),
        "dict[str, Any] in src outside report and localhub": _sum(dict_any, inner),
        "uses of other names of such mappings in src": _uses_of_loose_aliases(source),
        "calls with ** of a dictionary in src": _sum(keyword_bags, source),
        "type: ignore in src": sum(has_comment(text, "type: ignore") for text in _texts(source)),
        "noqa: PLC0415 in src": sum(has_comment(text, "PLC0415") for text in _texts(source)),
        "lines over 100 columns in src": sum(map(long_lines, _texts(source))),
        "lines over 100 columns in tests": sum(map(long_lines, _texts(tests))),
    }


def dict_any(tree: ast.AST) -> int:
    """Count the subscripts ``dict[str, Any]``, also those in quoted annotations."""
    return sum(ast.unparse(node) == _LOOSE_TYPES[0] for node in _types(tree))


def keyword_bags(tree: ast.AST) -> int:
    """Count the ``**`` of calls, but for a function that hands on its own ``**parameter``."""
    found = 0
    for node, own in _with_parameters(tree, frozenset()):
        if isinstance(node, ast.Call):
            bags = [keyword.value for keyword in node.keywords if keyword.arg is None]
            found += sum(not (isinstance(bag, ast.Name) and bag.id in own) for bag in bags)
    return found


def has_comment(text: str, part: str) -> int:
    """Count the comments that hold ``part``."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT and part in token.string for token in tokens)


def long_lines(text: str) -> int:
    """Count the lines over 100 columns, whatever they hold."""
    return sum(len(line) > COLUMNS for line in text.splitlines())


def loose_aliases(tree: ast.AST) -> set[str]:
    """Return the names that stand for a mapping of anything: ``JsonObject: TypeAlias = ...``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if ast.unparse(node.value) in _LOOSE_TYPES:
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _uses_of_loose_aliases(files: Iterable[Path]) -> int:
    """Count what the limit of ``dict[str, Any]`` would miss: another name for it."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    names = set().union(*map(loose_aliases, trees))
    return sum(
        isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names
        for tree in trees
        for node in ast.walk(tree)
    )


def _types(tree: ast.AST) -> Iterator[ast.Subscript]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            yield node
        for name in ("annotation", "returns"):
            quoted = getattr(node, name, None)
            if isinstance(quoted, ast.Constant) and isinstance(quoted.value, str):
                yield from _types(ast.parse(quoted.value, mode="eval"))


def _with_parameters(
    node: ast.AST, own: frozenset[str]
) -> Iterator[tuple[ast.AST, frozenset[str]]]:
    """Yield every node with the ``**parameters`` of the functions around it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg is not None:
        own |= {node.args.kwarg.arg}
    yield node, own
    for child in ast.iter_child_nodes(node):
        yield from _with_parameters(child, own)


def _sum(counted: Callable[[ast.AST], int], files: Iterable[Path]) -> int:
    return sum(counted(ast.parse(text)) for text in _texts(files))


def _texts(files: Iterable[Path]) -> Iterator[str]:
    return (file.read_text(encoding="utf-8") for file in files)


def read_limits() -> dict[str, int]:
    """Return the limits of ``ratchet.json``."""
    limits: dict[str, int] = json.loads(LIMITS.read_text(encoding="utf-8"))
    return limits


def main() -> None:
    """Lower each limit to its count; never raise one."""
    old = read_limits() if LIMITS.exists() else {}
    new = {name: min(number, old.get(name, number)) for name, number in count().items()}
    LIMITS.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
