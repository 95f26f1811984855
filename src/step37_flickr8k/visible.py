"""Text that others wrote, made visible: the one function through which it is shown.

Names in a listing, cells of a table, an HTTP reason, a lease, a message of the store may hold
anything: sequences that clear a screen or set a title, line ends that forge a line of a log,
characters that turn the direction of the text.
"""

import logging
import re

__all__ = ["VISIBLE", "visible", "visible_lines"]

# Control characters, characters without width, those that change the direction of text, and lone
# surrogates, which are no characters
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_LONGEST = 20_000  # characters of one text


def visible(text: str) -> str:
    """Return a text as one line, with hidden characters written out as Python escapes them."""
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"
    return _HIDDEN.sub(_escaped, shown)


def visible_lines(text: str) -> str:
    """Return a text of several lines made visible; those after the first are indented.

    So none of them passes for a line of its own.
    """
    return "\n    ".join(visible(line) for line in text.split("\n"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Visible(logging.Filter):
    """Makes the messages of a logger visible, whoever handles them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message; all records pass."""
        record.msg, record.args = visible_lines(record.getMessage()), ()
        return True


VISIBLE = _Visible()
