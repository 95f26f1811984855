"""The ranks of one node, for a call that each node makes on its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.variables import Variables
from step37_flickr8k.errors import InvalidWorld

__all__ = ["NodeRank"]


@dataclass(frozen=True, kw_only=True)
class NodeRank:
    """A rank among those of its node; ``size`` is None if nobody says how many there are."""

    rank: int
    size: int | None
    node: str

    def __post_init__(self) -> None:
        """Refuse a rank outside of the node."""
        if self.size is not None and self.rank >= self.size:
            raise InvalidWorld(
                f"local rank {self.rank} is out of range for a node of {self.size} ranks. "
                "LOCAL_RANK and LOCAL_WORLD_SIZE disagree; let the launcher set them."
            )

    @classmethod
    def of(cls, world: World) -> "NodeRank":
        """Return a rank among its node's; raises `InvalidWorld` if the launcher is silent."""
        if world.local_rank is None:
            raise InvalidWorld(
                'scope="node" needs the ranks of a node, but LOCAL_RANK isn\'t set. '
                "Set LOCAL_RANK and LOCAL_WORLD_SIZE, or start the ranks with torchrun, srun or "
                "mpirun."
            )
        node = world.host if world.node_rank is None else str(world.node_rank)
        return cls(rank=world.local_rank, size=world.local_world_size, node=node)

    @classmethod
    def in_process_group(cls, world: World, environ: Mapping[str, str]) -> "NodeRank":
        """Return the same for a rank of a process group, which doesn't know the nodes.

        Who started the processes does: by the variables of torchrun, which Fabric and others set,
        too, or by those of a launcher that counts the ranks as the group does.
        """
        variables = Variables(environ)
        local_rank = variables.number("LOCAL_RANK")
        if local_rank is None:
            launched = World.from_environment(environ)
            counted_alike = (launched.rank, launched.size) == (world.rank, world.size)
            return cls.of(launched if counted_alike else world)
        node = variables.number("GROUP_RANK")
        node = variables.number("NODE_RANK") if node is None else node
        size = variables.number("LOCAL_WORLD_SIZE", 1)
        return cls.of(replace(world, local_rank=local_rank, local_world_size=size, node_rank=node))
