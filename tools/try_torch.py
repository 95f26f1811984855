"""Two ranks that meet through the torch that is installed beside the wheel; ``make dist`` runs it with several torches.

One downloads, the other waits for it: over a TCPStore, as under any launcher.
"""

import importlib.metadata
import json
import os
import socket
import subprocess
from pathlib import Path

from draw import draw_dataset
from try_wheel import CACHE, COMMAND, check, hub, run

import step37_flickr8k


def free_port() -> str:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def main() -> None:
    """Warm a cache up as two ranks, and read it."""
    version = importlib.metadata.version("torch")
    draw_dataset(Path("data"), count=12)
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with hub("data") as endpoint:
        os.environ["HF_ENDPOINT"] = endpoint
        command = [str(COMMAND), "warmup", *CACHE, "--report", "report.json"]
        ranks = [
            subprocess.Popen(
                command,
                env=os.environ | job | {"RANK": rank},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in ("0", "1")
        ]
        try:
            said = "".join(rank.communicate(timeout=120)[0] for rank in ranks)
        finally:
            for rank in ranks:
                rank.kill()
        codes = [rank.returncode for rank in ranks]
        check(codes == [0, 0], f"with torch {version} two ranks ended with {codes}:\n{said}")
        report = json.loads(Path("report.json").read_text(encoding="utf-8"))
        check(
            len(report["ranks"]) == 2,
            f"with torch {version} the report knows of {len(report['ranks'])} ranks, not of 2",
        )
        run("verify", *CACHE)
        samples = step37_flickr8k.prepare_flickr8k_samples(sample_count=5, cache_dir="cache")
        check(len(samples) == 5, f"the library gave {len(samples)} of 5 samples")
    print(f"torch {version}: two ranks met, one downloaded, both know the outcome")


if __name__ == "__main__":
    main()
