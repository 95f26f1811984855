"""The seed of all that these tests make by chance: ``HOSTILE_SEED=<number>`` takes another."""

import os
import random

__all__ = ["SEED", "chance"]

SEED = int(os.environ.get("HOSTILE_SEED", "24"))


def chance(name: str) -> random.Random:
    """Return the random numbers of one test, the same each time for one seed."""
    return random.Random(f"{SEED} {name}")
