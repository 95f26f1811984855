"""Where the ranks of a SLURM step meet."""

from collections import Counter

import pytest

from step37_flickr8k.cluster.slurm import first_host, step_port


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("linux[1,2]", "linux1"),
        ("n[01-03,07],gpu-1", "n01"),
        ("gpu-1,n[01-03]", "gpu-1"),
        ("nodeA,nodeB[001,003],nodeC", "nodeA"),
        ("host-[001-002]", "host-001"),
        ("jean-zay-ia[810-811]", "jean-zay-ia810"),
        ("alpha,beta,gamma", "alpha"),
        ("n[08-10]-ib", "n08-ib"),
        ("rack[2-3]n[1,4-5]", "rack2n1"),
        ("n7.cluster.example,n8.cluster.example", "n7.cluster.example"),
        ("[0-3]", "0"),
        ("", None),
    ],
)
def test_the_first_host_of_a_node_list(node_list: str, host: str | None) -> None:
    """Brackets may stand anywhere, more than once, and hold commas; numbers keep their zeros."""
    assert first_host(node_list) == host


def test_what_runs_side_by_side_has_ports_of_its_own() -> None:
    """Neighboring jobs, their restarts and steps derive ports apart, which are never a client's."""
    ports = Counter(
        step_port(job, step, restart)
        for job in range(100, 150)
        for step in range(2)
        for restart in range(4)
    )
    assert len(ports) == sum(ports.values())
    assert all(20_000 <= port < 30_000 for port in ports)
