"""The documents say what the code does."""

import re
from pathlib import Path

from step37_flickr8k import errors
from step37_flickr8k.settings import settings_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_settings_are_the_real_ones() -> None:
    """The table is the one that the code generates."""
    shown = README.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert shown.strip() == settings_table(), "put the output of settings_table() between the marks"


def test_the_readmes_exit_codes_are_the_real_ones() -> None:
    """Each code that an error carries stands in the table."""
    codes = {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    for code in codes:
        assert re.search(rf"^\| {code}\b", README, re.MULTILINE), code


def test_documents_name_no_file_that_is_not_there() -> None:
    """Links between the project's own documents lead somewhere."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
