"""Nodes that lose power, silently for their peers: these run alone, since a lost node is everybody's."""

from collections import Counter
from pathlib import Path

import pytest

from step37_flickr8k.localhub import Fault, LocalHub
from tests.k8s.conftest import (
    ALL,
    HELD,
    LAST,
    MakeRoom,
    assert_ready,
    assert_whole,
    fetched,
    hold,
    until_all_wait,
)
from tests.k8s.rig import HUB_HOST, Job, Room, job_patch, kubectl, until_missed, without_power

pytestmark = pytest.mark.timeout(900)
STAYS, LOST = "n1", "n2"


def start(room: Room, rank_zero_on: str) -> Job:
    """Start a Job whose rank 0 is on this node: alone first, while the other node takes nobody."""
    (other,) = {STAYS, LOST} - {rank_zero_on}
    kubectl("cordon", other)
    try:
        job = room.apply("local", job_patch({"parallelism": 1}))
        job.until(lambda: job.pods and job.pods[0].node, "rank 0's place")
    finally:
        kubectl("uncordon", other)
    kubectl(
        "patch",
        "job",
        job.name,
        "--namespace",
        room.name,
        "--patch",
        '{"spec": {"parallelism": 4}}',
    )
    return job


def until_spread(job: Job) -> None:
    """Wait for the middle of the download, with two ranks on each node."""
    until_all_wait(job)
    job.until(
        lambda: Counter(pod.node for pod in job.pods) == {STAYS: 2, LOST: 2},
        "two ranks on each node",
    )


def hold_within_bytes(hub: LocalHub, room: Room) -> None:
    """Let the last ten images come half, as long as rank 0 waits for the rest."""
    hub.faults.add(Fault.stall(path=HELD))
    room.settings |= {"STEP37_HEARTBEAT_TIMEOUT": "20", "STEP37_READ_TIMEOUT": "1h"}


def assert_the_others_said_so(job: Job) -> None:
    """Check that each rank which is left ended with 76, saying why."""
    for pod in job.pods[1:4]:
        if pod.node == STAYS:
            job.until(lambda pod=pod: pod.end.get("exitCode") == 76, f"rank {pod.rank}'s word")  # type: ignore[misc]
            assert " ERROR rank 0 was killed, frozen or cut off" in pod.log, job.everything


def assert_resumed(hub: LocalHub, job: Job) -> None:
    """Check that the replaced rank 0 fetched what was missing, and that no rank spent a try."""
    assert_ready(job, 0)
    assert job.report["files"] == len(LAST)
    counts = fetched(hub)
    assert {name for name, times in counts.items() if times == 1} >= ALL - LAST, counts
    assert {pod.tries for pod in job.pods} == {0}, job.everything
    assert_whole(hub, job.room)


def test_a_node_loses_power_and_comes_back(
    dataset: Path, hub: LocalHub, make_room: MakeRoom
) -> None:
    """Where rank 0 was on it the others say so, and the Job resumes once it is back; where waiters were, the cache gets warm."""
    with LocalHub(dataset, host=HUB_HOST) as other_hub:
        room, other_room = (
            make_room(),
            make_room(STEP37_ENDPOINT=other_hub.endpoint, STEP37_VISIBILITY_TIMEOUT="5"),
        )
        hold_within_bytes(hub, room)
        hold(other_hub, other_room)
        lost, other = start(room, LOST), start(other_room, STAYS)
        until_spread(lost)
        until_spread(other)
        with without_power(LOST) as back:
            other_hub.faults.clear()
            hub.faults.clear()
            assert_the_others_said_so(lost)
            other.wait("SuccessCriteriaMet")
            assert "never reported whether it can use the outcome" in other.said(0)
            assert_ready(other, *(pod.rank for pod in other.pods[:4] if pod.node == STAYS))
            assert not other.ended, "Complete comes only when the node's pods are known to be gone"
            assert not lost.conditions, lost.everything
            back()
            other.wait("Complete")
            lost.wait("Complete")
        assert_resumed(hub, lost)
        assert fetched(other_hub) == Counter(ALL)
        assert_whole(other_hub, other_room)


def test_rank_zeros_node_is_taken_out_of_service(hub: LocalHub, room: Room) -> None:
    """The node that lost power stays away: tainted out of service it gives its pods up, and the Job resumes on the other one."""
    hold_within_bytes(hub, room)
    job = start(room, LOST)
    until_spread(job)
    with without_power(LOST):
        hub.faults.clear()
        assert_the_others_said_so(job)
        until_missed(LOST)
        taint = ("taint", "node", LOST)
        kubectl(*taint, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
        try:
            job.wait("Complete")
        finally:
            kubectl(*taint, "node.kubernetes.io/out-of-service-")
    assert_resumed(hub, job)
    assert job.of(0)[-1].node == STAYS
