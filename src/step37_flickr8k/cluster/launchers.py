"""The launchers that are known, and the variables in which each sets rank and world size.

A new one is an entry of `LAUNCHERS`, if its variables hold numbers, like all of these.
"""

from dataclasses import dataclass

from step37_flickr8k.cluster.variables import Variables

__all__ = ["LAUNCHERS", "UNKNOWN", "Launcher", "run_id_of"]


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """One launcher: the names of its variables, "" for what it doesn't say, and who documents them.

    ``command`` starts a process with all of them.
    """

    name: str
    rank: str
    size: str
    local_rank: str = ""
    local_size: str = ""
    command: str
    source: str


# In the order in which they are asked. A launcher that was itself started by another one comes
# first: mpirun's daemons are a step of SLURM, and Flux and PALS set PMI's variables, too.
LAUNCHERS = (
    Launcher(
        name="openmpi",
        rank="OMPI_COMM_WORLD_RANK",
        size="OMPI_COMM_WORLD_SIZE",
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
        local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
        command="mpirun",
        source="docs.open-mpi.org, Environment variables set for MPI applications",
    ),
    Launcher(
        name="mvapich2",
        rank="MV2_COMM_WORLD_RANK",
        size="MV2_COMM_WORLD_SIZE",
        local_rank="MV2_COMM_WORLD_LOCAL_RANK",
        local_size="MV2_COMM_WORLD_LOCAL_SIZE",
        command="mpirun_rsh",
        source="MVAPICH2 user guide, 11.1 Environment variables",
    ),
    Launcher(
        name="pals",
        rank="PALS_RANKID",
        size="PMI_SIZE",
        local_rank="PALS_LOCAL_RANKID",
        command="mpiexec",
        source="HPE Cray PALS, mpiexec(1): a job of PBS",
    ),
    Launcher(
        name="flux",
        rank="FLUX_TASK_RANK",
        size="FLUX_JOB_SIZE",
        local_rank="FLUX_TASK_LOCAL_ID",
        command="flux run",
        source="flux-core, flux-environment(7)",
    ),
    Launcher(
        name="jsm",
        rank="JSM_NAMESPACE_RANK",
        size="JSM_NAMESPACE_SIZE",
        local_rank="JSM_NAMESPACE_LOCAL_RANK",
        command="jsrun",
        source="IBM Job Step Manager, jsrun: a job of LSF",
    ),
    Launcher(
        name="pmi",
        rank="PMI_RANK",
        size="PMI_SIZE",
        local_rank="MPI_LOCALRANKID",
        local_size="MPI_LOCALNRANKS",
        command="mpiexec",
        source="MPICH's Hydra and Intel MPI",
    ),
)

# Signs of launchers that don't say how many ranks there are: with one, nobody is rank 0 of 1.
UNKNOWN = ("PMIX_RANK", "ALPS_APP_PE", "LSF_PM_TASKID", "MPIRUN_RANK")


def run_id_of(variables: Variables, launcher: str = "") -> str | None:
    """Return the name of the run, the same on all ranks and after restarts; None without one."""
    if run_id := variables.text("STEP37_RUN_ID"):
        return run_id
    if job := variables.text("SLURM_JOB_ID"):
        # Not all ranks of mpirun are in a step of SLURM.
        if launcher in {each.name for each in LAUNCHERS}:
            return f"slurm-{job}"
        if step := variables.text("SLURM_STEP_ID"):
            return f"slurm-{job}.{step}"
    if launcher == "flux" and (job := variables.text("FLUX_JOB_ID")):
        return f"flux-{job}"
    torchrun = variables.text("TORCHELASTIC_RUN_ID")
    return None if torchrun in {"", "none"} else f"torchrun-{torchrun}"
