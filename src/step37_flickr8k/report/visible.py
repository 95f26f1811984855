"""Names and messages from outside, made visible character by character."""

import re

__all__ = ["visible"]

# Control characters, characters without width, those that change the direction of text, and lone
# surrogates, which are no characters
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return a text with hidden characters written out as Python escapes them."""
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
