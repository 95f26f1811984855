"""The contract between the manifests of ``k8s/``, the API server and the command, without a cluster; ``make test-k8s`` has one.

Each overlay is built as a user builds it. The API server's own rules, which no schema holds, stand
here as code.
"""

import copy
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from step37_flickr8k import __version__, cli
from step37_flickr8k.cli.parser import build_parser, read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.errors import CacheDamaged, ConfigurationError, RankZeroLost
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import WarmupSettings, load_settings
from tests import conftest

Value = dict[str, Any]
ROOT = Path(__file__).parents[2]
# Not the rig's, which listens where pods reach it.
hub = conftest.hub
K8S = ROOT / "k8s"
EXAMPLES = ROOT / "examples"
OVERLAYS = sorted(directory.name for directory in (K8S / "overlays").iterdir())
BESIDE = {"cron", "train"}  # stand beside a warmup, whose settings and claim they use
OLDEST = "1.31"  # has all that the Job needs
KUBECTL = ROOT / "tools" / "kubectl"


def kustomize(directory: Path) -> list[Value]:
    done = subprocess.run(
        [KUBECTL, "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def build(overlay: str) -> list[Value]:
    return kustomize(K8S / "overlays" / overlay)


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], list[Value]]:
    """Build a kustomization of one's own, which lies beside the overlays."""
    for directory in (K8S, EXAMPLES):
        shutil.copytree(directory, tmp_path / directory.name)

    def built(text: str) -> list[Value]:
        directory = tmp_path / "k8s" / "overlays" / "mine"
        directory.mkdir(exist_ok=True)
        (directory / "kustomization.yaml").write_text(text, encoding="utf-8")
        return kustomize(directory)

    return built


def find(objects: list[Value], kind: str) -> Value:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def job_of(built: Value) -> Value:
    """Give a Job, or the one that a CronJob makes, by the CronJob's name."""
    if built["kind"] == "CronJob":
        return {
            "kind": "Job",
            "metadata": built["metadata"],
            "spec": built["spec"]["jobTemplate"]["spec"],
        }
    return built


def jobs(objects: list[Value]) -> list[Value]:
    return [job_of(each) for each in objects if each["kind"] in {"Job", "CronJob"}]


def pod_of(job: Value) -> Value:
    pod: Value = job["spec"]["template"]["spec"]
    return pod


def containers(job: Value) -> list[Value]:
    return [*pod_of(job).get("initContainers", []), *pod_of(job)["containers"]]


@pytest.fixture(autouse=True, scope="module")
def _kubectl() -> None:
    """Say loudly what is not run without kubectl, and what would run it."""
    tried = subprocess.run(
        [KUBECTL, "version", "--client"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"the tests of the manifests in k8s/: {tried.stderr.strip()}")


# --- what the API server accepts ------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_what_the_api_knows(overlay: str) -> None:
    """Each object has the fields of its kind and no other, in the oldest version that will do."""
    for each in build(overlay):
        kubernetes_validate.validate(each, OLDEST, strict=True)


def refusals(job: Value) -> Iterator[str]:
    """Say what the API server would refuse of a Job that its schema allows."""
    spec = job["spec"]
    indexed, never = (
        spec.get("completionMode") == "Indexed",
        pod_of(job)["restartPolicy"] == "Never",
    )
    host = f"{job['metadata']['name']}-{spec.get('completions', 1) - 1}"
    if indexed and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", host):
        yield "the name with its index is no host name"
    if "backoffLimitPerIndex" in spec and not (indexed and never):
        yield "backoffLimitPerIndex needs Indexed and restartPolicy Never"
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        yield "maxFailedIndexes needs backoffLimitPerIndex"
    if "successPolicy" in spec and not indexed:
        yield "successPolicy needs Indexed"
    if "podFailurePolicy" in spec and not (
        never and spec.get("podReplacementPolicy", "Failed") == "Failed"
    ):
        yield "podFailurePolicy needs restartPolicy Never and podReplacementPolicy Failed"
    for rule in spec.get("podFailurePolicy", {"rules": []})["rules"]:
        yield from _refusals_of_rule(rule, job)


def _refusals_of_rule(rule: Value, job: Value) -> Iterator[str]:
    codes = rule.get("onExitCodes", {"values": [], "operator": "In"})
    if ("onExitCodes" in rule) == ("onPodConditions" in rule):
        yield "a rule has exit codes or conditions, one of them"
    if codes["values"] != sorted(set(codes["values"])):
        yield "exit codes are ordered"
    if 0 in codes["values"] and codes["operator"] == "In":
        yield "0 is no failure"
    if "containerName" in codes and codes["containerName"] not in {
        each["name"] for each in containers(job)
    }:
        yield "a rule names a container that isn't there"
    if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in job["spec"]:
        yield "FailIndex needs backoffLimitPerIndex"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_takes_every_job(overlay: str) -> None:
    """The rules that the server holds beyond its schema are kept."""
    for job in jobs(build(overlay)):
        assert not list(refusals(job))


_FIRST = "spec.podFailurePolicy.rules.0."


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("metadata.name", "a" * 62, "no host name"),
        ("metadata.name", "warm.up", "no host name"),
        ("spec.completionMode", "NonIndexed", "needs Indexed"),
        ("spec.template.spec.restartPolicy", "OnFailure", "podFailurePolicy needs"),
        ("spec.podReplacementPolicy", "TerminatingOrFailed", "podFailurePolicy needs"),
        ("spec.backoffLimitPerIndex", None, "maxFailedIndexes needs"),
        (_FIRST + "onExitCodes.values", [76, 2], "ordered"),
        (_FIRST + "onExitCodes.values", [0], "no failure"),
        (_FIRST + "onExitCodes.containerName", "c", "isn't there"),
        (_FIRST + "onExitCodes", None, "one of them"),
    ],
)
def test_a_job_that_the_server_refuses_is_known(place: str, value: object, told: str) -> None:
    """Each rule finds the fault that it is for: these changes of the real Job were refused by a real server."""
    job = copy.deepcopy(find(build("local"), "Job"))
    *way, last = place.split(".")
    there: Any = job
    for step in way:
        there = there[int(step) if step.isdigit() else step]
    if value is None:
        del there[last]
    else:
        there[last] = value
    assert any(told in each for each in refusals(job))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_restricted_namespaces_take_every_pod(overlay: str) -> None:
    """Each pod keeps the standard to the letter; a Job that doesn't is only warned of, and its pods are refused."""
    for job in jobs(build(overlay)):
        pod = pod_of(job)
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in pod["volumes"]:
            assert volume.keys() - {"name"} <= {
                "configMap",
                "emptyDir",
                "persistentVolumeClaim",
                "projected",
                "secret",
            }
        for container in containers(job):
            held = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["securityContext"] == held
            assert not any("hostPort" in port for port in container.get("ports", []))


# --- what the command makes of it -----------------------------------------------------------------


def environment(container: Value, objects: list[Value], job: Value) -> dict[str, str]:
    """Give what the container finds: the ConfigMap, then its own variables, with the downward API's of rank 0 on n1."""
    name = job["metadata"]["name"]
    fields = {
        "spec.nodeName": "n1",
        "metadata.labels['batch.kubernetes.io/job-name']": name,
        "metadata.labels['batch.kubernetes.io/controller-uid']": "uid-1",
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": "0",
    }
    environ = (
        {"JOB_COMPLETION_INDEX": "0"} if job["spec"].get("completionMode") == "Indexed" else {}
    )
    for source in container.get("envFrom", []):
        (config,) = (
            each
            for each in objects
            if each["kind"] == "ConfigMap"
            and each["metadata"]["name"] == source["configMapRef"]["name"]
        )
        environ |= config["data"]
    for each in container["env"]:
        environ[each["name"]] = (
            each["value"] if "value" in each else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        )
    assert all(isinstance(value, str) for value in environ.values())
    return environ


def become(environ: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        patch.setenv(name, value)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_command_takes_what_every_container_is_given(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are valid and known, its flags exist, and they lead to the directory that is mounted."""
    objects = build(overlay) + (build("local") if overlay in BESIDE else [])
    for job in jobs(build(overlay)):
        for container in containers(job):
            with monkeypatch.context() as patch:
                become(environment(container, objects, job), patch)
                command = container.get("args", ["settings"])
                settings = read_settings(build_parser().parse_args(command)).settings
            assert isinstance(settings, WarmupSettings)
            assert any(
                str(settings.cache_dir).startswith(mount["mountPath"])
                for mount in container["volumeMounts"]
            )
            assert (settings.report == Path("/dev/termination-log")) == (command == ["warmup"])
            assert settings.cache_scope == ("node" if overlay == "node-cache" else "shared")
            assert (settings.endpoint == "https://hub.example.com") == (overlay == "private-hub")
            assert settings.offline == (overlay == "train")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ranks_meet_at_the_service_that_follows_rank_0(overlay: str) -> None:
    """As many ranks as WORLD_SIZE says meet by the Job's own name, which is a Service's that selects index 0, at its port."""
    objects = build(overlay) + (build("local") if overlay in BESIDE else [])
    for job in [
        job for job in jobs(build(overlay)) if job["spec"].get("completionMode") == "Indexed"
    ]:
        world = World.from_environment(environment(pod_of(job)["containers"][0], objects, job))
        assert world.size == job["spec"]["completions"] == job["spec"]["parallelism"]
        service = find(build(overlay), "Service")
        (port,) = service["spec"]["ports"]
        assert world.rendezvous() == (service["metadata"]["name"], port["port"])
        index = {
            "batch.kubernetes.io/job-name": job["metadata"]["name"],
            "batch.kubernetes.io/job-completion-index": "0",
        }
        assert service["spec"]["selector"] == index
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert world.host.startswith("n1/")
        assert world.run_id == ("uid-1" if job["metadata"]["name"] == "warmup" else None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_no_retry_mends_is_not_retried(overlay: str) -> None:
    """A configuration error fails the Job at once; a lost rank 0 and an eviction cost no try; it ends some day."""
    for job in jobs(build(overlay)):
        spec = job["spec"]
        fail, *ignored = spec["podFailurePolicy"]["rules"]
        codes = [ConfigurationError.exit_code]
        if overlay == "cron":  # it verifies, too
            codes.append(CacheDamaged.exit_code)
        assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", codes)
        codes = [code for rule in ignored for code in rule.get("onExitCodes", {}).get("values", [])]
        assert codes == ([RankZeroLost.exit_code] if job["metadata"]["name"] == "warmup" else [])
        assert ignored[-1] == {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        }
        assert {rule["action"] for rule in ignored} == {"Ignore"}
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["ttlSecondsAfterFinished"] >= 3600
        assert spec.get("backoffLimit", spec.get("backoffLimitPerIndex")) == 3


def test_a_follower_makes_way_for_rank_0_long_before_the_deadline() -> None:
    """Where a ResourceQuota is full, a follower's end lets rank 0 be created."""
    objects = build("local")
    settings = load_settings({}, environ=find(objects, "ConfigMap")["data"]).settings
    deadline = find(objects, "Job")["spec"]["activeDeadlineSeconds"]
    assert settings.arrival_timeout == 300 < deadline / 10


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name not in BESIDE])
def test_rank_0_alone_decides_over_a_shared_cache(overlay: str) -> None:
    """Its success is the Job's, since whoever is replaced later would look for it in vain; not so where each node has a cache."""
    spec = find(build(overlay), "Job")["spec"]
    shared = {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}
    assert spec.get("successPolicy") == (None if overlay == "node-cache" else shared)
    assert spec["maxFailedIndexes"] == 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_says_how_it_ended_and_holds_no_more_than_it_asked_for(overlay: str) -> None:
    """Its last words become the pod's message; requests and limits are there for namespaces with quotas."""
    for job in jobs(build(overlay)):
        for container in containers(job):
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert {*container["resources"]["requests"], *container["resources"]["limits"]} == {
                "cpu",
                "memory",
            }
            assert container["image"] == f"step37-flickr8k:{__version__}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_token_is_a_file_that_the_pods_user_can_read(overlay: str) -> None:
    """It comes from an optional Secret, mode 0444 for want of an fsGroup, and comes no other way."""
    for job in jobs(build(overlay)):
        pod, token = pod_of(job), "/etc/step37-flickr8k"
        assert "fsGroup" not in pod["securityContext"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for volume in (each for each in pod["volumes"] if "secret" in each):
            assert volume["secret"]["optional"] is True
            assert stat.S_IMODE(volume["secret"]["defaultMode"]) == 0o444
        for container in containers(job):
            variables = {each["name"]: each.get("value") for each in container["env"]}
            assert not any("secretKeyRef" in each.get("valueFrom", {}) for each in container["env"])
            assert not {"STEP37_TOKEN", "HF_TOKEN"} & variables.keys()
            assert variables.get("HF_TOKEN_PATH") in {None, f"{token}/token"}
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts.get("token", token) == token
            assert not any(
                path.startswith(("/run/secrets", "/var/run/secrets")) for path in mounts.values()
            )


def test_a_training_rank_reads_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has another uid than the warmup, mounts the volume read-only, and can't come to download."""
    job = find(build("train"), "Job")
    assert (
        pod_of(job)["securityContext"]["runAsUser"]
        != pod_of(find(build("local"), "Job"))["securityContext"]["runAsUser"]
    )
    for container in containers(job):
        cache = next(mount for mount in container["volumeMounts"] if mount["name"] == "cache")
        assert cache["readOnly"] is True
        become(environment(container, build("train") + build("local"), job), monkeypatch)
        assert read_settings(build_parser().parse_args(["settings"])).settings.offline


def test_a_training_rank_runs_the_one_script() -> None:
    """The ConfigMap that it mounts holds every script of ``examples/``; where it may write, its workers have their sockets."""
    objects = build("train")
    (container,) = pod_of(find(objects, "Job"))["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(find(objects, "Job"))["volumes"]}
    assert find(objects, "ConfigMap")["data"] == {
        path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")
    }
    assert volumes["script"]["configMap"]["name"] == find(objects, "ConfigMap")["metadata"]["name"]
    assert container["command"] == ["python", f"{mounts['script']}/train.py"]
    assert "emptyDir" in volumes["scratch"]
    assert mounts["scratch"] == "/tmp"


@pytest.mark.parametrize(
    "overlay", [name for name in OVERLAYS if name not in BESIDE | {"private-hub"}]
)
def test_a_volume_that_is_there_is_bound_and_kept(overlay: str) -> None:
    """Claim and volume name each other's class and size, many nodes write, and deleting the claim deletes no data."""
    volume, claim = (
        find(build(overlay), "PersistentVolume"),
        find(build(overlay), "PersistentVolumeClaim"),
    )
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
    assert claim["spec"]["resources"]["requests"] == volume["spec"]["capacity"]
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    # It would hold a namespace, which a kustomization on top doesn't set
    assert "claimRef" not in volume["spec"]
    claimed = [
        v for job in jobs(build(overlay)) for v in pod_of(job)["volumes"] if v["name"] == "cache"
    ]
    assert {v["persistentVolumeClaim"]["claimName"] for v in claimed} == {claim["metadata"]["name"]}


# --- what users put on top ------------------------------------------------------------------------


def test_the_documents_own_overlay_is_one(mine: Callable[[str], list[Value]]) -> None:
    """The example of the documents builds and is valid, and what it sets arrives: namespace, image, ranks, settings, volume."""
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(# k8s/overlays/mine/.*?)```", text, re.DOTALL)
    objects = mine(example)
    for each in objects:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    job = find(objects, "Job")
    assert not list(refusals(job))
    (container,) = containers(job)
    environ = environment(container, objects, job)
    assert (
        World.from_environment(environ).size
        == job["spec"]["completions"]
        == job["spec"]["parallelism"]
        == 8
    )
    assert container["image"] == "registry.example.com/step37-flickr8k:1"
    assert job["metadata"]["namespace"] == "ml"
    assert environ["STEP37_SAMPLE_COUNT"] == "1000"
    assert (
        find(objects, "PersistentVolume")["spec"]["csi"]["volumeAttributes"]["server"]
        == "nfs.mycompany.com"
    )


def test_the_initializer_of_kubeflow_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Job that JobSet makes an indexed one, the documents' container has valid settings and waits for nobody."""
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(replicatedJobs:.*?)```", text, re.DOTALL)
    job = yaml.safe_load(example)["replicatedJobs"][0]["template"]
    (container,) = containers(job)
    environ = {"JOB_COMPLETION_INDEX": "0"} | {
        each["name"]: each["value"] for each in container["env"]
    }
    become(environ, monkeypatch)
    assert World.from_environment(environ).size == 1
    settings = read_settings(build_parser().parse_args(container["args"])).settings
    assert str(settings.cache_dir) == container["volumeMounts"][0]["mountPath"]


def test_the_readme_names_the_image_that_the_manifests_run() -> None:
    """Who follows its three lines loads the image under the name that the pods ask for."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"step37-flickr8k:(\d[\w.]*)", readme)) == {__version__}


def test_two_warmups_live_in_one_namespace(mine: Callable[[str], list[Value]]) -> None:
    """With a prefix or suffix all names differ, and the ranks still meet: the Service follows its Job."""
    for change in ("namePrefix: vqa-", "nameSuffix: -vqa"):
        objects = mine(f"resources: [../local, ../train, ../cron]\n{change}\n")
        names = {(each["kind"], each["metadata"]["name"]) for each in objects}
        assert not names & {
            (each["kind"], each["metadata"]["name"])
            for each in build("local") + build("train") + build("cron")
        }
        for service in [each for each in objects if each["kind"] == "Service"]:
            assert (
                service["spec"]["selector"]["batch.kubernetes.io/job-name"]
                == service["metadata"]["name"]
            )
            assert ("Job", service["metadata"]["name"]) in names
        configs = {name for kind, name in names if kind == "ConfigMap"}
        for job in jobs(objects):
            assert {
                source["configMapRef"]["name"]
                for each in containers(job)
                for source in each["envFrom"]
            } <= configs


def test_a_private_hub_goes_with_any_volume(mine: Callable[[str], list[Value]]) -> None:
    """Beside any overlay its component gives the warmup and the weekly verify the address and the certificates."""
    objects = mine("resources: [../nfs, ../cron]\ncomponents: [../../components/private-hub]\n")
    assert find(objects, "ConfigMap")["data"]["STEP37_ENDPOINT"] == "https://hub.example.com"
    for job in jobs(objects):
        (container,) = containers(job)
        bundle = Path(environment(container, objects, job)["SSL_CERT_FILE"])
        (mounted,) = (
            mount for mount in container["volumeMounts"] if mount["mountPath"] == str(bundle.parent)
        )
        assert {"name": mounted["name"], "configMap": {"name": "hub-ca"}} in pod_of(job)["volumes"]


def test_no_sidecar_is_injected_where_the_documents_say_so(
    mine: Callable[[str], list[Value]],
) -> None:
    """The documents' patch tells Istio, Linkerd and Vault so, and keeps the pods' own labels."""
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(# [^\n]*without sidecars\n.*?)```", text, re.DOTALL)
    for job in jobs(mine(example)):
        kubernetes_validate.validate(job | {"apiVersion": "batch/v1"}, OLDEST, strict=True)
        pod = job["spec"]["template"]["metadata"]
        assert pod["labels"]["sidecar.istio.io/inject"] == "false"
        assert pod["labels"]["app.kubernetes.io/name"] == job["metadata"]["name"]
        assert pod["annotations"] == {
            "linkerd.io/inject": "disabled",
            "vault.hashicorp.com/agent-inject": "false",
        }


def test_a_mistyped_setting_is_refused(
    mine: Callable[[str], list[Value]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A ConfigMap with a wrong variable ends every rank with 2, which fails the Job, and names the right one."""
    patch = "{apiVersion: v1, kind: ConfigMap, metadata: {name: warmup-settings}, data: {STEP37_SAMPLE_CUONT: '8'}}"
    objects = mine(f'resources: [../local]\npatches: [{{patch: "{patch}"}}]\n')
    job = find(objects, "Job")
    become(environment(containers(job)[0], objects, job), monkeypatch)
    assert cli.run(["warmup"]) == 2
    assert "STEP37_SAMPLE_COUNT?" in capsys.readouterr().err


# --- the shell line that a training job waits with ------------------------------------------------


@pytest.fixture
def wait(cache: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Run the init container's own command, with this environment's ``step37-flickr8k`` before all others."""
    job = find(build("train"), "Job")
    (container,) = pod_of(job)["initContainers"]
    environ = environment(container, build("train") + build("local"), job)
    environ |= {
        "STEP37_CACHE_DIR": str(cache),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environ |= getattr(request, "param", {})
    # a shell can't trap what was ignored when it started, as SIGTERM is here after a test that ran
    # the command in this process
    command = [
        "env",
        "--default-signal=TERM",
        *(part.replace("sleep 10", "sleep 1") for part in container["command"]),
    ]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield process
        process.kill()


def test_a_training_job_waits_for_the_ready_record(
    wait: subprocess.Popen[str], hub: LocalHub, cache: Path
) -> None:
    """Before the record is there it says what it waits for, as no error; then the wait is over."""
    assert wait.stdout is not None
    first = wait.stdout.readline()
    assert re.match(r"waiting for the warmup, \d+ of 7200 s: ", first)
    assert "holds no ready record that fits" in first
    assert cli.run(["warmup", "--cache-dir", str(cache), "--endpoint", hub.endpoint]) == 0
    assert wait.wait(240) == 0
    rest = wait.stdout.read()
    assert "nothing to do" in rest
    assert "ERROR" not in first + rest


@pytest.mark.parametrize(
    "wait", [{"WARMUP_SECONDS": "2", "STEP37_LOG_FORMAT": "json"}], indirect=True
)
def test_a_wait_without_a_warmup_ends_the_job(wait: subprocess.Popen[str]) -> None:
    """A warmup that was never applied, or has failed, doesn't hold the pod's GPUs for a day."""
    assert wait.stdout is not None
    assert wait.wait(240) == 2
    *waiting, last = wait.stdout.read().splitlines()
    assert re.match(
        r"no ready record after \d+ s: apply a warmup, .* holds no ready record",
        last,
    )
    assert all(line.startswith("waiting for the warmup, ") for line in waiting)
    assert not re.search("error", "".join([*waiting, last]), re.IGNORECASE)


def test_a_training_waits_as_long_as_a_warmup_may_take() -> None:
    """Its bound is the warmup Job's own, and well below that of the training."""
    (container,) = pod_of(train := find(build("train"), "Job"))["initContainers"]
    (bound,) = (one["value"] for one in container["env"] if one["name"] == "WARMUP_SECONDS")
    assert int(bound) == find(build("local"), "Job")["spec"]["activeDeadlineSeconds"]
    assert int(bound) < train["spec"]["activeDeadlineSeconds"]


def test_a_wait_ends_by_sigterm(wait: subprocess.Popen[str]) -> None:
    """As process 1 of its container the shell has a trap, and sleeps where it can hear it."""
    assert wait.stdout is not None
    assert "holds no ready record that fits" in wait.stdout.readline()
    wait.terminate()
    assert wait.wait(240) == 143


@pytest.mark.parametrize("wait", [{"STEP37_SAMPLE_CONT": "8"}], indirect=True)
def test_a_wait_ends_at_once_where_the_settings_are_wrong(wait: subprocess.Popen[str]) -> None:
    """A typo is said once and fails the Job, by a rule of its own for exit code 2: pods would never see the setting mended."""
    assert wait.stdout is not None
    assert "STEP37_SAMPLE_COUNT?" in wait.stdout.read()
    assert wait.wait(240) == 2
    failing = [
        rule["onExitCodes"]
        for rule in find(build("train"), "Job")["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    ]
    assert failing == [{"operator": "In", "values": [2]}]


def test_ranks_alone_reach_the_store(mine: Callable[[str], list[Value]]) -> None:
    """The policy lets the Job's own pods in, at the Service's port, and follows the Job's name."""
    for objects in (build("local"), mine("resources: [../local]\nnamePrefix: vqa-\n")):
        job = find(objects, "Job")["metadata"]["name"]
        policy = find(objects, "NetworkPolicy")["spec"]
        ranks = {"matchLabels": {"batch.kubernetes.io/job-name": job}}
        assert policy["podSelector"] == ranks
        (port,) = find(objects, "Service")["spec"]["ports"]
        assert policy["ingress"] == [
            {"from": [{"podSelector": ranks}], "ports": [{"port": port["port"]}]}
        ]
        ends = [to for rule in policy["egress"] for to in rule.get("to", [])]
        blocks = [to["ipBlock"] for to in ends if "ipBlock" in to]
        assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", "::/0"]
        assert "169.254.0.0/16" in blocks[0]["except"]


def test_a_job_secret_goes_with_any_volume(mine: Callable[[str], list[Value]]) -> None:
    """Its component mounts a Secret, read-only, where the setting says."""
    objects = mine("resources: [../nfs]\ncomponents: [../../components/job-secret]\n")
    for each in objects:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    (container,) = containers(job := find(objects, "Job"))
    file = Path(environment(container, objects, job)["STEP37_JOB_SECRET_FILE"])
    (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == str(file.parent))
    assert mount["readOnly"]
    (volume,) = (each for each in pod_of(job)["volumes"] if each["name"] == mount["name"])
    assert volume["secret"] == {"secretName": "warmup-job-secret", "defaultMode": 0o444}
    text = (K8S / "components/job-secret/kustomization.yaml").read_text(encoding="utf-8")
    assert (
        f"create secret generic {volume['secret']['secretName']} --from-literal={file.name}="
        in text
    )
