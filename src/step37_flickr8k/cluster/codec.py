"""The JSON of messages, which other ranks, perhaps of another version, have written."""

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
    Outcome,
    RankReport,
    Verdict,
)

__all__ = ["Stored", "read", "read_progress", "text_of"]

# All that has a key of its own
Stored: TypeAlias = Message | Arrival | Answer | RankReport | Finished

_OF_A_REPORT = {"ok", "host", "error", "message", "traceback", "waited", "lag"}
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
_PROGRESS = TypeAdapter(Progress)
_ARRIVALS, _ANSWERS, _REPORTS = TypeAdapter(Arrival), TypeAdapter(Answer), TypeAdapter(RankReport)


def text_of(value: Stored) -> str:
    """Return the text that stands for a value in the store."""
    return json.dumps(value.as_json())


def read(text: str, kind: Any) -> Stored:
    """Return the value of this class that a text stands for; raises ValueError if it is none.

    ``Message`` stands for whichever message of the leader it is.
    """
    return _READERS[kind](json.loads(text))


def read_progress(value: object) -> Progress:
    """Return the progress of a JSON object, other keys ignored; raises ValueError if it is none."""
    return _PROGRESS.validate_python(_with_detail(value) if isinstance(value, dict) else value)


def _message(value: Any) -> Message:
    parts = {"progress": _with_detail(value), "failure": _failure(value)}
    return _MESSAGES.validate_python({**value, **parts})


def _answer(value: Any) -> Answer:
    return _ANSWERS.validate_python({**value, "number": value.get("word")})


def _report(value: Any) -> RankReport:
    found = {name: part for name, part in value.items() if name not in _OF_A_REPORT}
    return _REPORTS.validate_python({**value, "failure": _failure(value), "found": found})


def _finished(value: Any) -> Finished:
    outcome, verdict = _message(value["outcome"]), _message(value["verdict"])
    if isinstance(outcome, Outcome) and isinstance(verdict, Verdict):
        return Finished(outcome, verdict)
    raise ValueError("the end of a call is an outcome with a verdict")


def _failure(value: Any) -> Any:
    """Return the part of a flat JSON form that is the failure."""
    return value if value.get("ok") is False else None


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
