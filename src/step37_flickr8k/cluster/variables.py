"""The environment as a launcher's reader needs it: whole numbers, checked."""

from collections.abc import Mapping

from step37_flickr8k.errors import InvalidWorld

__all__ = ["Variables"]

_HIGHEST_NUMBER = 1 << 31


class Variables:
    """Variables by name; reading one raises `InvalidWorld` where it holds no such number."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read from these variables."""
        self._environ = environ

    def __contains__(self, name: str) -> bool:
        """Return whether a variable is set."""
        return name in self._environ

    def text(self, name: str) -> str:
        """Return a variable's value, "" if it isn't set."""
        return self._environ.get(name, "")

    def number(self, name: str, lowest: int = 0, highest: int = _HIGHEST_NUMBER) -> int | None:
        """Return a variable's value, None if it isn't set."""
        text = self._environ.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise InvalidWorld(
                f"{name}={text!r} is not a whole number from {lowest} to {highest}. "
                "Correct it, or unset it."
            )
        return int(text)

    def required(self, name: str, *, because: str, remedy: str) -> int:
        """Return a world size, which must be set if ``because`` is."""
        number = self.number(name, 1)
        if number is None:
            raise InvalidWorld(f"{because} is set, but {name} isn't. {remedy}.")
        return number
