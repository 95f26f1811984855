"""Jobs on a real cluster: what the manifests promise, by the Jobs' own conditions, the ranks' words and the Hub's log.

``tests/k8s/run`` starts the cluster and runs these side by side: each has its own namespace, volume
and Hub. The long ones come first.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from step37_flickr8k.localhub import Fault, LocalHub
from tests.k8s.conftest import (
    ALL,
    COUNT,
    LAST,
    MakeRoom,
    assert_ready,
    assert_whole,
    fetched,
    hold,
    until_all_wait,
    until_held,
)
from tests.k8s.rig import (
    HUB_HOST,
    OVERLAYS,
    RIG,
    SHARED,
    Job,
    Manifest,
    Pod,
    Room,
    job_patch,
    kubectl,
    late,
    on,
    until,
)

pytestmark = pytest.mark.timeout(900)
needs_rig = pytest.mark.skipif(
    not RIG, reason="looks at nodes from inside: unset KUBECONFIG, and have ../shared/rigs"
)


def ranks(number: int, spec: Manifest | None = None) -> Manifest:
    """Patch the number of ranks, in the three places that say so, and more of the Job's spec."""
    size = {"env": [{"name": "WORLD_SIZE", "value": str(number)}]}
    return job_patch({"completions": number, "parallelism": number, **(spec or {})}, container=size)


def processes(pod: Pod) -> str:
    """Give the shell words for the processes of a pod's container, as its node numbers them."""
    return f"$(grep -l {pod.container} /proc/[0-9]*/cgroup | cut -d/ -f3)"


# --- ranks that go and come -----------------------------------------------------------------------


@needs_rig
def test_a_waiter_is_evicted_after_rank_zero_has_ended(hub: LocalHub, room: Room) -> None:
    """Even without ``successPolicy`` the Job completes: the waiter's successor finds nobody, but this run's ready record."""
    hold(hub, room)
    room.settings |= {"STEP37_VISIBILITY_TIMEOUT": "5", "STEP37_HEARTBEAT_TIMEOUT": "20"}
    without_policy = {
        "target": {"kind": "Job"},
        "patch": "- {op: remove, path: /spec/successPolicy}",
    }
    job = room.apply("local", without_policy)
    until_all_wait(job)
    frozen = job.of(3)[-1]
    on(frozen.node, "bash", "-c", f"kill -STOP {processes(frozen)}")
    hub.faults.clear()
    job.until(lambda: job.of(0)[-1].end, "rank 0's end")
    assert_ready(job, 0)
    assert "rank 3 never reported whether it can use the outcome" in job.said(0)
    job.evict(3, grace=1)
    job.wait("Complete")
    assert "the ready record names this run, so this rank continues" in job.of(3)[-1].log, (
        job.everything
    )
    assert_ready(job, 0, 1, 2, 3)
    assert len(job.of(3)) == 2
    assert fetched(hub) == Counter(ALL)


def test_waiters_that_cant_be_scheduled(hub: LocalHub, room: Room) -> None:
    """There is room for two ranks alone: rank 0 downloads without the others, the cache is warm and the Job complete."""
    room.settings["STEP37_VISIBILITY_TIMEOUT"] = "5"
    apart = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "warmup"}},
    }
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    job = room.apply("local", job_patch({"suspend": True}, pod={"affinity": affinity}))
    # a pod that is tried before its claim is bound waits, rank 0's too, and waiters would take both
    # nodes
    here, bound = f"--namespace={room.name}", "--for=jsonpath={.status.phase}=Bound"
    kubectl("wait", here, bound, "persistentvolumeclaim", "--all", "--timeout=120s")
    kubectl("patch", here, "job", job.name, "--patch", '{"spec": {"suspend": false}}')
    job.until(lambda: "publishing" in job.said(0), "the end of the download")
    assert Counter(bool(pod.node) for pod in job.pods) == {True: 2, False: 2}, job.everything
    job.wait("Complete")
    assert_ready(job, 0)
    assert re.search(r"rank \d, \d never reported whether it can use the outcome", job.said(0))
    assert_whole(hub, room)


def test_rank_zero_starts_half_a_minute_after_the_others(hub: LocalHub, room: Room) -> None:
    """They wait for it, in silence and without a failure."""
    late_container = {
        "name": "late",
        "image": "step37-flickr8k",
        "command": ["sh", "-c", '[ "$JOB_COMPLETION_INDEX" != 0 ] || sleep 30'],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    job = room.apply("local", job_patch(pod={"initContainers": [late_container]}))
    job.until(
        lambda: all("of 4" in job.said(rank) for rank in (1, 2, 3)), "the others' first words"
    )
    assert not job.said(0)
    job.wait("Complete")
    assert_ready(job, 0, 1, 2, 3)
    assert [len(job.of(rank)) for rank in range(4)] == [1, 1, 1, 1], job.everything
    assert fetched(hub) == Counter(ALL)


def test_rank_zero_is_out_of_memory_in_mid_download(hub: LocalHub, room: Room) -> None:
    """Its container is killed (137): that costs it a try, and no other rank; the next one fetches what is missing."""
    hold(hub, room)
    room.settings["STEP37_HEARTBEAT_TIMEOUT"] = "20"
    memory = {
        "resources": {"limits": {"memory": "600Mi"}},
        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
    }
    volume = {"volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}]}
    job = room.apply("local", job_patch(pod=volume, container=memory))
    until_all_wait(job)
    victim = job.of(0)[-1]
    # pages that can't be given back, until the kernel kills the container's largest process
    kubectl(
        "exec",
        "--namespace",
        room.name,
        victim.name,
        "--",
        "sh",
        "-c",
        "cat /dev/zero >/memory/all",
        check=False,
    )
    job.until(lambda: victim.end, "the end of rank 0")
    assert (victim.end["exitCode"], victim.end["reason"]) == (137, "OOMKilled"), job.everything
    job.until(lambda: len(job.of(0)) == 2, "another rank 0")
    hub.faults.clear()
    job.wait("Complete")
    assert_ready(job, 0)
    assert job.report["files"] == len(LAST)
    assert fetched(hub) == Counter(ALL)
    assert job.of(0)[-1].tries == 1
    assert {pod.tries for pod in job.pods if pod.rank} == {0}, job.everything
    assert_whole(hub, room)


def test_rank_zero_is_evicted_in_mid_download(hub: LocalHub, room: Room) -> None:
    """It ends by SIGTERM, is replaced and resumes; the others start again, and no rank spends a try."""
    hold(hub, room)
    job = room.apply()
    until_all_wait(job)
    evicted = job.evict(0)
    job.until(lambda: evicted.end or evicted.gone, "the end of rank 0")
    assert "ended by SIGTERM" in evicted.log, job.everything
    job.until(lambda: len(job.of(0)) == 2, "another rank 0")
    hub.faults.clear()
    job.wait("Complete")
    assert_ready(job, 0)
    for rank in (1, 2, 3):
        assert job.of(rank)[0].end["exitCode"] == 76, job.everything
        assert "ERROR rank 0 was ended by SIGTERM" in job.of(rank)[0].log
    assert {pod.tries for pod in job.pods} == {0}, job.everything
    assert job.report["files"] == len(LAST)
    assert fetched(hub) == Counter(ALL)
    assert_whole(hub, room)


def test_a_waiter_is_evicted_in_mid_download(hub: LocalHub, room: Room) -> None:
    """It ends by SIGTERM and is replaced; rank 0 goes on, and the Job completes without a try spent."""
    hold(hub, room)
    job = room.apply()
    until_all_wait(job)
    evicted = job.evict(2)
    job.until(lambda: len(job.of(2)) == 2, "another rank 2")
    assert "ended by SIGTERM" in evicted.log, job.everything
    until_all_wait(job)
    hub.faults.clear()
    job.wait("Complete")
    assert_ready(job, 0, 1, 2, 3)
    assert [len(job.of(rank)) for rank in range(4)] == [1, 1, 2, 1]
    assert {pod.tries for pod in job.pods} == {0}
    assert fetched(hub) == Counter(ALL)


def test_a_native_sidecar_ends_with_its_rank(hub: LocalHub, room: Room) -> None:
    """An init container that restarts for ever, as a mesh injects one, doesn't keep the Job."""
    proxy = {
        "name": "proxy",
        "image": "step37-flickr8k",
        "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"],
        "restartPolicy": "Always",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    patch = ranks(2)
    patch["spec"]["template"]["spec"]["initContainers"] = [proxy]
    job = room.apply("local", patch).wait("Complete")
    assert_ready(job, 0, 1)
    assert fetched(hub) == Counter(ALL)


def test_a_world_size_below_the_completions_fails_the_job_with_both_numbers(room: Room) -> None:
    """Of the places that must agree only WORLD_SIZE was changed: the status has the remedy."""
    size = {"env": [{"name": "WORLD_SIZE", "value": "2"}]}
    job = room.apply("local", job_patch(container=size)).wait("Failed")
    assert job.conditions["Failed"] == "PodFailurePolicy"
    told = (
        r"JOB_COMPLETION_INDEX=\d is out of range for WORLD_SIZE=2: .* completions and parallelism"
    )
    assert re.search(told, "".join(job.messages())), job.everything


def test_rank_zero_is_deleted_where_a_resource_quota_has_no_more_pods(
    hub: LocalHub, room: Room
) -> None:
    """The other ranks use what it leaves, and give it back after their arrival_timeout."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "pods"},
        "spec": {"hard": {"pods": "3"}},
    }
    room.api.post(f"/api/v1/namespaces/{room.name}/resourcequotas", quota)
    hold(hub, room)
    room.settings |= {"STEP37_VISIBILITY_TIMEOUT": "5", "STEP37_ARRIVAL_TIMEOUT": "40"}
    job = room.apply()
    until_held(job)
    job.until(lambda: len(job.pods) == 3, "three pods")
    kubectl("delete", "pod", "--namespace", room.name, job.of(0)[-1].name, "--wait=false")
    job.until(lambda: len(job.of(0)) == 2, "another rank 0")
    hub.faults.clear()
    job.wait("Complete")
    assert_whole(hub, room)


# --- several Jobs ---------------------------------------------------------------------------------


def test_two_jobs_on_one_volume_download_once(hub: LocalHub, room: Room) -> None:
    """Started at once, one of them downloads; the other waits for its lease, and both are complete."""
    hold(hub, room)
    jobs = [
        room.apply("local", ranks(2)),
        room.apply("local", ranks(2), job="warmup-second", nameSuffix="-second"),
    ]
    until(lambda: any("waiting for the lease" in job.said(0) for job in jobs), "one that waits")
    until(lambda: room.kept() == ALL - LAST, "the middle of the download")
    hub.faults.clear()
    for job in jobs:
        assert_ready(job.wait("Complete"), 0, 1)
    assert {job.report["files"] for job in jobs} == {0, COUNT}
    assert fetched(hub) == Counter(ALL)
    kubectl("delete", "persistentvolume", f"cache-{room.name}-second", "--wait=false")


@needs_rig
def test_a_cache_for_each_node_has_one_downloader_each(hub: LocalHub, room: Room) -> None:
    """The same path on each node's own disk: each image comes twice, once to each node, and all ranks are done."""
    own = Path("/var/lib") / room.name
    nodes = ("n1", "n2")
    for node in nodes:
        on(node, "install", "--directory", "--owner=10001", "--group=10001", str(own))
    job = room.apply("node-cache", volume=own).wait("Complete")
    assert_ready(job, 0, 1, 2, 3)
    assert fetched(hub) == Counter(dict.fromkeys(ALL, 2))
    for client in {one.client for one in hub.file_requests()}:
        names = [Path(one.repo_path).name for one in hub.file_requests() if one.client == client]
        assert Counter(name for name in names if name.endswith(".jpg")) == Counter(ALL)
    for node in nodes:
        assert len(on(node, "bash", "-c", f"ls {own}/train/*.jpg").split()) == COUNT


def test_training_waits_for_the_ready_record_and_reads_as_another_user(
    hub: LocalHub, room: Room
) -> None:
    """Applied with the warmup, it starts when the cache is there, mounts it read-only, and asks the Hub nothing."""
    hold(hub, room)
    warmup, training = room.apply("local", ranks(2)), room.apply("train", job="train")
    until_held(warmup)
    training.until(
        lambda: training.pods and all(pod.waiting_for for pod in training.pods),
        "its init containers",
    )
    hub.faults.clear()
    warmup.wait("Complete")
    training.wait("Complete")
    said = "".join(training.said(rank) for rank in range(2))
    assert re.findall(rf"^rank (\d) of 2: {COUNT} samples; '", said, re.MULTILINE) == ["0", "1"], (
        training.everything
    )
    shares = re.findall(r"^rank \d of 2: epoch \d: (\d+) samples", said, re.MULTILINE)
    assert [int(share) for share in shares] == 4 * [-(-COUNT // 2)], training.everything
    assert {one.client for one in hub.requests} == {warmup.of(0)[0].address}


def test_the_weekly_verify_mends_what_is_damaged(hub: LocalHub, room: Room) -> None:
    """A file with another byte and one that is gone are fetched again, and only these."""
    room.apply("local", ranks(1)).wait("Complete")
    hub.clear_requests()
    damaged, lost = room.directory / "train" / "0007.jpg", room.directory / "train" / "0008.jpg"
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    lost.unlink()
    room.apply("cron")
    kubectl("create", "job", "--namespace", room.name, "--from=cronjob/verify", "verify-now")
    job = Job(room, "verify-now").wait("Complete")
    assert "2 of them were downloaded again" in job.said(-1), job.everything
    assert fetched(hub) == Counter(["0007.jpg", "0008.jpg"])
    assert_whole(hub, room)


# --- failures -------------------------------------------------------------------------------------


def test_a_hub_that_stays_down_fails_the_job_after_its_tries(hub: LocalHub, room: Room) -> None:
    """Each try ends with 75 on every rank; the Job fails, and the reason stands in the status."""
    hub.faults.add(Fault.status(503))
    room.settings["STEP37_ATTEMPTS"] = "2"
    job = room.apply("local", ranks(2, {"backoffLimitPerIndex": 1})).wait("Failed")
    assert job.conditions["Failed"] in {"FailedIndexes", "MaxFailedIndexesExceeded"}
    first, second = job.of(0)
    assert [first.end["exitCode"], second.end["exitCode"]] == [75, 75], job.everything
    assert "HubUnavailable" in "".join(job.messages()), job.everything
    assert "can't be asked: 503 Service Unavailable" in job.said(1)
    assert room.kept() == set()


@needs_rig
def test_nodes_that_do_not_share_the_directory_are_named(room: Room) -> None:
    """Each node has a directory of its own at the same path: the error names the nodes that see nothing."""
    own = Path("/var/lib") / room.name
    for node in ("n1", "n2"):
        on(node, "install", "--directory", "--mode=777", str(own))
    room.settings["STEP37_VISIBILITY_TIMEOUT"] = "3"
    job = room.apply("local", job_patch({"backoffLimitPerIndex": 0}), volume=own).wait("Failed")
    (blind,) = {"n1", "n2"} - {job.of(0)[0].node}
    told = rf" ERROR rank \d on {blind}/warmup-\d, rank \d on {blind}/warmup-\d: .*a file system that all nodes share"
    assert re.search(told, "".join(job.messages())), job.everything
    assert re.search(told, job.said(0)), job.everything


def test_a_wrong_token_fails_the_job_at_once(dataset: Path, make_room: MakeRoom) -> None:
    """There is no retry, and the reason stands in the status; with the right one in the Secret the next Job is complete."""
    token = "hf_" + "thisIsMySecret"
    with LocalHub(dataset, host=HUB_HOST, token=token) as private:
        room = make_room(STEP37_ENDPOINT=private.endpoint)
        secret = ("create", "secret", "generic", "warmup-token", "--namespace", room.name)
        kubectl(*secret, "--from-literal=token=hf_thatIsNotIt")
        job = room.apply("local", ranks(2)).wait("Failed")
        assert job.conditions["Failed"] == "PodFailurePolicy"
        assert job.codes(0) == [2], job.everything
        assert "AccessDenied" in "".join(job.messages()), job.everything
        kubectl("delete", "secret", "warmup-token", "--namespace", room.name)
        kubectl(*secret, f"--from-literal=token={token}")
        again = room.again("local", ranks(2)).wait("Complete")
        assert_ready(again, 0, 1)
        shown = kubectl(
            "get", "pods,jobs,configmaps", "--namespace", room.name, "--output", "yaml"
        ).stdout
        assert token not in shown + "".join(pod.log for pod in room.pods.values())
        assert_whole(private, room)


def test_a_wrong_setting_fails_the_job_at_once(hub: LocalHub, room: Room) -> None:
    """No rank is started twice, the Hub isn't asked, and the status has the reason in one line."""
    room.settings["STEP37_SAMPLE_CUONT"] = "8"
    job = room.apply().wait("Failed")
    assert job.conditions["Failed"] == "PodFailurePolicy"
    assert [len(job.of(rank)) for rank in range(4)] == [1, 1, 1, 1], job.everything
    assert job.messages(), job.everything
    for line in job.messages():
        assert "STEP37_SAMPLE_CUONT: no such setting: did you mean STEP37_SAMPLE_COUNT?" in line
    assert hub.requests == ()


def test_a_hub_that_answers_429_and_503_costs_retries_alone(hub: LocalHub, room: Room) -> None:
    """Some requests are refused: they are made again, each image comes once, and the report counts them by cause."""
    images = "train/*.jpg"
    hub.faults.add(
        Fault.status(429, retry_after=1, path=images, times=8),
        Fault.status(503, path=images, every=7, times=6),
    )
    job = room.apply("local", ranks(2)).wait("Complete")
    assert_ready(job, 0, 1)
    assert fetched(hub) == Counter(ALL)
    # It has no Parquet
    refused = Counter(
        one.status for one in hub.requests if one.status >= 400 and one.kind != "tree"
    )
    assert refused == {429: 8, 503: 6}
    assert job.report["retries"]
    assert {len(job.of(rank)) for rank in range(2)} == {1}


# --- the day --------------------------------------------------------------------------------------


def test_a_cold_cache_then_a_warm_one(hub: LocalHub, room: Room) -> None:
    """Rank 0 downloads each image once, for all; a node that looked for the record too early sees it; then another setting."""
    hold(hub, room)
    job = room.apply()
    until_all_wait(job)
    nodes = {rank: job.of(rank)[0].node for rank in range(4)}
    others = set(nodes.values()) - {nodes[0]}
    assert others, "all ranks are on one node"
    if RIG:
        late(others.pop(), SHARED / room.name / ".step37-flickr8k" / "train.json")
    hub.faults.clear()
    job.wait("Complete")
    assert_ready(job, 0, 1, 2, 3)
    assert fetched(hub) == Counter(ALL)
    assert {one.client for one in hub.requests} == {job.of(0)[0].address}
    assert_whole(hub, room)
    report = job.report
    assert (report["warm"], report["files"], report["world_size"], report["run"]) == (
        False,
        COUNT,
        4,
        job.uid,
    )
    for rank in range(4):
        assert f" {nodes[rank]}/warmup-{rank} rank {rank}/4 INFO " in job.said(rank)

    hub.clear_requests()
    room.settings["STEP37_SAMPLE_COUNT"] = "8"
    short = job_patch({"ttlSecondsAfterFinished": 15})
    refused = kubectl("apply", "--kustomize", str(room.overlay("local", ranks(2))), check=False)
    assert "field is immutable" in refused.stderr
    warm = room.again("local", short).wait("Complete")
    assert [(one.kind, one.status) for one in hub.requests] == [("api", 200)]
    assert (warm.report["warm"], warm.report["files"], warm.report["rows"]) == (True, 0, 8)
    until(
        lambda: kubectl("get", "job", "warmup", "--namespace", room.name, check=False).returncode,
        "the end of its time to live",
    )


def test_deleting_the_job_in_mid_download_tears_nothing(hub: LocalHub, room: Room) -> None:
    """All ranks end by SIGTERM, long before they are killed; nothing unfinished stays, and the next Job fetches the rest."""
    hold(hub, room)
    job = room.apply()
    until_all_wait(job)
    kubectl("delete", "job", "warmup", "--namespace", room.name)
    until(lambda: all(pod.gone for pod in job.pods), "the end of all pods")
    assert "ended by SIGTERM" in job.said(0)
    for pod in job.pods:
        assert pod.end.get("exitCode") in {143, 76}, pod.manifest
    assert list(room.directory.rglob("*.tmp")) == []
    hub.faults.clear()
    again = room.apply().wait("Complete")
    assert again.report["files"] == len(LAST)
    assert fetched(hub) == Counter(ALL)
    assert_whole(hub, room)


@pytest.mark.parametrize("overlay", sorted(path.name for path in OVERLAYS.iterdir()))
def test_every_overlay_is_taken_by_the_server(room: Room, overlay: str) -> None:
    """Applied as it is, also where its driver isn't here: no object is refused, and nothing violates restricted pod security."""
    dry = ("--server-side", "--dry-run=server", "--namespace", room.name)
    done = kubectl("apply", *dry, "--kustomize", str(OVERLAYS / overlay))
    assert "serverside-applied" in done.stdout
    assert not done.stderr


def test_the_namespaces_refuse_what_isnt_restricted(room: Room) -> None:
    """A pod that asks for no security context at all doesn't get in."""
    done = kubectl("run", "x", "--image=x", "--namespace", room.name, check=False)
    assert 'violates PodSecurity "restricted' in done.stderr


@needs_rig
def test_the_nodes_of_the_rig_see_late(room: Room) -> None:
    """What a node has looked for in vain it goes on missing, after it has come to be, until the directory is listed there."""
    file = SHARED / room.name / "file"
    late("n1", file)
    (room.directory / "file").touch()
    late("n1", file)
    assert on("n1", "ls", str(file.parent)) == "file\n"
    assert on("n1", "stat", "--format=%s", str(file)) == "0\n"
