"""Text that others wrote, shown as it is."""

import re

__all__ = ["visible"]

# What turns or hides text, and what is no character: written out, so that a name looks as it is.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Write out what turns or hides text: U+202E as a backslash, ``u`` and its number."""
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
