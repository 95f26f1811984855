"""Jobs on a real cluster: what the scripts promise, by the ranks' own words and the Hub's log.

``tests/slurm/run`` starts the cluster and runs these side by side: each has its own Hub, directory
and nodes. Long ones come first.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import captioned, picture, write_rows
from tests.helpers.failure_logs import copy_texts, on_failure
from tests.slurm.rig import (
    CONTROLLER,
    RIG,
    SCRIPTS,
    USER,
    Desk,
    Job,
    listening,
    on,
    power_off,
    power_on,
    until,
)

pytestmark = pytest.mark.timeout(900)

COUNT = 40
ALL = {f"{number:04}.jpg" for number in range(COUNT)}
LAST = {f"{number:04}.jpg" for number in range(30, COUNT)}
HELD = "train/003*.jpg"  # those


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw two splits."""
    directory = tmp_path_factory.mktemp("dataset")
    for split in ("train", "validation"):
        (directory / split).mkdir()
        for number in range(COUNT):
            (directory / split / f"{number:04}.jpg").write_bytes(picture(number))
        write_rows(directory / split, [captioned(number) for number in range(COUNT)])
    return directory


@pytest.fixture
def hub(dataset: Path) -> Iterator[LocalHub]:
    """Serve them on the controller."""
    with LocalHub(dataset, host=CONTROLLER) as serving:
        yield serving


@pytest.fixture
def desk(hub: LocalHub, request: pytest.FixtureRequest) -> Desk:
    """Make the test's directory, with variables for its Hub and its cache."""
    name = re.sub(r"\W+", "-", request.node.name)
    variables = {
        "STEP37_ENDPOINT": hub.endpoint,
        "STEP37_CACHE_DIR": str(RIG / "shared" / name / "cache"),
    }
    made = Desk(name, variables)
    made.directory.mkdir()
    made.directory.chmod(0o777)
    on_failure(request, lambda directory: copy_texts(made.directory, directory))
    return made


def fetched(hub: LocalHub, split: str = "train") -> Counter[str]:
    """Count how often the Hub sent each image's bytes."""
    names = [Path(one.repo_path) for one in hub.file_requests()]
    return Counter(
        path.name for path in names if path.suffix == ".jpg" and path.parent.name == split
    )


def hold(hub: LocalHub) -> None:
    """Let the last ten images not come before the faults are cleared: the Hub asks to come again in 3 s."""
    hub.faults.add(Fault.status(503, retry_after=3, path=HELD))


HOLDING = {"STEP37_ATTEMPTS": "100"}  # so that rank 0 doesn't give up meanwhile


def until_held(desk: Desk, job: Job) -> None:
    """Wait until the download stands in its middle, and every rank follows it."""
    until(
        lambda: desk.kept() >= ALL - LAST or job.state not in {"PENDING", "RUNNING", "CONFIGURING"},
        f"the middle of {job.id}",
    )
    assert desk.kept() == ALL - LAST, job.everything
    # One that comes only after rank 0's death waits for another rank 0, for long
    ranks = range(int(job.shown()["NumTasks"]))
    until(
        lambda: all(re.search("listing|reading|fetching", job.said(rank)) for rank in ranks),
        "a word of each rank",
    )


def until_restarted(job: Job) -> None:
    """Wait until the job has been queued again."""
    try:
        until(lambda: job.restarts == 1, "the restart")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{job.everything}") from error


def assert_whole(hub: LocalHub, desk: Desk, split: str = "train") -> None:
    """Check that the cache holds every byte of the split."""
    assert desk.kept(split) == ALL
    for path in (desk.directory / "cache" / split).iterdir():
        assert path.read_bytes() == (hub.directory / split / path.name).read_bytes(), path


def assert_all_said(job: Job, ranks: int, code: int = 0, restart: int = 0) -> None:
    """Check every rank's own last word; srun's exit code can lie."""
    assert job.words(restart) == dict.fromkeys(range(ranks), code), job.everything
    if code == 0:
        for rank in range(ranks):
            assert f"ready: {COUNT} rows" in job.said(rank, restart), job.everything


@contextmanager
def without_power(node: str) -> Iterator[None]:
    """Let a node lose power, and give it back at the end."""
    power_off(node)
    try:
        yield
    finally:
        power_on(node)


# --- the night ------------------------------------------------------------------------------------


def test_the_time_limit_in_mid_download_is_a_restart_that_resumes(
    hub: LocalHub, desk: Desk
) -> None:
    """90 s before its time is over the job ends its ranks and queues itself again; the rest is fetched, and nothing twice."""
    hold(hub)
    job = desk.warmup(options="--nodes=2 --ntasks-per-node=2 --time=3", **HOLDING)
    until_held(desk, job)
    until(lambda: "the time limit is near" in job.log, "the warning")
    until_restarted(job)
    hub.faults.clear()
    job.completed()
    assert job.words()[0] == 143, job.everything
    assert {job.words()[rank] for rank in (1, 2, 3)} <= {76, 143}, (
        "whichever reached them first, the signal or rank 0's word"
    )
    assert "ended by SIGTERM" in job.said(0)
    assert_all_said(job, 4, restart=1)
    assert fetched(hub) == Counter(ALL)
    assert_whole(hub, desk)


def test_rank_zeros_node_loses_power_in_mid_download(hub: LocalHub, desk: Desk) -> None:
    """SLURM queues the job again; on other nodes it fetches only what was missing."""
    hub.faults.add(Fault.stall(path=HELD))  # in the middle of their bytes
    job = desk.warmup(STEP37_HEARTBEAT_TIMEOUT="15", STEP37_READ_TIMEOUT="1h")
    until_held(desk, job)
    with without_power(job.nodes[0]):
        until_restarted(job)
        hub.faults.clear()
        job.completed()
    assert_all_said(job, 4, restart=1)
    assert job.report["files"] == len(LAST)
    counts = fetched(hub)
    assert {name for name, times in counts.items() if times == 1} >= ALL - LAST, counts
    assert_whole(hub, desk)


def test_a_waiters_node_loses_power_and_the_job_completes_without_a_restart(
    hub: LocalHub, desk: Desk
) -> None:
    """No connection closes, only beats are missing: rank 0 carries on, says who was lost, and the job is done."""
    hold(hub)
    job = desk.warmup(STEP37_VISIBILITY_TIMEOUT="5", **HOLDING)
    until_held(desk, job)
    with without_power(job.nodes[1]):
        hub.faults.clear()
        job.completed()
    assert job.restarts == 0
    assert job.words() == {0: 0, 1: 0}, job.everything
    assert "rank 2, 3 never reported whether it can use the outcome" in job.said(0)
    assert "rank 2 was lost" in job.log
    assert "rank 3 was lost" in job.log
    assert fetched(hub) == Counter(ALL)
    assert_whole(hub, desk)


def test_rank_zero_is_killed_in_mid_download(hub: LocalHub, desk: Desk) -> None:
    """Out of memory: the others say 76 in seconds, the job queues itself again and fetches what is missing."""
    hold(hub)
    job = desk.warmup(STEP37_HEARTBEAT_TIMEOUT="10", **HOLDING)
    until_held(desk, job)
    job.kill(0)
    until_restarted(job)
    hub.faults.clear()
    job.completed()
    assert job.words() == {0: 137, 1: 76, 2: 76, 3: 76}, job.everything
    for rank in (1, 2, 3):
        assert "rank 0 was killed, frozen or cut off" in job.said(rank)
    assert_all_said(job, 4, restart=1)
    assert fetched(hub) == Counter(ALL)


def test_a_waiter_is_killed_and_the_others_end_well_in_their_own_time(
    hub: LocalHub, desk: Desk
) -> None:
    """Whatever WaitTime and KillOnBadExit the site has set: rank 0 goes on downloading for as long as it takes."""
    hold(hub)
    job = desk.warmup(STEP37_VISIBILITY_TIMEOUT="5", STEP37_HEARTBEAT_TIMEOUT="20", **HOLDING)
    until_held(desk, job)
    job.kill(3)
    until(lambda: job.words() == {3: 137}, "the waiter's end")
    heard = len(job.said(1).splitlines())
    until(
        lambda: len(job.said(1).splitlines()) >= heard + 2,
        "two beats, which is longer than the site's WaitTime,",
    )
    hub.faults.clear()
    job.completed()
    assert job.words() == {0: 0, 1: 0, 2: 0, 3: 137}, job.everything
    assert job.restarts == 0
    assert fetched(hub) == Counter(ALL)


def test_nodes_that_do_not_share_the_directory_are_named(desk: Desk) -> None:
    """Each node has a cache directory of its own at the same path: rank 0 warns, and the error names the hosts that see nothing."""
    cache = str(RIG / "local" / "cache")
    job = desk.warmup(
        STEP37_CACHE_DIR=cache, STEP37_VISIBILITY_TIMEOUT="3", MAX_RESTARTS="0"
    ).wait()
    assert (job.state, job.restarts, job.shown()["ExitCode"]) == ("FAILED", 0, "75:0"), (
        job.everything
    )
    assert_all_said(job, 4, 75)
    _, waiter = job.nodes
    for rank in range(4):
        assert re.search(
            rf" ERROR rank 2 on {waiter}, rank 3 on {waiter}: .*a file system that all nodes share",
            job.said(rank),
        )
    assert "is on tmpfs, which other nodes can't see" in job.said(0)
    assert "the last of 0 restarts" in job.log


def test_scancel_in_mid_download_ends_the_job_for_good(hub: LocalHub, desk: Desk) -> None:
    """The ranks end by SIGTERM, nothing unfinished stays, nothing is queued again; the next job fetches the rest."""
    hold(hub)
    job = desk.warmup(**HOLDING)
    until_held(desk, job)
    desk.run("scancel", job.id)
    assert job.wait().state == "CANCELLED"
    until(lambda: len(job.words()) == 4, "each rank's word")
    assert set(job.words().values()) <= {143, 76}
    assert job.words()[0] == 143
    assert "cancelled" in job.log
    assert job.restarts == 0
    left = [path.name for path in (desk.directory / "cache").rglob("*.tmp")]
    assert left == []
    hub.faults.clear()
    again = desk.warmup().completed()
    assert again.report["files"] == len(LAST)
    assert fetched(hub) == Counter(ALL)
    assert job.state == "CANCELLED"


def test_an_administrator_queues_a_job_again_in_mid_download(hub: LocalHub, desk: Desk) -> None:
    """The ranks end as at ``scancel``, but the log says "requeued"; only the rest is fetched."""
    hold(hub)
    job = desk.warmup(**HOLDING)
    until_held(desk, job)
    on("ctl", "scontrol", "requeue", job.id)
    until_restarted(job)
    hub.faults.clear()
    job.completed()
    assert_all_said(job, 4, restart=1)
    assert " requeued" in job.log
    assert " cancelled" not in job.log
    assert fetched(hub) == Counter(ALL)


def test_the_port_of_the_store_is_taken(hub: LocalHub, desk: Desk) -> None:
    """Rank 0 says so, the others don't wait until arrival_timeout; the restart has another port."""
    with ExitStack() as until_the_end:
        with desk.gate() as (variables, arrived):
            job = desk.warmup(**variables)
            arrived()
            port = 20000 + int(job.id) % 10000
            until_the_end.enter_context(listening(job.nodes[0], port))
        until_restarted(job)
        job.completed()
    assert job.words()[0] == 75, job.everything
    assert set(job.words().values()) <= {75, 76, 143}
    assert f"rank 0 can't serve the store on port {port}" in job.said(0)
    assert "rank 0 has failed: the ranks that still wait for it are ended" in job.log
    assert_all_said(job, 4, restart=1)
    assert_whole(hub, desk)


def test_the_controller_is_away_when_the_job_starts(hub: LocalHub, desk: Desk) -> None:
    """The batch script asks where it is until slurmctld answers: no configuration is wrong."""
    conf = (RIG / "etc" / "slurm.conf").read_text(encoding="utf-8")
    away = re.sub("MessageTimeout=.*", "MessageTimeout=2\nSlurmctldPort=6899", conf)
    own = desk.directory / "slurm.conf"
    own.write_text(away, encoding="utf-8")
    # What only this job reads: no other case's controller goes away
    source = desk.directory / "conf.sh"
    source.write_text(f"export SLURM_CONF={desk.shared}/slurm.conf\n", encoding="utf-8")
    job = desk.warmup(BASH_ENV=str(desk.shared / "conf.sh"))
    until(lambda: job.log.count("Unable to contact slurm controller") >= 2, "two tries")
    own.write_text(conf, encoding="utf-8")
    job.completed()
    assert job.restarts == 0
    assert_all_said(job, 4)
    assert_whole(hub, desk)


# --- what comes after the warmup ------------------------------------------------------------------


def chain(desk: Desk, *arguments: str, **variables: str) -> tuple[Job, Job]:
    """Submit the warmup and the training behind it by the helper."""
    options = {"WARMUP_OPTIONS": "--exclusive", "TRAINING_OPTIONS": "--exclusive"}
    done = desk.run(
        SCRIPTS / "chain", SCRIPTS / "train-after-warmup.sbatch", *arguments, **options, **variables
    )
    ids = re.search(r"^warmup (\d+), then training (\d+);", done.stdout, re.MULTILINE)
    assert ids, done.stdout + done.stderr
    assert f"{COUNT} images" in done.stdout, "the plan"
    return Job(ids[1], desk), Job(ids[2], desk)


def test_training_starts_after_a_warmup_that_needed_a_restart(hub: LocalHub, desk: Desk) -> None:
    """The Hub is down: 75, queued again, done; only then the training runs, by the ready record, asking the Hub nothing."""
    warmup, training = chain(desk, "--settings", settings_file(desk, attempts=2))
    hub.faults.add(Fault.status(503, path="train/*.jpg"))
    until_restarted(warmup)
    assert_all_said(warmup, 4, 75)
    assert training.state == "PENDING"
    hub.faults.clear()
    warmup.completed()
    hub.clear_requests()
    training.completed()
    assert "nothing to do" in training.log
    ranks = re.findall(rf"^\d: rank (\d) of 4: {COUNT} samples; '", training.log, re.MULTILINE)
    assert sorted(ranks) == ["0", "1", "2", "3"], training.log
    shares = re.findall(r"^\d: rank \d of 4: epoch \d: (\d+) samples", training.log, re.MULTILINE)
    assert [int(share) for share in shares] == 8 * [-(-COUNT // 4)], training.log
    assert hub.requests == ()


def test_training_never_starts_after_a_failed_warmup(hub: LocalHub, desk: Desk) -> None:
    """A configuration error fails the job once, on every rank by its own words, and the training behind it is cancelled."""
    warmup, training = chain(desk, "--settings", settings_file(desk, revision="main"))
    hub.faults.add(Fault.status(401))  # the repository has become private after the plan
    assert warmup.wait().state == "FAILED"
    assert (warmup.shown()["ExitCode"], warmup.restarts) == ("2:0", 0)
    assert_all_said(warmup, 4, 2)
    for rank in range(4):
        assert re.search(" ERROR .* refuses ", warmup.said(rank)), warmup.everything
    assert training.wait().state == "CANCELLED"
    assert training.log == ""


def test_a_training_finds_no_ready_record(desk: Desk) -> None:
    """Without a warmup the training job ends before a single rank of it starts, and says what to do."""
    job = desk.submit(SCRIPTS / "train-after-warmup.sbatch").wait()
    assert (job.state, job.shown()["ExitCode"]) == ("FAILED", "2:0"), job.log
    assert "holds no ready record" in job.log
    assert "run warmup once" in job.log


def settings_file(desk: Desk, **settings: object) -> str:
    """Write a settings file and give its name."""
    (desk.directory / "warmup.yaml").write_text(
        "".join(f"{name}: {value}\n" for name, value in settings.items()), encoding="utf-8"
    )
    return "warmup.yaml"


def test_a_typo_is_refused_at_submission(hub: LocalHub, desk: Desk) -> None:
    """``plan`` refuses the settings file on the login node: nothing is submitted, and the right name is told."""
    done = desk.run(
        SCRIPTS / "chain",
        SCRIPTS / "train-after-warmup.sbatch",
        "--settings",
        settings_file(desk, sample_cuont=8),
    )
    assert done.returncode == 2
    assert "sample_cuont: no such setting in warmup.yaml: did you mean sample_count?" in done.stderr
    assert "nothing was submitted" in done.stderr
    assert not list(desk.directory.glob("*.log"))
    assert hub.requests == ()


# --- the day --------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 2])
def test_a_cold_cache_then_a_warm_one(hub: LocalHub, desk: Desk, nodes: int) -> None:
    """Rank 0 downloads each image once, for all; nodes that have looked for the record too early see it all the same."""
    hold(hub)
    options = f"--nodes={nodes} --ntasks-per-node=2"
    job = desk.warmup(options=options, **HOLDING)
    until_held(desk, job)
    record = desk.shared / "cache" / ".step37-flickr8k" / "train.json"
    for waiter in job.nodes[1:]:
        assert "No such file" in on(waiter, "bash", "-c", f"stat {record} 2>&1", check=False), (
            "it is late from now on"
        )
    hub.faults.clear()
    job.completed()
    assert_all_said(job, 2 * nodes)
    assert fetched(hub) == Counter(ALL)
    node = on("ctl", "getent", "hosts", job.nodes[0]).split()[0]
    assert {one.client for one in hub.requests} == {node}
    assert_whole(hub, desk)
    assert (job.report["warm"], job.report["files"], job.report["world_size"]) == (
        False,
        COUNT,
        2 * nodes,
    )
    for rank in range(2 * nodes):
        place = f"{job.nodes[rank // 2]} node {rank // 2}/{nodes} rank {rank}/{2 * nodes}"
        lines = [
            line
            for line in job.said(rank).splitlines()
            if re.match(r" *\d+: \d\d:\d\d:\d\d ", line)
        ]
        assert lines
        assert all(f" {place} " in line for line in lines), lines

    hub.clear_requests()
    warm = desk.warmup(options=options).completed()
    assert_all_said(warm, 2 * nodes)
    assert [(one.kind, one.status) for one in hub.requests] == [("api", 200)]
    assert (warm.report["warm"], warm.report["files"]) == (True, 0)


def test_a_heterogeneous_job_runs_on_its_first_component(hub: LocalHub, desk: Desk) -> None:
    """``scontrol`` shows two records for its id; the ranks of the first one warm the cache."""
    options = "--nodes=2 --ntasks-per-node=2 : --nodes=1 --ntasks-per-node=1"
    job = desk.warmup(options=options).completed()
    assert_all_said(job, 4)
    assert_whole(hub, desk)


def test_any_name_of_a_job_will_do(hub: LocalHub, desk: Desk) -> None:
    """What srun would expand in the name of a file, or take for a directory, is no name of one."""
    place = desk.shared / "50%off"
    (desk.directory / "50%off").mkdir(mode=0o777)
    (desk.directory / "50%off").chmod(0o777)
    options = f"--nodes=2 --ntasks-per-node=2 --job-name=50%t/x --chdir={place}"
    job = desk.warmup(options=options).completed()
    assert_all_said(replace(job, desk=replace(desk, name=f"{desk.name}/50%off")), 4)
    assert_whole(hub, desk)


def test_a_bare_srun_needs_no_address(desk: Desk) -> None:
    """The two ranks of ``srun ... step37-flickr8k doctor``, as the documents print it, meet."""
    command = Path(os.environ["PYTHON"]).absolute().parent / "step37-flickr8k"
    done = desk.run("srun", "--nodes=2", "--ntasks-per-node=1", "--exclusive", command, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ ok +lag +seen within", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("launcher", ["mpirun.openmpi", "mpiexec.hydra"])
def test_mpirun_in_an_allocation_downloads_once(hub: LocalHub, desk: Desk, launcher: str) -> None:
    """Open MPI's and MPICH's ranks have their own ranks on two nodes, cold and warm."""
    if shutil.which(launcher) is None:
        pytest.skip(f"no {launcher}: install openmpi-bin and mpich, as tests/slurm/run does")
    script = desk.directory / "mpirun.sbatch"
    command = f'{launcher} -np 4 "$VENV/bin/step37-flickr8k" warmup --report $cache.json'
    script.write_text(
        "#!/bin/bash\n#SBATCH --output=mpirun-%j.log\n"
        f"for cache in cold warm; do {command} || exit; done\n",
        encoding="utf-8",
    )
    job = desk.submit(script).completed()
    for cache in ("cold", "warm"):
        report = json.loads((desk.directory / f"{cache}.json").read_text(encoding="utf-8"))
        is_warm = cache == "warm"
        assert (report["warm"], report["files"]) == (is_warm, 0 if is_warm else COUNT)
        hosts = [report["ranks"][str(rank)]["host"] for rank in range(4)]
        assert hosts == [job.nodes[0], job.nodes[0], job.nodes[1], job.nodes[1]]
        assert (report["world_size"], report["run"]) == (4, f"slurm-{job.id}")
    assert fetched(hub) == Counter(ALL)
    assert_whole(hub, desk)


def test_a_rank_in_the_submitters_shell_is_refused(hub: LocalHub, desk: Desk) -> None:
    """With it every rank would download; each of them names what contradicts it instead."""
    job = desk.warmup(RANK="0", WORLD_SIZE="1").wait()
    assert (job.state, job.shown()["ExitCode"], job.restarts) == ("FAILED", "2:0", 0)
    assert_all_said(job, 4, 2)
    for rank in range(4):
        contradicts = f"RANK=0 of WORLD_SIZE=1 contradicts SLURM_PROCID={rank} of SLURM_STEP_NUM"
        assert contradicts in job.said(rank)
    assert hub.requests == ()


def test_a_hub_that_answers_429_and_503_costs_retries_alone(hub: LocalHub, desk: Desk) -> None:
    """Some requests are refused: they are made again, each image comes once, and the report counts them by cause."""
    hub.faults.add(
        Fault.status(429, retry_after=1, path="train/*.jpg", times=8),
        Fault.status(503, path="train/*.jpg", every=7, times=6),
    )
    job = desk.warmup().completed()
    assert_all_said(job, 4)
    assert fetched(hub) == Counter(ALL)
    # It has no Parquet
    refused = Counter(
        one.status for one in hub.requests if one.status >= 400 and one.kind != "tree"
    )
    assert refused == {429: 8, 503: 6}
    assert job.restarts == 0
    assert job.report["retries"]
    assert_whole(hub, desk)


def test_two_jobs_on_one_directory_download_once(hub: LocalHub, desk: Desk) -> None:
    """Submitted at once, one of them downloads; the other waits for its lease, and both are done."""
    hold(hub)
    jobs = [desk.warmup(**HOLDING), desk.warmup(**HOLDING)]
    until(lambda: any("waiting for the lease" in job.said(0) for job in jobs), "one that waits")
    until(lambda: desk.kept() == ALL - LAST, "the middle of the download")
    hub.faults.clear()
    for job in jobs:
        assert_all_said(job.completed(), 4)
    assert {job.report["files"] for job in jobs} == {0, COUNT}
    assert fetched(hub) == Counter(ALL)


def test_an_array_warms_two_splits_and_restarts_one_task_alone(hub: LocalHub, desk: Desk) -> None:
    """Each task takes its line of the file; the last one, whose job id is the array's own, fails and is queued again alone."""
    (desk.directory / "splits.txt").write_text(
        "--split train\n--split 'validation'\n", encoding="utf-8"
    )
    hub.faults.add(Fault.status(503, path="validation/*.jpg"))
    options = "--nodes=2 --ntasks-per-node=2 --array=1-2"
    array = desk.warmup("--attempts", "2", options=options, ARRAY_FILE="splits.txt")
    train, validation = (Job(f"{array.id}_{task}", desk) for task in (1, 2))
    until_restarted(validation)
    hub.faults.clear()
    for job in (train, validation):
        job.completed()
    assert (train.restarts, validation.restarts) == (0, 1)
    assert validation.shown()["JobId"] == array.id
    assert_all_said(train, 4)
    assert_all_said(validation, 4, 75)
    assert_all_said(validation, 4, restart=1)
    for split in ("train", "validation"):
        assert fetched(hub, split) == Counter(ALL)
        assert_whole(hub, desk, split)


def test_ranks_are_the_users_and_the_token_is_nowhere_but_in_its_file(
    dataset: Path, desk: Desk
) -> None:
    """A private repository, a token in a file that its user alone may read: no log, no state of SLURM, no command line has it."""
    token = "hf_" + "thisIsMySecret"
    file = desk.directory / "token"
    file.write_text(token, encoding="utf-8")
    file.chmod(0o600)
    on("ctl", "chown", str(USER), str(file))
    with LocalHub(dataset, host=CONTROLLER, token=token) as private:
        hold(private)
        variables = {
            "STEP37_ENDPOINT": private.endpoint,
            "STEP37_TOKEN_FILE": str(desk.shared / "token"),
            **HOLDING,
        }
        job = desk.warmup(**variables)
        until_held(desk, job)
        seen = on("ctl", "scontrol", "--details", "show", "job", job.id)
        seen += "".join(
            on(node, "bash", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '")
            for node in job.nodes
        )
        seen += on(
            "ctl",
            "grep",
            "--recursive",
            "--text",
            "--no-filename",
            "STEP37_TOKEN_FILE",
            str(RIG / "state"),
            str(RIG / "spool"),
        )
        private.faults.clear()
        job.completed()
        assert_all_said(job, 4)
        assert any(one.authorization for one in private.requests)
    assert "STEP37_TOKEN_FILE" in seen
    assert token not in seen + job.everything
    kept = [desk.directory / "cache", *(desk.directory / "cache").rglob("*")]
    assert {path.stat().st_uid for path in kept} == {USER}
    assert oct((desk.directory / "cache" / "train" / "0000.jpg").stat().st_mode) == oct(0o100644)


def test_a_token_in_the_environment_is_refused(hub: LocalHub, desk: Desk) -> None:
    """SLURM would keep it: the job fails at once, says how else, and repeats nothing of it."""
    job = desk.warmup(HF_TOKEN="hf_thisIsMySecret").wait()
    assert (job.state, job.shown()["ExitCode"], job.restarts) == ("FAILED", "2:0", 0)
    assert "put the token into a file" in job.log
    assert "hf_thisIsMySecret" not in job.log
    assert hub.requests == ()


def test_the_machines_of_the_rig_see_late() -> None:
    """What a machine has looked for in vain it goes on missing, after it has come to be, until the directory is listed there."""
    (RIG / "backing" / "late").mkdir()
    file = RIG / "shared" / "late" / "file"
    look = ("bash", "-c", f"stat {file} >/dev/null 2>&1 || echo missing")
    assert on("ctl", *look) == "missing\n"
    (RIG / "backing" / "late" / "file").touch()
    assert on("ctl", *look) == "missing\n"
    assert on("ctl", "ls", str(file.parent)) == "file\n"
    assert on("ctl", *look) == ""
