"""The page of the protocol names the states and messages that the code has."""

import re
from pathlib import Path

import pytest

from step37_flickr8k.cluster.protocol import follower, leader, messages

PAGE = (Path(__file__).parents[2] / "docs/explanation/protocol.md").read_text()


def rows(heading: str) -> list[str]:
    """Return the first cells of the table whose heading begins like that."""
    table = PAGE.split(f"| {heading} | what it does |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "states"),
    [("leader", leader.LeaderState), ("follower", follower.FollowerState)],
)
def test_the_page_names_every_state_in_order(heading: str, states: type) -> None:
    """Each state of a machine has its row, in the order in which a call comes to them."""
    assert rows(heading) == [state.name for state in states]  # type: ignore[attr-defined]


def test_the_page_names_every_message() -> None:
    """Each message that the code writes is in the table of keys."""
    table = PAGE.split("| key, below", 1)[1].split("\n\n", 1)[0]
    kinds = {"JsonObject", "Message", "Nonce", "SIGNED", "SentMessage", "is_name"}
    written = set(messages.__all__) - kinds
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == written
