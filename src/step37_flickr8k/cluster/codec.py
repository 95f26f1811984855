"""The JSON of messages, read back, and what is none.

Other ranks have written them, perhaps of another version, or a stranger who reaches the store: what
is no message is as good as nothing.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import Field, TypeAdapter

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    Finished,
    Message,
    Nonce,
    Outcome,
    RankReport,
    Verdict,
    is_name,
)

__all__ = ["LONGEST", "Stored", "read", "read_count", "read_progress", "text_of"]

# All that has a key of its own
Stored: TypeAlias = Message | Arrival | Answer | RankReport | Finished

# Characters of a value: torch's store takes no more in one request
LONGEST = 8 << 20
_LONGEST_NAME = 1000
# Levels of arrays and objects: Python compares and shows deeper ones by too much recursion
_DEEPEST = 100
_LONGEST_COUNT = 18
# A tuple: what a stranger wrote there may have no hash
_WITH_AN_END = ("outcome", "verdict")
_OF_A_REPORT = {"ok", "host", "error", "message", "traceback", "waited", "lag"}
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
_PROGRESS = TypeAdapter(Progress)
_ARRIVALS, _ANSWERS, _REPORTS = TypeAdapter(Arrival), TypeAdapter(Answer), TypeAdapter(RankReport)


def text_of(value: Stored) -> str:
    """Return the text that stands for a value in the store."""
    return json.dumps(value.as_json())


def read(text: str | None, kind: Any) -> Any:
    """Return the value of this class that a text stands for; None if it is none, or no text.

    ``Message`` stands for whichever message of the leader it is. ``str`` and ``Nonce`` are no JSON.
    """
    if text is None or len(text) > LONGEST:
        return None
    if kind is str:
        return text if len(text) <= _LONGEST_NAME else None
    if kind is Nonce:
        return text if is_name(text) else None
    try:
        value = json.loads(text)
        _refuse_deep(value)
        return _READERS[kind](value)
    # Brackets without an end are a RecursionError
    except (ValueError, RecursionError):
        return None


def read_count(text: str | None) -> int | None:
    """Return the value of a counter; None if it is none: torch's store adds to 64 bits alone."""
    if text is None:
        return 0
    is_count = text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT
    return int(text) if is_count else None


def read_progress(value: object) -> Progress:
    """Return the progress of a JSON object, other keys ignored; raises ValueError if it is none."""
    return _PROGRESS.validate_python(_with_detail(value) if isinstance(value, dict) else value)


def _message(value: Any) -> Message:
    value = _object(value)
    failure = _failure(value) if value.get("kind") in _WITH_AN_END else None
    return _MESSAGES.validate_python({**value, "progress": _with_detail(value), "failure": failure})


def _answer(value: Any) -> Answer:
    return _ANSWERS.validate_python({**_object(value), "number": value.get("word")})


def _report(value: Any) -> RankReport:
    value = _object(value)
    found = {name: part for name, part in value.items() if name not in _OF_A_REPORT}
    return _REPORTS.validate_python({**value, "failure": _failure(value), "found": found})


def _finished(value: Any) -> Finished:
    value = _object(value)
    outcome, verdict = _message(value.get("outcome")), _message(value.get("verdict"))
    if isinstance(outcome, Outcome) and isinstance(verdict, Verdict):
        return Finished(outcome, verdict)
    raise ValueError("the end of a call is an outcome with a verdict")


def _object(value: Any) -> Any:
    match value:
        case dict():
            return value
    raise ValueError("no JSON object")


def _refuse_deep(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            part
            for above in level
            if isinstance(above, dict | list)
            for part in (above.values() if isinstance(above, dict) else above)
        ]
    if level:
        raise ValueError("nested too deep")


def _failure(value: Any) -> Any:
    """Return the part of a flat JSON form that is the failure; each end says whether it is one."""
    match value.get("ok"):
        case bool(ok):
            return None if ok else value
    raise ValueError("it doesn't say whether it is a failure")


def _with_detail(value: Any) -> Any:
    """Return a progress with its state and detail, which are one text in JSON, as two."""
    state, _, detail = str(value.get("state")).partition(", ")
    return {**value, "state": state, "detail": detail}


_READERS: dict[Any, Callable[[Any], Stored]] = {
    Message: _message,
    Answer: _answer,
    Arrival: _ARRIVALS.validate_python,
    RankReport: _report,
    Finished: _finished,
}
