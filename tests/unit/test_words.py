"""One word per concept: the words that design and documents no longer use are in none of them.

Each retired word has a pattern, its replacement, and an example of the retired sense.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "step37_flickr8k"
DOCUMENTS = ("docs", "slurm", "k8s", "examples", "mkdocs.yml", *(f.name for f in ROOT.glob("*.md")))
# Their lines quote code of tests
QUOTES = ("docs/not-run.txt", "docs/run-elsewhere.txt")
TEXT = {".css", ".html", ".js", ".json", ".md", ".py", ".sbatch", ".sh", ".txt", ".yaml", ".yml"}


@dataclass(frozen=True)
class Retired:
    """A retired word: its pattern, the replacement, and an example of the retired sense."""

    pattern: str
    instead: str
    example: str
    # What matches and stays: names that users parse, and other senses
    allowed: str = ""
    # Ordinary English in a comment, but unclear in a document
    only_documents: bool = False
    # Packages in which the word is the field's own
    field: frozenset[str] = frozenset()

    def found(self, text: str) -> list[str]:
        """Return the matches, also as parts of snake_case and CamelCase names."""
        if self.allowed:
            text = re.sub(self.allowed, "", text)
        parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)
        return re.findall(rf"(?<![\w-])(?:{self.pattern})(?![\w-])", parts, re.IGNORECASE)


WORDS = (
    Retired(
        "folders?",
        "directory",
        "the cache folder",
        # Error classes; names of checks in doctor's JSON
        allowed=r"\bFolder(?:Full|NotUsable)\b|\"folder(?: shared)?\"",
    ),
    Retired(
        "pictures?", "image", "a broken picture", allowed=r"Describe the picture\."
    ),  # a prompt
    Retired("told|tells?|telling", "say, report, return", "the other ranks are told"),
    Retired(
        "look|looks|looked|looking",
        "find, check, read",
        "it looks for the record",
        allowed="looks? like",
    ),
    Retired("waiters?", "follower", "a waiter's node"),
    Retired("heralds?", "leader", "class Herald"),
    Retired(
        "listeners?",
        "follower",
        "a listener of rank 0",
        allowed=r"addEventListener",
        field=frozenset({"localhub"}),  # of a socket
    ),
    Retired("patience|patiently", "timeouts", "connect_patiently"),
    Retired("flaws?|flawed", "decode error", "the image's flaw"),
    Retired("closely", 'check="all" or "names"', "closely=False"),
    Retired("brings?|bringing|brought", "download, fetch", "it brings every byte"),
    Retired("(?:carry|carries|carried|carrying) on", "resume", "the next run carries on"),
    Retired("(?:try|tries|tried|trying) again", "retry", "3 tried again"),
    Retired("anew", "again", "hashes it anew"),
    Retired("mend|mends|mended|mending", "repair", "no retry mends it"),
    Retired("ours", "step37-flickr8k", "ours brings every byte"),
    Retired("beside", "with, next to", "a file beside it"),
    Retired("rooms?", "package", "each module is a room"),
    Retired(
        "quotas?",
        "rate limit: limit, remaining, reset",
        "the quota of the Hub",
        # Of file systems; the key of plan's JSON, a state of the report, the local Hub's fault;
        # Kubernetes' kind
        allowed=r"(?i)(?:disk|project|inode) quotas?|lfs quota|quota exceeded|inodes or quota"
        r"|ResourceQuota|exceeded quota|waiting for quota|[\"']quota[\"']|Fault\.quota|def quota\(",
        field=frozenset({"cache"}),
    ),
    Retired("proves?|proven|proved|proving", "verified", "a proven file", allowed='"proven"'),
    Retired("(?:lies?|lying) (?:there|in|on|at|below|where)", "is there", "what lies there"),
    Retired(
        "(?:a|next|own|ranks'|rank 0's) words?|log of words|read words",
        "message, exit code",
        "rank 0's word decides",
        allowed="by a word",
    ),
    Retired("beats?", "heartbeat", "its last beat", allowed='"beat"'),
    Retired("wires?", "HTTP client", "class Wire"),
    Retired("tally|tallies", "transfer statistics", "self._tally"),
    Retired("hands", "worker", "class Hands", allowed=r"\bhands (?:it|over|EPS)\b"),
    Retired("land|lands|landed|landings?", "batch, publish", "def _landed"),
    Retired("fillings?", "downloader", "class Filling"),
    Retired("survey|surveys|surveyed|surveyors?", "planner", "class Surveyor"),
    Retired("ways", "options, methods", "**ways"),
    Retired(
        "places?|placed",
        "directory, rank",
        "the place of a rank",
        allowed=r"(?i)in (?:its )?place\b|place-items",
    ),
    Retired(
        "come|comes|came|coming",
        "start, arrive, is fetched",
        "what came",
        allowed="come over",
        only_documents=True,
    ),
)


def read(paths: Iterator[Path]) -> dict[str, str]:
    """Return the text files among the paths and below them, by their names in the repository."""
    files = (
        file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))
    )
    return {
        name: file.read_text(encoding="utf-8")
        for file in files
        if (name := str(file.relative_to(ROOT))) not in QUOTES
        and (file.suffix in TEXT or name == "slurm/chain")
        and "__pycache__" not in name
    }


DOCUMENT_TEXTS = read(ROOT / name for name in DOCUMENTS)
PACKAGES = sorted(path.name for path in SOURCE.iterdir() if path.name != "__pycache__")


def used(texts: dict[str, str], words: tuple[Retired, ...]) -> list[str]:
    """Return each line that uses one of the words, with its file, number and the replacement."""
    return [
        f"{name}:{number}: {', '.join(found)} -> {word.instead}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        for word in words
        if (found := word.found(line))
    ]


def test_no_document_script_manifest_or_example_uses_a_retired_word() -> None:
    """The documents, the SLURM scripts, the manifests and the examples use the vocabulary."""
    assert len(DOCUMENT_TEXTS) > 80
    assert used(DOCUMENT_TEXTS, WORDS) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_uses_a_retired_word(package: str) -> None:
    """Identifiers, docstrings, comments and messages of a package use the vocabulary."""
    words = tuple(word for word in WORDS if not word.only_documents and package not in word.field)
    assert used(read(iter([SOURCE / package])), words) == []


def test_no_docstring_begins_with_give_or_tell() -> None:
    """The first word of a docstring in a checked package is what the function does."""
    texts = read(SOURCE / name for name in PACKAGES)
    assert [name for name, text in texts.items() if re.search(r'"""(?:Give|Tell)\b', text)] == []


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.pattern.partition("|")[0])
def test_a_retired_word_is_found(word: Retired) -> None:
    """Each pattern finds its example, in lower case and as the first word of a sentence."""
    assert word.found(word.example)
    assert word.found(word.example.capitalize())


def test_names_that_users_parse_are_allowed() -> None:
    """Error classes, JSON keys and states keep their names; other senses of a word stay usable."""
    kept = (
        'FolderFull FolderNotUsable "folder" "folder shared" {"quota": 1} waiting for quota'
        ' disk quota the heartbeat in place of by hand "beat" "proven"'
    )
    assert [word.pattern for word in WORDS if word.found(kept)] == []
