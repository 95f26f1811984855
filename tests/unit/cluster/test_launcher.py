"""Rank, world size and node of this process, from the launchers' variables."""

import socket

import pytest

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.errors import InvalidWorld

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "n0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
}
# As its launch.py sets them
DEEPSPEED = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_SIZE": "2"}
DEEPSPEED |= {"CROSS_RANK": "1", "CROSS_SIZE": "2", "MASTER_ADDR": "n0", "MASTER_PORT": "29500"}
MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("none", 0, 1, 0, None, None)),
        (TORCHRUN, ("torchrun", 5, 8, 1, 4, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ("env", 1, 2, None, None, None)),
        (DEEPSPEED, ("env", 3, 4, 1, None, None)),
        ({"JOB_COMPLETION_INDEX": "3", "WORLD_SIZE": "4"}, ("kubernetes", 3, 4, None, None, None)),
        (STEP, ("slurm", 3, 4, 1, None, 1)),
        (STEP | {"WORLD_SIZE": "4"}, ("slurm", 3, 4, 1, None, 1)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, ("slurm", 3, 4, 1, 2, 1)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "1,3"}, ("slurm", 3, 4, 1, 3, 1)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "4"}, ("slurm", 3, 4, 1, None, 1)),
        (STEP | TORCHRUN, ("torchrun", 5, 8, 1, 4, 1)),
        (MPI, ("openmpi", 2, 4, 0, 2, None)),
        (
            {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
            ("none", 0, 1, 0, None, None),
        ),
        ({"WORLD_SIZE": "1"}, ("none", 0, 1, 0, None, None)),
    ],
)
def test_each_launcher_is_read(environ: dict[str, str], expected: tuple[object, ...]) -> None:
    """The launcher's variables say the rank; a batch script outside srun is one process."""
    world = World.from_environment(environ)
    assert (
        world.launcher,
        world.rank,
        world.size,
        world.local_rank,
        world.local_world_size,
        world.node_rank,
    ) == expected


# What a daemon of Open MPI, itself a step of SLURM, passes on off the first node.
DAEMON = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}
DAEMON |= {"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_NODELIST": "n[1-2]"}


@pytest.mark.parametrize(
    ("environ", "launcher", "rank", "size"),
    [
        (DAEMON | MPI, "openmpi", 2, 4),
        (DAEMON | MPI | {"WORLD_SIZE": "4"}, "openmpi", 2, 4),
        (DAEMON | {"PMI_RANK": "3", "PMI_SIZE": "4"}, "pmi", 3, 4),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, "mvapich2", 1, 2),
        ({"PALS_RANKID": "1", "PMI_RANK": "1", "PMI_SIZE": "2"}, "pals", 1, 2),
        ({"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "2", "PMI_RANK": "1"}, "flux", 1, 2),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"}, "jsm", 1, 2),
        # srun --mpi=pmi2 sets PMI's variables; SLURM's say more
        (STEP | {"PMI_RANK": "3", "PMI_SIZE": "4"}, "slurm", 3, 4),
        (STEP | {"PMIX_RANK": "3"}, "slurm", 3, 4),
        # a process of a step that starts ranks of its own, and torchrun in each process of a step
        (STEP | {"RANK": "5", "WORLD_SIZE": "8"}, "env", 5, 8),
        (STEP | TORCHRUN | {"RANK": "0", "WORLD_SIZE": "2"}, "torchrun", 0, 2),
    ],
)
def test_who_started_the_process_itself_wins(
    environ: dict[str, str], launcher: str, rank: int, size: int
) -> None:
    """Of launchers that start each other, the one that started this process says its rank."""
    world = World.from_environment(environ)
    assert (world.launcher, world.rank, world.size) == (launcher, rank, size)


@pytest.mark.parametrize(
    "environ",
    [
        STEP | {"RANK": "0", "WORLD_SIZE": "4"},
        STEP | {"RANK": "0", "WORLD_SIZE": "1"},
        MPI | {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
)
def test_a_rank_that_was_exported_for_all_is_refused(environ: dict[str, str]) -> None:
    """RANK=0 in a batch script would make every process rank 0; both variables are named."""
    with pytest.raises(InvalidWorld, match=r"RANK=0 of WORLD_SIZE=\d contradicts \w+=\d"):
        World.from_environment(environ)


def test_a_rank_that_all_pods_have_is_refused() -> None:
    """RANK=0 in a Job's manifest would make every pod rank 0."""
    pod = {"JOB_COMPLETION_INDEX": "3", "WORLD_SIZE": "4"}
    with pytest.raises(InvalidWorld, match=r"RANK=0 contradicts JOB_COMPLETION_INDEX=3\. Unset"):
        World.from_environment(pod | {"RANK": "0"})
    # A JobSet counts on from one Job to the next
    assert World.from_environment(pod | {"RANK": "5", "WORLD_SIZE": "8"}).rank == 5
    assert World.from_environment(pod | {"RANK": "0", "WORLD_SIZE": "1"}).size == 1
    # It doesn't number its ranks by the pods
    assert World.from_environment(pod | TORCHRUN | {"RANK": "0"}).rank == 0


@pytest.mark.parametrize(
    "environ",
    [
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"},
        {"PMIX_RANK": "1"},
    ],
)
def test_who_has_a_lease_needs_no_rank(environ: dict[str, str]) -> None:
    """A library call without a process group works; variables still must agree."""
    world = World.from_environment(environ, needs_rank=False)
    assert (world.rank, world.size) == (0, 1)
    with pytest.raises(InvalidWorld, match="contradicts"):
        World.from_environment(MPI | {"RANK": "0", "WORLD_SIZE": "1"}, needs_rank=False)


@pytest.mark.parametrize("name", ["PMIX_RANK", "ALPS_APP_PE", "LSF_PM_TASKID", "MPIRUN_RANK"])
def test_a_sign_of_an_unknown_launcher_is_refused(name: str) -> None:
    """Beside it nobody is rank 0 of 1: every process of the job would download."""
    with pytest.raises(InvalidWorld, match=f"{name} is set by a launcher"):
        World.from_environment({name: "0"})


def test_a_process_group_alone_says_rank_and_size() -> None:
    """Fabric's own ranks have LOCAL_RANK and WORLD_SIZE without RANK; the group knows better."""
    environ = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0", "STEP37_RUN_ID": "a"}
    world = World.of_process_group(1, 2, environ)
    assert (world.rank, world.size, world.node_count, world.run_id) == (1, 2, None, "a")
    assert World.of_process_group(1, 8, {"LOCAL_WORLD_SIZE": "4"}).node_count == 2


def test_mpirun_in_an_allocation_meets_without_being_told_where() -> None:
    """Its ranks meet on the first node, as one run, whether they are in a step or not."""
    first = {name: DAEMON[name] for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")}
    worlds = [
        World.from_environment(first | MPI | {"OMPI_COMM_WORLD_RANK": "0"}),
        World.from_environment(DAEMON | MPI),
    ]
    assert [world.rendezvous() for world in worlds] == [("n1", 20012)] * 2
    assert [world.run_id for world in worlds] == ["slurm-12"] * 2


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"RANK": "0"}, "WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "4"}, "RANK"),
        ({"LOCAL_RANK": "1"}, "RANK"),
        ({"JOB_COMPLETION_INDEX": "0"}, "completions"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS"),
        (STEP | {"WORLD_SIZE": "8"}, "WORLD_SIZE=8"),
        (
            {"RANK": "4", "WORLD_SIZE": "4"},
            "RANK=4 is out of range for WORLD_SIZE=4: they disagree. Let the launcher set them",
        ),
        (
            {"JOB_COMPLETION_INDEX": "2", "WORLD_SIZE": "2"},
            "WORLD_SIZE=2: they disagree. Set the Job's completions and parallelism, and WORLD",
        ),
        (
            {"JOB_COMPLETION_INDEX": "2", "RANK": "2", "WORLD_SIZE": "2"},
            "JOB_COMPLETION_INDEX=2 is out of range for WORLD_SIZE=2: they disagree. Set the Job's",
        ),
        (
            STEP | {"SLURM_PROCID": "4"},
            "SLURM_PROCID=4 is out of range for SLURM_STEP_NUM_TASKS=4: they disagree. Let",
        ),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "RANK='-1'"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "RANK='one'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT"),
    ],
)
def test_a_partial_set_of_variables_is_refused(environ: dict[str, str], named: str) -> None:
    """A process that can't know its rank is never rank 0 of 1: one line names the variable."""
    with pytest.raises(InvalidWorld) as caught:
        World.from_environment(environ)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "run_id"),
    [
        ({}, None),
        (TORCHRUN, None),
        (TORCHRUN | {"TORCHELASTIC_RUN_ID": "job7"}, "torchrun-job7"),
        (STEP, "slurm-12.0"),
        (STEP | TORCHRUN | {"TORCHELASTIC_RUN_ID": "job7"}, "slurm-12.0"),
        (STEP | {"STEP37_RUN_ID": "uid-1"}, "uid-1"),
    ],
)
def test_the_run_id_is_the_same_on_all_ranks_and_after_restarts(
    environ: dict[str, str], run_id: str | None
) -> None:
    """The run id names the job, or is None."""
    assert World.from_environment(environ).run_id == run_id


def test_several_ranks_need_a_store_to_meet_at() -> None:
    """The store's address is needed only by several ranks; the error names what is missing."""
    assert World.from_environment(TORCHRUN).rendezvous() == ("n0", 29500)
    assert World.from_environment(TORCHRUN).agent_store
    with pytest.raises(InvalidWorld, match="MASTER_ADDR"):
        World.from_environment({"RANK": "0", "WORLD_SIZE": "2"}).rendezvous()
    with pytest.raises(InvalidWorld, match="MASTER_PORT"):
        World.from_environment({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "n0"}).rendezvous()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"SLURM_STEP_NODELIST": "n[01-03,07]"}, ("n01", 20012)),
        ({"SLURM_STEP_NODELIST": "gpu-1,n[1-3]", "SLURM_STEP_ID": "2"}, ("gpu-1", 20214)),
        ({"SLURM_STEP_NODELIST": "n[1-2]-ib", "SLURM_RESTART_COUNT": "1"}, ("n1-ib", 21021)),
        ({"SLURM_STEP_NODELIST": "n1,n2", "SLURM_JOB_ID": "1234567"}, ("n1", 24567)),
        ({"SLURM_STEP_NODELIST": "n1,n2", "MASTER_PORT": "29500"}, ("n1", 29500)),
        ({"SLURM_STEP_NODELIST": "n1,n2", "MASTER_ADDR": "n1-ib"}, ("n1-ib", 20012)),
        ({"SLURM_STEP_NODELIST": "n1,n2", "MASTER_ADDR": "", "MASTER_PORT": "80"}, ("n1", 80)),
    ],
)
def test_the_ranks_of_a_step_meet_without_being_told_where(
    more: dict[str, str], expected: tuple[str, int]
) -> None:
    """``srun step37-flickr8k doctor`` needs no address: node list and ids of its step give one."""
    assert World.from_environment(STEP | more).rendezvous() == expected


@pytest.mark.parametrize(
    "more",
    [
        {"SLURM_STEP_NODELIST": ""},
        {"SLURM_STEP_NODELIST": ","},
        {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_HOSTFILE": "hosts"},
    ],
)
def test_a_step_whose_first_node_is_unknown_asks_for_an_address(more: dict[str, str]) -> None:
    """Where SLURM names no node, or a file arranges the ranks, MASTER_ADDR is asked for."""
    with pytest.raises(InvalidWorld, match="MASTER_ADDR isn't set"):
        World.from_environment(STEP | more).rendezvous()


def test_a_shell_of_salloc_is_one_process() -> None:
    """Its step has the highest of all ids, which no port is derived from in vain."""
    step = {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    world = World.from_environment({"SLURM_JOB_ID": "12", "SLURM_STEP_NODELIST": "n1", **step})
    assert (world.rank, world.size, world.launcher) == (0, 1, "slurm")


def test_the_first_line_says_where_this_is() -> None:
    """Host, local rank, node and global rank, each with its total where the launcher says it."""
    world = World.from_environment(TORCHRUN)
    assert (
        world.describe() == f"host {world.host}, local rank 1 of 4, node 1 of 2, global rank 5 of 8"
    )
    assert (
        "local rank 0 of -, node - of -, global rank 0 of 1"
        in World.from_environment({}).describe()
    )
    by_hand = World.from_environment({"RANK": "1", "WORLD_SIZE": "2"})
    assert "local rank - of -, node - of -, global rank 1 of 2" in by_hand.describe()


def test_every_line_of_a_log_says_where_it_is_from() -> None:
    """Host and rank, and the node where the launcher says it."""
    assert (
        World.from_environment(STEP | {"SLURM_STEP_NUM_NODES": "2"}).label
        == f"{socket.gethostname()} node 1/2 rank 3/4"
    )
    assert (
        World.from_environment({"RANK": "1", "WORLD_SIZE": "2"}).label
        == f"{socket.gethostname()} rank 1/2"
    )


def test_a_pod_names_its_node() -> None:
    """If the Job passes in the node's name, every line of a pod's log names node and pod."""
    pod = {"JOB_COMPLETION_INDEX": "1", "WORLD_SIZE": "4", "STEP37_NODE_NAME": "n2"}
    world = World.from_environment(pod)
    assert world.host == f"n2/{socket.gethostname()}"
    assert world.label == f"n2/{socket.gethostname()} rank 1/4"
    assert World.from_environment({}).host == socket.gethostname()
