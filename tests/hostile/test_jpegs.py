"""Mutated JPEGs: none is shown to be decoded by its structure that Pillow refuses."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from step37_flickr8k.images.jpeg import shown_frame
from tests.helpers.jpegs import jpegs, mutated, refused
from tests.hostile.seeds import SEED

JPEGS = 60_000
PROCESSES = 2
ROOT = Path(__file__).parents[2]


def held_against_pillow(first: int) -> tuple[int, int]:
    """Return how many of a share were shown to be decoded, and how many Pillow decoded."""
    last = first + JPEGS // PROCESSES
    process = subprocess.run(
        [sys.executable, "-m", "tests.helpers.jpegs", *map(str, (SEED, first, last))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    shown, decoded = map(int, process.stdout.split())
    return shown, decoded


def test_what_is_shown_to_be_decoded_is_decoded() -> None:
    """60,000 mutants: a quarter is shown, a third refused; the others are left to Pillow."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        shares = [*pool.map(held_against_pillow, range(0, JPEGS, JPEGS // PROCESSES))]
    shown, decoded = map(sum, zip(*shares, strict=True))
    counts = f"{shown:,} shown to be decoded, Pillow decodes {decoded:,}"
    assert JPEGS / 8 < shown <= decoded < JPEGS * 7 / 8, counts


def test_pillow_refuses_what_a_careless_check_would_show() -> None:
    """Most mutants that Pillow refuses have their first and their last two bytes as they were."""
    originals = jpegs()
    mutants = [mutated(originals, SEED, number) for number in range(2000)]
    whole = [one for one in mutants if one[:3] == b"\xff\xd8\xff" and one[-2:] == b"\xff\xd9"]
    wrong = [one for one in whole if refused(one)]
    assert len(wrong) > 300
    assert not any(map(shown_frame, wrong))
