"""The cluster as the tests see it: a namespace with a volume for each case, its Jobs, what their pods said, the nodes' power."""

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "k8s" / "overlays"
IMAGE = os.environ.get("K8S_IMAGE", "")  # this and the next two: set by tests/k8s/run
HUB_HOST = os.environ.get("HUB_HOST", "")
SHARED = Path(os.environ.get("SHARED", "/nowhere"))  # as the nodes see it
BACKING = Path(os.environ.get("BACKING", SHARED))  # as this machine does
RIG = os.environ.get("RIG", "")  # the rig's script; empty on somebody's own cluster
PATIENCE = 300.0  # s for whatever must come: starved processors make everything late
Manifest = dict[str, Any]


def until(
    condition: Callable[[], object],
    what: str,
    seconds: float = PATIENCE,
    more: Callable[[], str] = str,
) -> None:
    """Wait for a condition, however long a busy machine takes; ``more`` is told when it doesn't come."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, (
            f"{what} didn't come within {seconds:g} s\n{more()}"
        )
        time.sleep(0.2)
    print(f"{time.strftime('%H:%M:%S')} after {time.monotonic() - start:3.0f} s: {what}")


def kubectl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run kubectl as a user does."""
    done = subprocess.run(
        ["kubectl", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.returncode == 0 or not check, (
        f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    )
    return done


class Api:
    """The API server behind ``kubectl proxy``, which knows every way to log in: cheaper than a kubectl for each look."""

    def __init__(self) -> None:
        self._proxy = subprocess.Popen(
            ["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True
        )
        assert self._proxy.stdout is not None
        self._address = "http://" + self._proxy.stdout.readline().split()[-1]
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def end(self) -> None:
        """Stop the proxy, which ends all streams."""
        self._proxy.terminate()
        self._proxy.communicate()

    def get(self, path: str) -> Manifest:
        """Read an object or a list."""
        with self._open(f"{self._address}{path}", timeout=60) as answer:
            found: Manifest = json.load(answer)
            return found

    def post(self, path: str, manifest: Manifest) -> None:
        """Send an object."""
        body, headers = json.dumps(manifest).encode(), {"Content-Type": "application/json"}
        with self._open(
            urllib.request.Request(f"{self._address}{path}", body, headers), timeout=60
        ):
            pass

    def lines(self, path: str) -> Iterator[str]:
        """Stream an answer by its lines, until it ends or breaks."""
        with (
            suppress(OSError, ValueError, HTTPException),
            self._open(f"{self._address}{path}") as answer,
        ):
            for line in answer:
                if line.endswith(b"\n"):
                    yield line.decode(errors="replace").rstrip("\n")


@dataclass
class Pod:
    """A pod as it was last seen, and what it has said, kept beyond its deletion."""

    manifest: Manifest
    lines: list[str] = field(default_factory=list)
    follower: threading.Thread | None = None
    gone: bool = False

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def rank(self) -> int:
        """Its index; -1 outside of an Indexed Job."""
        return int(
            self.manifest["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index", -1)
        )

    @property
    def job(self) -> str:
        return str(self.manifest["metadata"]["labels"].get("batch.kubernetes.io/job-name", ""))

    @property
    def node(self) -> str:
        """The node that it was bound to, or ""."""
        return str(self.manifest["spec"].get("nodeName", ""))

    @property
    def address(self) -> str:
        return str(self.manifest["status"].get("podIP", ""))

    @property
    def container(self) -> str:
        """The id of its container, without the runtime's name."""
        return str(self._state.get("containerID", "")).rpartition("/")[2]

    @property
    def _state(self) -> Manifest:
        found: Manifest = (self.manifest["status"].get("containerStatuses") or [{}])[0]
        return found

    @property
    def waiting_for(self) -> str:
        """The init container that runs in it, or ""."""
        found = self.manifest["status"].get("initContainerStatuses", [])
        return next((str(one["name"]) for one in found if "running" in one["state"]), "")

    @property
    def started(self) -> bool:
        """Tell whether there is a log."""
        return bool({"running", "terminated"} & self._state.get("state", {}).keys())

    @property
    def end(self) -> Manifest:
        """How its container ended: exitCode, reason, message; empty before."""
        found: Manifest = self._state.get("state", {}).get("terminated", {})
        return found

    @property
    def tries(self) -> int:
        """How many tries its index had spent when it was made."""
        return int(
            self.manifest["metadata"]
            .get("annotations", {})
            .get("batch.kubernetes.io/job-index-failure-count", 0)
        )

    @property
    def log(self) -> str:
        """What it has said; of one that has ended, all of it."""
        if self.follower is not None and (self.gone or self.end):
            self.follower.join(10)
        return "".join(f"{line}\n" for line in self.lines)


class Room:
    """A namespace that enforces restricted pod security, with a directory of the shared file system as its volume.

    Everything that happens to its pods is watched, and their logs are followed from the start:
    finished Jobs take them along.
    """

    def __init__(self, api: Api, name: str, scratch: Path, settings: Mapping[str, str]) -> None:
        self.api = api
        self.name = name
        self.settings = dict(settings)
        self.pods: dict[str, Pod] = {}  # by uid, in the order of their creation
        self._scratch = scratch
        self._ended = threading.Event()
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o777)
        kubectl("create", "namespace", name)
        modes = ("enforce", "warn")
        kubectl(
            "label",
            "namespace",
            name,
            *(f"pod-security.kubernetes.io/{mode}=restricted" for mode in modes),
        )
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def directory(self) -> Path:
        """The directory behind all mounts."""
        return BACKING / self.name

    def write_logs(self, directory: Path) -> None:
        """Write what every pod has said, how it ended, and what the cluster says of all of them."""
        for pod in list(self.pods.values()):
            status = json.dumps(pod.manifest["status"], indent=1)
            (directory / f"{pod.name}.log").write_text(
                f"{pod.log}--- on {pod.node or 'no node'}, gone: {pod.gone}\n{status}\n",
                encoding="utf-8",
            )
        for kind in ("events", "jobs,pods"):
            told = kubectl("get", kind, "--namespace", self.name, "--output", "wide", check=False)
            (directory / f"{self.name}.{kind}.log").write_text(
                told.stdout + told.stderr, encoding="utf-8"
            )

    def end(self) -> None:
        """Delete what the case made; the rest of it goes on its own."""
        self._ended.set()
        kubectl("delete", "namespace", self.name, "--wait=false")
        kubectl(
            "delete", "persistentvolume", f"cache-{self.name}", "--wait=false", "--ignore-not-found"
        )
        shutil.rmtree(self.directory, ignore_errors=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for line in self.api.lines(f"/api/v1/namespaces/{self.name}/pods?watch=1"):
                event = json.loads(line)
                if event["type"] not in {"ADDED", "MODIFIED", "DELETED"}:
                    break
                self._see(event["object"], gone=event["type"] == "DELETED")

    def _see(self, manifest: Manifest, *, gone: bool) -> None:
        pod = self.pods.setdefault(manifest["metadata"]["uid"], Pod(manifest))
        pod.manifest, pod.gone = manifest, gone
        if pod.started and pod.follower is None:
            pod.follower = threading.Thread(target=self._follow, args=(pod,), daemon=True)
            pod.follower.start()

    def _follow(self, pod: Pod) -> None:
        for line in self.api.lines(f"/api/v1/namespaces/{self.name}/pods/{pod.name}/log?follow=1"):
            pod.lines.append(line)

    def overlay(
        self, name: str, *patches: Manifest, volume: Path | None = None, **more: Any
    ) -> Path:
        """Write an overlay on top of one of k8s/overlays: this namespace, image, volume, settings, patches."""
        directory = self._scratch / f"{name}-{len(list(self._scratch.iterdir()))}"
        directory.mkdir()
        volume_name = f"cache-{self.name}"
        cheap = [
            {
                "op": "replace",
                "path": "/spec/template/spec/containers/0/resources/requests/cpu",
                "value": "10m",
            }
        ]
        named = [{"op": "replace", "path": "/metadata/name", "value": volume_name}]
        placed = [
            {
                "op": "replace",
                "path": "/spec/hostPath/path",
                "value": str(volume or SHARED / self.name),
            }
        ]
        bound = [{"op": "replace", "path": "/spec/volumeName", "value": volume_name}]
        settings = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "warmup-settings"},
            "data": self.settings,
        }
        kustomization = {
            "resources": [os.path.relpath(OVERLAYS / name, directory)],
            "namespace": self.name,
            "images": [
                {
                    "name": "step37-flickr8k",
                    "newName": IMAGE.rpartition(":")[0],
                    "newTag": IMAGE.rpartition(":")[2],
                }
            ],
            "patches": [
                {"target": {"kind": "Job"}, "patch": yaml.dump(cheap)},
                {
                    "target": {"kind": "PersistentVolume"},
                    "patch": yaml.dump(named + placed),
                    "options": {"allowNameChange": True},
                },
                {"target": {"kind": "PersistentVolumeClaim"}, "patch": yaml.dump(bound)},
                {
                    "target": {"kind": "ConfigMap", "name": "warmup-settings"},
                    "patch": yaml.dump(settings),
                },
                *(patch if "patch" in patch else {"patch": yaml.dump(patch)} for patch in patches),
            ],
            **more,
        }
        (directory / "kustomization.yaml").write_text(yaml.dump(kustomization), encoding="utf-8")
        return directory

    def apply(
        self, name: str = "local", *patches: Manifest, job: str = "warmup", **more: Any
    ) -> "Job":
        """Apply such an overlay, without a single warning, and give its Job."""
        done = kubectl("apply", "--kustomize", str(self.overlay(name, *patches, **more)))
        assert "Warning" not in done.stderr, done.stderr
        return Job(self, job)

    def again(self, name: str, *patches: Manifest) -> "Job":
        """Delete the Job and apply it anew, as docs/kubernetes.md says."""
        kubectl("delete", "job", "warmup", "--namespace", self.name, "--ignore-not-found")
        until(lambda: all(pod.gone for pod in list(self.pods.values())), "the end of its pods")
        self.pods.clear()
        return self.apply(name, *patches)

    def kept(self, split: str = "train") -> set[str]:
        """Give the names of the images that lie in the cache."""
        return {path.name for path in (self.directory / split).glob("*.jpg")}


def job_patch(
    spec: Manifest | None = None, pod: Manifest | None = None, container: Manifest | None = None
) -> Manifest:
    """Give a patch of the warmup's Job: of its spec, of its pods' spec, of their container."""
    pod = {
        **(pod or {}),
        **({"containers": [{"name": "warmup", **container}]} if container else {}),
    }
    spec = {**(spec or {}), **({"template": {"spec": pod}} if pod else {})}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "warmup"}, "spec": spec}


@dataclass(frozen=True)
class Job:
    """A Job and its pods, also those that are gone."""

    room: Room
    name: str

    @property
    def manifest(self) -> Manifest:
        return self.room.api.get(f"/apis/batch/v1/namespaces/{self.room.name}/jobs/{self.name}")

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def conditions(self) -> dict[str, str]:
        """Give the reason of each condition that holds."""
        found = self.manifest["status"].get("conditions", [])
        return {one["type"]: one.get("reason", "") for one in found if one["status"] == "True"}

    @property
    def pods(self) -> list[Pod]:
        """All pods so far, oldest first."""
        return [pod for pod in list(self.room.pods.values()) if pod.job == self.name]

    def of(self, rank: int) -> list[Pod]:
        """Give all pods of a rank, oldest first."""
        return [pod for pod in self.pods if pod.rank == rank]

    def codes(self, rank: int) -> list[int | None]:
        """Give the exit codes of a rank's pods; None where there is none."""
        return [pod.end.get("exitCode") for pod in self.of(rank)]

    def said(self, rank: int) -> str:
        """Give what all pods of a rank have said."""
        return "".join(pod.log for pod in self.of(rank))

    @property
    def everything(self) -> str:
        """What is known of it, for a failed assertion."""
        told = [f"--- {self.room.name}/{self.name}"]
        with suppress(OSError):
            told.append(json.dumps(self.manifest["status"], indent=1))
        for pod in self.pods:
            shown = {
                key: value
                for key, value in pod.manifest["status"].items()
                if key in {"phase", "conditions"}
            }
            told.append(
                f"--- rank {pod.rank}, {pod.name} on {pod.node or 'no node'}, gone: {pod.gone}, {pod.end} {shown}\n{pod.log}"
            )
        told.append(kubectl("get", "events", "--namespace", self.room.name, check=False).stdout)
        return "\n".join(told)

    def until(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Wait for a condition of the Job, which must not end before."""
        until(lambda: condition() or self.ended, what, seconds, lambda: self.everything)
        assert condition(), f"{what} didn't come before the end\n{self.everything}"

    @property
    def ended(self) -> bool:
        return bool({"Complete", "Failed"} & self.conditions.keys())

    def wait(self, condition: str, seconds: float = PATIENCE) -> "Job":
        """Wait for a condition: Complete, Failed, SuccessCriteriaMet."""
        self.until(lambda: condition in self.conditions, f"condition {condition}", seconds)
        return self

    def evict(self, rank: int, grace: int | None = None) -> Pod:
        """Evict a rank's pod, as `kubectl drain` does, and give it; ``grace`` is other than the pod's own, in seconds."""
        pod = self.of(rank)[-1]
        place = {"name": pod.name, "namespace": self.room.name}
        self.room.api.post(
            f"/api/v1/namespaces/{self.room.name}/pods/{pod.name}/eviction",
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": place,
                "deleteOptions": {"gracePeriodSeconds": grace},
            },
        )
        return pod

    def messages(self, more: str = "") -> list[str]:
        """Give the lines of all its pods' termination messages, oldest pod first, read as docs/kubernetes.md says."""
        path = 'jsonpath={range .items[*]}{.status.containerStatuses[0].state.terminated.message}{"\\n"}{end}'
        which = (
            "--selector",
            f"batch.kubernetes.io/job-name={self.name}{more}",
            "--sort-by=.metadata.creationTimestamp",
        )
        told = kubectl(
            "get", "pods", "--namespace", self.room.name, *which, "--output", path
        ).stdout
        return [line for line in told.splitlines() if line]

    @property
    def report(self) -> Manifest:
        """Rank 0's report."""
        reports = [
            line
            for line in self.messages(",batch.kubernetes.io/job-completion-index=0")
            if line.startswith("{")
        ]
        assert reports, self.everything
        report: Manifest = json.loads(reports[-1])
        return report


# --- the nodes, on the rig alone ------------------------------------------------------------------


def on(node: str, *command: str, check: bool = True) -> str:
    """Run a command as root on a node, and give what it says."""
    done = subprocess.run(
        [RIG, "run", "-h", node, *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0 or not check, f"{command} on {node}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def without_power(node: str) -> Iterator[Callable[[], None]]:
    """Let a node lose power, silently for its peers; gives what switches it on again, at the latest when the block ends."""
    subprocess.run([RIG, "kill", node], cwd=ROOT, check=True)
    is_off = True

    def back() -> None:
        nonlocal is_off
        if is_off:
            is_off = False
            _forget_containers(node)
            subprocess.run([RIG, "start", node], cwd=ROOT, check=True)
            subprocess.run([ROOT / "tests" / "k8s" / "run", "__mount", node], check=True)
            until(lambda: _is_ready(node) == "True", f"{node}, back and ready,")

    try:
        yield back
    finally:
        back()


def until_missed(node: str) -> None:
    """Wait until the control plane knows that a node doesn't answer any more."""
    until(lambda: _is_ready(node) == "Unknown", f"{node}, not ready,")


def _is_ready(node: str) -> str:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl("get", "node", node, "--output", path).stdout


def _forget_containers(node: str) -> None:
    """Remove the control groups of a node's containers, which a real loss of power takes along; a kubelet waits 3 s on each."""
    cri = Path(os.environ["K8S_RIG"]) / node / "lib" / "containerd" / "io.containerd.grpc.v1.cri"
    ids = {path.name for kind in ("containers", "sandboxes") for path in (cri / kind).iterdir()}
    groups = {one for one in Path("/sys/fs/cgroup").glob("*/k8s.io/*") if one.name in ids}
    until(
        lambda: not any(_stands(group) for group in groups), f"the end of the containers on {node}"
    )


def _stands(group: Path) -> bool:
    with suppress(OSError):  # its processes are still ending
        group.rmdir()
    return group.exists()


def late(node: str, path: Path) -> None:
    """Let a node look for a file that isn't there yet: it goes on missing it for a minute, until it lists the directory."""
    assert "No such file" in on(node, "bash", "-c", f"stat {path} 2>&1", check=False)
