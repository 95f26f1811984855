"""Which rank of its node this process is, for calls that each node makes on its own."""

import socket

import pytest

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.node import NodeRank
from step37_flickr8k.errors import InvalidWorld
from tests.unit.cluster.test_launcher import MPI, STEP, TORCHRUN

HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, (1, 4, "1")),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (1, 2, "1")),
        (STEP, (1, None, "1")),
        (MPI, (0, 2, HOST)),
    ],
)
def test_a_launcher_says_it(environ: dict[str, str], expected: tuple[object, ...]) -> None:
    """Local rank and number of local ranks, and the node by its number, or else by its host."""
    node = NodeRank.of(World.from_environment(environ))
    assert (node.rank, node.size, node.node) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, (1, 4, "1")),
        # Fabric's own ranks
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "8", "NODE_RANK": "0"}, (1, None, "0")),
        ({"LOCAL_RANK": "1"}, (1, None, HOST)),
        (STEP | {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}, (1, None, "1")),
    ],
)
def test_a_process_group_asks_who_started_it(
    environ: dict[str, str], expected: tuple[object, ...]
) -> None:
    """Rank 5 of 8 in a group takes its local rank from the variables, if these count alike."""
    node = NodeRank.in_process_group(World.of_process_group(5, 8, environ), environ)
    assert (node.rank, node.size, node.node) == expected


@pytest.mark.parametrize(
    "environ", [{}, STEP, {"RANK": "5", "WORLD_SIZE": "8"}], ids=["none", "other ranks", "by hand"]
)
def test_nobody_says_it(environ: dict[str, str]) -> None:
    """Without a local rank, or where it is that of other ranks, LOCAL_RANK is asked for."""
    world = World.of_process_group(5, 8, environ)
    with pytest.raises(InvalidWorld, match="LOCAL_RANK isn't set"):
        NodeRank.in_process_group(world, environ)


def test_a_local_rank_is_in_its_node() -> None:
    """A local rank that its node can't have is refused, with both variables named."""
    with pytest.raises(InvalidWorld, match="LOCAL_RANK and LOCAL_WORLD_SIZE disagree"):
        NodeRank.of(World.from_environment(TORCHRUN | {"LOCAL_RANK": "4"}))
