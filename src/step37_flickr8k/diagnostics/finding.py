"""What one check of the doctor found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

__all__ = ["Finding", "State"]


class State(str, Enum):
    """How a check ended; the values are what ``doctor --json`` prints."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """What one check found, and the remedy if it isn't well.

    ``check`` names the check. ``rank`` names rank and host; empty for rank 0.
    """

    check: str
    state: State
    message: str
    remedy: str = ""
    rank: str = ""

    @staticmethod
    def ok(check: str, message: str, remedy: str = "") -> "Finding":
        """Return that all is well."""
        return Finding(check, State.OK, message, remedy)

    @staticmethod
    def warning(check: str, message: str, remedy: str = "") -> "Finding":
        """Return what may go wrong."""
        return Finding(check, State.WARNING, message, remedy)

    @staticmethod
    def problem(check: str, message: str, remedy: str = "") -> "Finding":
        """Return what will make a job fail; doctor's exit code is then 2."""
        return Finding(check, State.PROBLEM, message, remedy)

    @staticmethod
    def not_checked(check: str, reason: str, remedy: str = "") -> "Finding":
        """Return why a check could not be made."""
        return Finding(check, State.NOT_CHECKED, reason, remedy)

    def on(self, rank: str) -> "Finding":
        """Return the same finding as that of another rank."""
        return replace(self, rank=rank)

    def as_json(self) -> dict[str, str]:
        """Return the finding as ``doctor --json`` prints it."""
        return {
            "check": self.check,
            "state": self.state.value,
            "message": self.message,
            "remedy": self.remedy,
            "rank": self.rank,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Finding":
        """Return the finding that `as_json` described."""
        return Finding(
            check=value["check"],
            state=State(value["state"]),
            message=value["message"],
            remedy=value["remedy"],
            rank=value["rank"],
        )
