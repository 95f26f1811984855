"""The rate limit that the Hub states in the headers of its answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["RateLimit"]

# At most nine digits: a larger number is no Hub's, and converting a very long one takes seconds.
_STATE = re.compile(r";\s*r=(\d{1,9})\s*;\s*t=(\d{1,9})\b")
_POLICY = re.compile(r";\s*q=(\d{1,9})\s*;\s*w=(\d{1,9})\b")


@dataclass(frozen=True)
class RateLimit:
    """``limit`` requests per ``window`` s; ``remaining`` now, and a new window in ``reset`` s."""

    limit: int
    remaining: int
    reset: float
    window: float

    def wait(self, requests: int) -> float:
        """Return the seconds for which so many requests have to wait at the least."""
        if requests <= self.remaining:
            return 0.0
        return self.reset + (requests - self.remaining - 1) // self.limit * self.window

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> "RateLimit | None":
        """Return what ``RateLimit`` and ``RateLimit-Policy`` state; None without a readable one.

        Without a policy the window is taken to be the one under way.
        """
        state = _STATE.search(headers.get("RateLimit", ""))
        if state is None:
            return None
        remaining, reset = int(state[1]), float(state[2])
        policy = _POLICY.search(headers.get("RateLimit-Policy", ""))
        limit, window = (int(policy[1]), float(policy[2])) if policy else (remaining, reset)
        return cls(max(limit, 1), remaining, reset, window)
