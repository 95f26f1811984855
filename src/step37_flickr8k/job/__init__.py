"""The use cases: warm the cache, plan, verify and repair. Each returns a typed result.

- `task`: what a run is asked to do, built once from the settings or the library's arguments.
- `run`: one process's part in a run: its task, its rank, what it has done so far.
- `warmup`: rank 0 downloads, every rank reads (`Warmup`).
- `plan`: what a warmup would do (`make_plan`).
- `verify`: hash the cache again (`verify`), fetch what is missing or wrong (`repair`).
- `listing`: the files of a commit, by the manifest or the Hub.
- `waiting`: what a process that waits for the lease says.
- `results`: what these return, and its JSON.
"""

from step37_flickr8k.job.plan import make_plan
from step37_flickr8k.job.results import Mode, Plan, SlowFile, Traffic, VerifyResult, WarmupResult
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.verify import repair, verify
from step37_flickr8k.job.warmup import Warmed, Warmup

__all__ = [
    "Mode",
    "Plan",
    "Run",
    "SlowFile",
    "Task",
    "Traffic",
    "VerifyResult",
    "Warmed",
    "Warmup",
    "WarmupResult",
    "make_plan",
    "repair",
    "verify",
]
