"""The contract between the SLURM scripts and the command, without a cluster.

``make test-slurm`` submits them to a real one. Here ``srun`` and ``scontrol`` are recorders: they
note what they were called with, and ranks end as the test says.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.cli.parser import build_parser, read_settings
from step37_flickr8k.cluster.slurm import first_host, step_port
from step37_flickr8k.settings import Loaded, WarmupSettings
from step37_flickr8k.settings.reference import flags

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "slurm"
TEXTS = [*SCRIPTS.iterdir(), ROOT / "docs" / "slurm.md"]
RUNTIMES = {
    "venv": {"VENV": str(Path(sys.executable).parents[1])},
    "pyxis": {"CONTAINER_IMAGE": "registry#step37:1", "CONTAINER_MOUNTS": "/lustre:/lustre"},
    "apptainer": {"CONTAINER_IMAGE": "step37.sif", "CONTAINER_MOUNTS": "/lustre:/lustre"},
}
_SRUN = """
import json, os, pathlib, sys, time
signalled = pathlib.Path(os.environ["CALLS"] + "-signalled")
for output in [one.partition("=")[2] for one in sys.argv if one.startswith("--output=")]:
    with open(output.replace("%%", "%"), "a") as out:
        for rank, code in json.loads(os.environ["WORDS"]).items():
            end = time.monotonic() + 60
            while code == 143 and not signalled.exists() and time.monotonic() < end:
                time.sleep(0.05)
            print(f"{rank}: ended with {code}", os.environ["LAST_WORD"], file=out, flush=True)
        print(os.environ.get("FORGED", ""), file=out)
named = pathlib.Path(os.environ.get("STEP37_JOB_SECRET_FILE") or "/dev/null")
secret = [named.read_text(), named.stat().st_mode & 0o777]
with open(os.environ["CALLS"], "a") as calls:
    started = {"srun": sys.argv[1:], "environment": dict(os.environ), "secret": secret}
    print(json.dumps(started), file=calls)
sys.exit(int(os.environ["SRUN_CODE"]))
"""
_SCONTROL = """
import json, os, sys
with open(os.environ["CALLS"] + "-asked", "a+") as asked:
    asked.write(".")
    asked.seek(0)
    number = len(asked.read())
if number in json.loads(os.environ["AWAY"]):
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
if sys.argv[1] == "requeue":
    with open(os.environ["CALLS"], "a") as calls:
        print(json.dumps({"requeue": sys.argv[2]}), file=calls)
    sys.exit("Requested operation is presently disabled")  # else the script would wait for its end
print(os.environ["SHOWN"])
"""
_SCANCEL = """
import os, sys
with open(os.environ["CALLS"] + "-signalled", "a") as signalled:
    print(*sys.argv[1:], file=signalled)
"""


@dataclass(frozen=True)
class Ran:
    """What a batch script did."""

    code: int
    said: str
    srun: list[str]
    environment: dict[str, str]
    requeued: list[str]
    secret: tuple[str, int] = ("", 0)

    @property
    def settings(self) -> Loaded:
        """The settings that the command would find, read as the command reads them; an unknown variable or flag is an error."""
        command = self.srun[self.srun.index("step37-flickr8k") + 1 :]
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("STEP37_", "HF_"))]:
                patch.delenv(name)
            for name in [name for name in self.environment if name.startswith(("STEP37_", "HF_"))]:
                patch.setenv(name, self.environment[name])
            return read_settings(build_parser().parse_args(command))


Words = dict[int, int]


def run(
    directory: Path,
    *arguments: str,
    name: str = "warmup.sbatch",
    variables: Mapping[str, str] | None = None,
    words: Words | None = None,
    srun_code: int = 0,
    away: range = range(0),
    hurried: bool = False,
) -> Ran:
    """Run a batch script as SLURM would, from a spool directory; note the last that it starts.

    The controller doesn't answer those of its requests that ``away`` numbers, from 1.
    If ``hurried``, no ``sleep`` takes any time. A rank of code 143 runs until it is signalled.
    """
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    for tool, text in (("srun", _SRUN), ("scontrol", _SCONTROL), ("scancel", _SCANCEL)):
        program = tools / f"{tool}.py"
        program.write_text(text, encoding="utf-8")
        # Not by a line that begins with #!: the path of this Python may have a blank
        (tools / tool).write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n', encoding="utf-8"
        )
        (tools / tool).chmod(0o755)
    if hurried:
        (tools / "sleep").symlink_to("/bin/true")
    script, calls = SCRIPTS / name, directory / "calls"
    spooled = directory / "spool" / "slurm_script"
    spooled.parent.mkdir(exist_ok=True)
    shutil.copy(script, spooled)
    said = {
        "AWAY": json.dumps([*away]),
        "SHOWN": f"JobId=12\n   Command={' '.join([str(script), *arguments])}\n   StdOut=x",
        "WORDS": json.dumps(dict.fromkeys(range(4), 0) if words is None else words),
    }
    slurm = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NAME": "warmup",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "4",
    }
    home = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(directory),
        "CALLS": str(calls),
        "SRUN_CODE": str(srun_code),
    }
    environment = home | said | slurm | RUNTIMES["venv"] | dict(variables or {})
    log = directory / "warmup-12.log"
    with log.open("a") as out:
        done = subprocess.run(
            ["bash", spooled, *arguments],
            cwd=directory,
            env=environment,
            stdout=out,
            stderr=out,
            check=False,
        )
    noted = (
        [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
        if calls.exists()
        else []
    )
    started: dict[str, Any] = next(
        (one for one in reversed(noted) if "srun" in one), {"srun": [], "environment": {}}
    )
    requeued = [one["requeue"] for one in noted if "requeue" in one]
    return Ran(
        done.returncode,
        log.read_text(encoding="utf-8"),
        started["srun"],
        started["environment"],
        requeued,
        tuple(started.get("secret", ("", 0))),
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_the_script_starts_has_valid_settings(tmp_path: Path, runtime: str) -> None:
    """In each runtime the command gets the user's settings and flags, a report and an address."""
    (tmp_path / "warmup.yaml").write_text("split: validation\n", encoding="utf-8")
    given = {
        "RUN_IN": runtime,
        "STEP37_CACHE_DIR": "/lustre/cache",
        "STEP37_VISIBILITY_TIMEOUT": "3m",
        **RUNTIMES[runtime],
    }
    ran = run(
        tmp_path,
        "--settings",
        str(tmp_path / "warmup.yaml"),
        "--sample-count",
        "8",
        variables=given,
    )
    assert ran.code == 0, ran.said
    settings = ran.settings.settings
    assert isinstance(settings, WarmupSettings)
    assert (settings.cache_dir, settings.split, settings.sample_count) == (
        Path("/lustre/cache"),
        "validation",
        8,
    )
    assert settings.report == tmp_path / "warmup-12.json"
    assert (ran.environment["MASTER_ADDR"], ran.environment["MASTER_PORT"]) == ("n1", "20012")


def test_the_job_says_what_srun_must_not_take_from_the_site(tmp_path: Path) -> None:
    """One lost rank ends no other, however long the rest takes; nodes and tasks are stated once."""
    ran = run(tmp_path)
    assert {"--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--open-mode=append"} <= set(ran.srun)
    assert f"--output={tmp_path}/warmup-12-ranks-r0.log" in ran.srun
    assert "--export=ALL" in ran.srun
    assert not [one for one in ran.srun if one.startswith(("--nodes", "--ntasks", "-N", "-n"))]
    script = (SCRIPTS / "warmup.sbatch").read_text(encoding="utf-8")
    assert (
        len(re.findall(r"^#SBATCH .*--nodes=\d+ --ntasks-per-node=\d+", script, re.MULTILINE)) == 1
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["warmup.sbatch", "train-after-warmup.sbatch"])
def test_ranks_get_all_that_the_script_sets(tmp_path: Path, name: str, runtime: str) -> None:
    """``sbatch --export=LIST`` holds for the batch script alone: its ranks get MASTER_ADDR, too."""
    variables = {"RUN_IN": runtime, "SLURM_EXPORT_ENV": "PATH", **RUNTIMES[runtime]}
    assert "--export=ALL" in run(tmp_path, name=name, variables=variables).srun


@pytest.mark.parametrize("name", ["warmup.sbatch", "train-after-warmup.sbatch"])
def test_a_controller_that_restarts_is_asked_again(tmp_path: Path, name: str) -> None:
    """When slurmctld restarts as the job starts, the script asks until it is answered."""
    ran = run(tmp_path, name=name, away=range(1, 10), hurried=True)
    assert ran.code == 0, ran.said
    assert ran.said.count("Unable to contact slurm controller") == 9


@pytest.mark.parametrize("name", ["warmup.sbatch", "train-after-warmup.sbatch"])
def test_a_controller_that_stays_away_is_no_wrong_configuration(tmp_path: Path, name: str) -> None:
    """After minutes the job ends with 75; the warmup is queued again, if that is answered."""
    ran = run(tmp_path, name=name, away=range(1, 61), hurried=True)
    assert (ran.code, ran.srun) == (75, [])
    assert ran.requeued == (["12"] if name == "warmup.sbatch" else [])
    assert "slurmctld hasn't answered" in ran.said


def test_a_restart_waits_for_the_controller(tmp_path: Path) -> None:
    """A requeue that can't reach slurmctld is asked for again; one that the site forbids isn't."""
    ran = run(tmp_path, words={0: 75}, srun_code=75, away=range(2, 6), hurried=True)
    assert ran.said.count("Unable to contact slurm controller") == 4
    assert (ran.code, ran.requeued) == (75, ["12"])
    assert "scontrol requeue: Requested operation is presently disabled" in ran.said


@pytest.mark.parametrize("name", ["warmup.sbatch", "train-after-warmup.sbatch"])
@pytest.mark.parametrize("variables", [{}, {"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "sh"}])
def test_a_batch_script_that_bash_runs_says_how_to_submit_it(
    name: str, variables: dict[str, str]
) -> None:
    """By ``salloc`` or ``sbatch --wrap``, too, it has none of the options at its top."""
    command = ["bash", str(SCRIPTS / name)]
    done = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"{SCRIPTS / name} is a batch script: submit it with sbatch {SCRIPTS / name}\n"
    )


def test_the_first_record_of_a_job_names_the_script(tmp_path: Path) -> None:
    """``scontrol`` shows every component of a heterogeneous job; the script is the same."""
    script = SCRIPTS / "warmup.sbatch"
    shown = "".join(
        f"JobId={number} HetJobId=12\n   Command={script}\n   WorkDir=/\n\n" for number in (12, 13)
    )
    ran = run(tmp_path, variables={"SHOWN": shown})
    assert ran.code == 0, ran.said


@pytest.mark.parametrize("shown", ["(null)", "/elsewhere/warmup.sbatch"])
def test_scripts_that_a_node_cannot_read_are_named(tmp_path: Path, shown: str) -> None:
    """Piped to sbatch, or copied alone: the message has the file, the node and the remedy."""
    ran = run(tmp_path, variables={"SHOWN": f"JobId=12\n   Command={shown}\n"})
    assert (ran.code, ran.srun) == (2, [])
    assert f"{Path(shown).parent}/common.sh can't be read on " in ran.said
    assert "submit warmup.sbatch itself" in ran.said


@pytest.mark.parametrize(
    "name", ["%t", "a/b", "50%x of %j", "..", 'it\'s "mine"', "two\nlines", "\\b"]
)
def test_any_name_of_a_job_will_do(tmp_path: Path, name: str) -> None:
    """No file's name has it: ``srun --output`` would expand it, and all ranks would seem lost."""
    ran = run(tmp_path, variables={"SLURM_JOB_NAME": name})
    assert ran.code == 0, ran.said
    assert "was lost" not in ran.said
    assert f"--output={tmp_path}/warmup-12-ranks-r0.log" in ran.srun
    assert ran.environment["STEP37_REPORT"] == f"{tmp_path}/warmup-12.json"
    for script in SCRIPTS.glob("*.sbatch"):
        assert "%x" not in script.read_text(encoding="utf-8")


def test_a_directory_with_a_percent_sign_is_none_of_sruns_patterns(tmp_path: Path) -> None:
    """``%%`` is what srun writes as ``%``."""
    (place := tmp_path / "100%j").mkdir()
    ran = run(place, words={})
    assert f"--output={tmp_path}/100%%j/warmup-12-ranks-r0.log" in ran.srun


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n[1-2]", "n1"),
        ("n[01-03,07],gpu-1", "n01"),
        ("gpu-1,n[01-03]", "gpu-1"),
        ("rack[2-3]-n[08,10]-ib", "rack2-n08-ib"),
        ("alpha,beta", "alpha"),
        ("n7.cluster.example", "n7.cluster.example"),
    ],
)
def test_ranks_meet_on_the_first_node_as_the_command_finds_it(
    tmp_path: Path, nodes: str, host: str
) -> None:
    """The script's MASTER_ADDR and MASTER_PORT are those that a bare ``srun`` would derive."""
    ran = run(tmp_path, variables={"SLURM_JOB_NODELIST": nodes, "SLURM_RESTART_COUNT": "2"})
    said = (ran.environment["MASTER_ADDR"], int(ran.environment["MASTER_PORT"]))
    assert said == (first_host(nodes), step_port(12, 0, 2)) == (host, 22030)


def test_a_file_that_arranges_the_ranks_says_where_they_meet(tmp_path: Path) -> None:
    """With ``--distribution=arbitrary`` rank 0 runs on the first host of SLURM_HOSTFILE."""
    (tmp_path / "hosts").write_text("n2\nn1\n", encoding="utf-8")
    ran = run(tmp_path, variables={"SLURM_HOSTFILE": str(tmp_path / "hosts")})
    assert ran.environment["MASTER_ADDR"] == "n2"


def test_a_port_of_ones_own_is_respected_and_a_restart_takes_another(tmp_path: Path) -> None:
    """MASTER_PORT of the submission stays; without it each restart has a port of its own."""
    assert run(tmp_path, variables={"MASTER_PORT": "4000"}).environment["MASTER_PORT"] == "4000"
    ports = {
        run(tmp_path, variables={"SLURM_RESTART_COUNT": str(restart)}).environment["MASTER_PORT"]
        for restart in range(4)
    }
    assert len(ports) == 4


def test_pyxis_lets_the_jobs_variables_win_and_mounts_no_home(tmp_path: Path) -> None:
    """Each variable of ours is named to pyxis, since an image's own would beat it; submission, logs and scripts are mounted."""
    ran = run(
        tmp_path,
        variables={
            "RUN_IN": "pyxis",
            "STEP37_SPLIT": "test",
            "HTTPS_PROXY": "http://proxy:1",
            **RUNTIMES["pyxis"],
        },
    )
    (named,) = [
        one.partition("=")[2].split(",") for one in ran.srun if one.startswith("--container-env=")
    ]
    ours = {name for name in ran.environment if name.startswith(("STEP37_", "MASTER_"))}
    assert set(named) == ours | {"HTTPS_PROXY"}
    assert "--no-container-mount-home" in ran.srun
    assert "--container-image=registry#step37:1" in ran.srun
    assert (
        f"--container-mounts={tmp_path}:{tmp_path},{tmp_path}:{tmp_path},{SCRIPTS}:{SCRIPTS},/lustre:/lustre"
        in ran.srun
    )


def test_apptainer_stands_before_the_command_and_mounts_no_home(tmp_path: Path) -> None:
    """Apptainer is started by each rank, with what must be mounted."""
    (tmp_path / "hf").mkdir()
    ran = run(
        tmp_path,
        variables={"RUN_IN": "apptainer", "HF_HOME": str(tmp_path / "hf"), **RUNTIMES["apptainer"]},
    )
    command = ran.srun[ran.srun.index("apptainer") :]
    mounts = f"{tmp_path},{tmp_path},{SCRIPTS},/lustre:/lustre,{tmp_path}/hf"
    assert command == [
        *("apptainer", "exec", "--no-home", "--pwd", str(tmp_path), "--bind", mounts, "step37.sif"),
        *("step37-flickr8k", "warmup"),
    ]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RUN_IN": "docker"}, "RUN_IN=docker is not known: it is venv, pyxis or apptainer"),
        ({"RUN_IN": "pyxis"}, "RUN_IN=pyxis needs CONTAINER_IMAGE"),
        ({"RUN_IN": "apptainer"}, "RUN_IN=apptainer needs CONTAINER_IMAGE"),
        ({"VENV": "/nowhere"}, "/nowhere has no bin/step37-flickr8k"),
        ({"HF_TOKEN": "hf_secret"}, "put the token into a file"),
        ({"STEP37_TOKEN": "hf_secret"}, "put the token into a file"),
        ({"STEP37_HEADERS": '{"X-Key": "hf_secret"}'}, "put `headers` into the settings file"),
        ({"ARRAY_FILE": "splits.txt"}, "this is no job array"),
        (
            {"ARRAY_FILE": "none.txt", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"},
            "none.txt can't be read",
        ),
        (
            {"ARRAY_FILE": "splits.txt", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "9"},
            "nothing on line 9",
        ),
        (
            {"ARRAY_FILE": "splits.txt", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"},
            "line 2 can't be split",
        ),
    ],
)
def test_what_is_wrong_ends_with_2_before_any_rank(
    tmp_path: Path, variables: dict[str, str], told: str
) -> None:
    """The log names the variable and the remedy; no rank starts, and no secret is repeated."""
    (tmp_path / "splits.txt").write_text(
        "--split train\n--split test --caption-key 'a caption\n", encoding="utf-8"
    )
    ran = run(tmp_path, variables=variables)
    assert (ran.code, ran.srun, ran.requeued) == (2, [], [])
    assert told in ran.said
    assert "hf_secret" not in ran.said


def chain(
    directory: Path, *arguments: str, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the chain helper; give how it ended, and what it submitted."""
    tools, submitted = directory / "tools", directory / "submitted"
    tools.mkdir()
    (tools / "sbatch").write_text(
        f'#!/bin/bash\necho "$*" >>{submitted}\necho 7\n', encoding="utf-8"
    )
    (tools / "sbatch").chmod(0o755)
    command = [
        "bash",
        str(SCRIPTS / "chain"),
        str(SCRIPTS / "train-after-warmup.sbatch"),
        *arguments,
    ]
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        **variables,
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done, submitted.read_text(encoding="utf-8").splitlines() if submitted.exists() else []


def test_the_chain_submits_the_training_behind_the_warmup(tmp_path: Path) -> None:
    """Both get the settings file; the training waits for the warmup's success, and goes when that can't come."""
    done, submitted = chain(tmp_path, "--settings", "w.yaml", RUN_IN="pyxis", **RUNTIMES["pyxis"])
    assert (done.returncode, len(submitted)) == (0, 2), done.stderr
    assert submitted[0] == f"--parsable {SCRIPTS}/warmup.sbatch --settings w.yaml"
    assert submitted[1].startswith("--dependency=afterok:7 --kill-on-invalid-dep=yes")
    assert submitted[1].endswith(f"{SCRIPTS}/train-after-warmup.sbatch --settings w.yaml")


@pytest.mark.parametrize(
    "arguments", [("--sample-count", "5"), ("--settings", "w.yaml", "--split", "test"), ("w.yaml",)]
)
def test_the_chain_takes_no_flag_that_the_training_does_not_know(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """What the training would refuse hours later is refused at submission."""
    done, submitted = chain(tmp_path, *arguments, RUN_IN="pyxis", **RUNTIMES["pyxis"])
    assert (done.returncode, submitted) == (2, [])
    assert "only --settings FILE" in done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_training_runs_the_one_script_offline(tmp_path: Path, runtime: str) -> None:
    """Its ranks start the script of ``examples/`` with the warmup's settings; containers see its directory."""
    variables = {"RUN_IN": runtime, **RUNTIMES[runtime]}
    ran = run(
        tmp_path, "--settings", "w.yaml", name="train-after-warmup.sbatch", variables=variables
    )
    assert ran.code == 0, ran.said
    examples = ROOT / "examples"
    assert ran.srun[-4:] == ["python3", f"{examples}/train.py", "--settings", "w.yaml"]
    assert (examples / "train.py").is_file()
    assert any(f"{examples}:{examples}" in one for one in ran.srun) == (runtime != "venv")
    assert ran.environment["STEP37_OFFLINE"] == "true"


def test_a_task_of_an_array_takes_its_line(tmp_path: Path) -> None:
    """Words are those that a shell would make of the line; files carry the job's own id."""
    (tmp_path / "splits.txt").write_text(
        "--split train\n--split validation --caption-key 'a caption'\n", encoding="utf-8"
    )
    array = {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "2", "ARRAY_FILE": "splits.txt"}
    ran = run(tmp_path, "--concurrency", "3", words={0: 75}, srun_code=75, variables=array)
    settings = ran.settings.settings
    assert (settings.split, settings.caption_key, settings.concurrency) == (
        "validation",
        "a caption",
        3,
    )
    assert ran.requeued == ["11_2"]


@pytest.mark.parametrize(
    ("words", "srun_code", "code", "again"),
    [
        ({0: 0, 1: 0, 2: 0, 3: 0}, 0, 0, False),
        ({0: 0, 1: 0}, 137, 0, False),  # a waiter's node is lost: a warm cache is a warm cache
        ({0: 0, 1: 0, 2: 0, 3: 137}, 137, 0, False),
        ({0: 75, 1: 75, 2: 75, 3: 75}, 75, 75, True),
        ({0: 137, 1: 76, 2: 76, 3: 76}, 137, 137, True),
        ({1: 76, 2: 76, 3: 76}, 253, 76, True),  # memory: srun's code is none of ours
        ({0: 2, 1: 2, 2: 2, 3: 2}, 2, 2, False),
        ({0: 137, 1: 76, 2: 2, 3: 76}, 137, 2, False),  # one that can't be mended by itself wins
        ({0: 1, 1: 1, 2: 1, 3: 1}, 1, 1, False),
        ({}, 0, 1, False),  # no rank was launched
        ({}, 137, 137, True),
    ],
)
def test_the_ranks_own_words_decide(
    tmp_path: Path, words: Words, srun_code: int, code: int, again: bool
) -> None:
    """The job's code and whether it is queued again follow from what each rank said, not from srun's largest code."""
    ran = run(tmp_path, words=words, srun_code=srun_code)
    assert (ran.code, ran.requeued) == (code, ["12"] if again else []), ran.said
    for rank in set(range(4)) - set(words):
        assert f"rank {rank} was lost" in ran.said


def test_ranks_that_never_met_rank_zero_are_ended_after_it(tmp_path: Path) -> None:
    """If rank 0 fails before it serves the store, the step ends long before arrival_timeout."""
    ran = run(tmp_path, words={0: 75, 1: 143, 2: 143, 3: 143}, srun_code=143, hurried=True)
    assert (ran.code, ran.requeued) == (75, ["12"]), ran.said
    assert "rank 0 has failed: the ranks that still wait for it are ended" in ran.said
    signalled = (tmp_path / "calls-signalled").read_text(encoding="utf-8")
    assert signalled == "--signal=TERM 12\n"


def test_restarts_have_their_limit(tmp_path: Path) -> None:
    """After MAX_RESTARTS a failure that may pass is left to people; the default is three."""
    for restart, limit, again in (
        (2, None, True),
        (3, None, False),
        (1, "1", False),
        (0, "0", False),
    ):
        limited = {} if limit is None else {"MAX_RESTARTS": limit}
        place = tmp_path / f"{restart}-{limit}"
        place.mkdir()
        ran = run(
            place,
            words={0: 75},
            srun_code=75,
            variables={"SLURM_RESTART_COUNT": str(restart), **limited},
        )
        assert (ran.code, bool(ran.requeued)) == (75, again)
        assert ("read" in ran.said) != again


@pytest.mark.parametrize(
    ("code", "place", "alive", "state", "restart", "done"),
    [
        (76, "1,0", False, "RUNNING", "0", "requeue 12_1"),
        (76, "1,0", False, "RUNNING", "3", "cancel 12_1"),
        (76, "1,0", True, "RUNNING", "0", ""),
        (76, "1,0", False, "CANCELLED", "0", ""),
        (76, "1,1", False, "RUNNING", "0", ""),
        (76, "2,0", False, "RUNNING", "0", ""),
        (75, "1,0", False, "RUNNING", "0", ""),
        (0, "1,0", False, "RUNNING", "0", ""),
    ],
)
def test_one_rank_speaks_for_a_batch_script_that_is_lost(
    tmp_path: Path, code: int, place: str, alive: bool, state: str, restart: str, done: str
) -> None:
    """The second node's first rank alone, after 76, when srun doesn't answer, and never for a job that was cancelled."""
    noted = tmp_path / "noted"
    for name, text in (
        ("scontrol", f'[ "$1" = show ] && echo JobState={state} || echo "$*" >>{noted}'),
        ("scancel", f'echo "cancel $*" >>{noted}'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as srun:
        port = srun.getsockname()[1] if alive else 1
        node, local = place.split(",")
        slurm = {"SLURM_NODEID": node, "SLURM_LOCALID": local, "SLURM_RESTART_COUNT": restart}
        slurm |= {"SLURM_SRUN_COMM_HOST": "127.0.0.1", "SLURM_SRUN_COMM_PORT": str(port)}
        ends = f'[ -z "${{LAST_WORD:-}}" ] && exit {code}'
        command = ["bash", str(SCRIPTS / "rank.sh"), "12_1", "bash", "-c", ends]
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LAST_WORD": "w", **slurm}
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
    assert (ended.returncode, ended.stdout) == (code, f"ended with {code} w\n")
    assert (noted.read_text(encoding="utf-8").strip() if noted.exists() else "") == done


@pytest.mark.parametrize("code", [0, 75])
def test_a_line_that_a_rank_was_made_to_print_is_no_last_word(tmp_path: Path, code: int) -> None:
    """What a data set has a rank print, as if it had ended otherwise, decides nothing."""
    word = "0" * 64
    forged = f"0: ended with {75 - code}\n 0: ended with {75 - code} {word}\n1: ended with 2"
    ran = run(tmp_path, words={0: code}, srun_code=code, variables={"FORGED": forged}, hurried=True)
    assert ran.code == code, ran.said
    assert ran.environment["LAST_WORD"] not in ran.said


def test_each_start_of_a_job_has_a_secret_of_its_own(tmp_path: Path) -> None:
    """64 digits that nobody else can read, gone when the job ends, or is queued again."""
    (tmp_path / ".warmup-12-r0.secret").write_text("of a start whose node was lost")
    first = run(tmp_path, variables={"SLURM_RESTART_COUNT": "1"})
    again = run(tmp_path, words={0: 75}, srun_code=75, hurried=True)
    for ran in (first, again):
        text, mode = ran.secret
        assert re.fullmatch("[0-9a-f]{64}", text)
        assert mode == 0o600
        assert text not in ran.said
    assert first.secret != again.secret
    assert not [*tmp_path.glob(".*.secret")]
    assert str(first.settings.settings.job_secret_file) == f"{tmp_path}/.warmup-12-r1.secret"


def test_a_submission_may_bring_a_secret_or_want_none(tmp_path: Path) -> None:
    """A file that the user names stays as it is; an empty variable is no secret."""
    own = tmp_path / "own"
    own.write_text("the user's own secret")
    ran = run(tmp_path, variables={"STEP37_JOB_SECRET_FILE": str(own)})
    assert (ran.code, ran.secret[0]) == (0, own.read_text())
    ran = run(tmp_path, variables={"STEP37_JOB_SECRET_FILE": ""})
    assert (ran.code, ran.secret[0]) == (0, "")
    assert ran.settings.settings.job_secret_file is None


def test_scripts_and_documents_name_only_what_exists() -> None:
    """Every STEP37_ variable is a setting's, and every flag behind the command's name is one of the command's."""
    known = {f"STEP37_{name.upper()}" for name in WarmupSettings.model_fields} | {
        "STEP37_RUN_ID",
        "STEP37_SETTINGS",
    }
    options = {flag.flag for flag in flags()} | {"--settings", "--json", "--help"}
    for text in TEXTS:
        content = text.read_text(encoding="utf-8")
        assert set(re.findall(r"\bSTEP37_[A-Z_]*[A-Z]\b", content)) <= known, text
        for line in re.findall(
            r"(?:step37-flickr8k (?:warmup|plan|verify)|warmup\.sbatch) ([^`#\n|]*)", content
        ):
            assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= options, f"{text}: {line}"


def test_the_documents_say_which_options_restarts_depend_on() -> None:
    """``sbatch --signal=USR2@30`` ends restarts at the time limit: each such option is named."""
    script = (SCRIPTS / "warmup.sbatch").read_text(encoding="utf-8").partition("set -euo")[0]
    at_the_top = re.findall(r"(?<= )--(?:no-kill|requeue|signal|open-mode)\S*", script)
    documents = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
    (paragraph,) = re.findall(
        r"^\*\*Restarts depend on.*?\n\n", documents, re.DOTALL | re.MULTILINE
    )
    assert {f"`{option}`" for option in at_the_top} <= {*re.findall("`[^`]+`", paragraph)}
    assert "0:12" in paragraph


def test_no_script_shows_what_it_expands() -> None:
    """``set -x`` would print tokens and headers into logs that others may read."""
    for script in SCRIPTS.iterdir():
        assert not re.search(r"set -[a-z]*x|xtrace", script.read_text(encoding="utf-8")), script
