"""Stop with one line when pip is about to bring torch's CUDA build, several GB, where a CPU build is meant.

Asks pip what it would take, by a dry run: where the index serves metadata alone, nothing large is
downloaded.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_CUDA = re.compile(r"(nvidia|cuda)[-_]", re.IGNORECASE)


def complaint(report: dict[str, Any]) -> str | None:
    """Give the line to stop with, None for a CPU build; ``report`` is pip's installation report."""
    for item in report["install"]:
        wanted = [name for name in item["metadata"].get("requires_dist", []) if _CUDA.match(name)]
        if wanted:
            version = item["metadata"]["version"]
            first = re.split(r"[^\w-]", wanted[0])[0]
            others = f"{first} and {len(wanted) - 1} more packages of several GB"
            return (
                f"torch {version} as pip finds it is a CUDA build: it needs {others}. Name an index of CPU builds (PyTorch's "
                "install page does): make TORCH_INDEX_URL=<address> ...; or take it as it is: make TORCH_BUILD=any ..."
            )
    return None


def main() -> int:
    """Run the check for the interpreter that runs this."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraints", type=Path, required=True)
    parser.add_argument("--build", default="cpu", choices=["cpu", "any"])
    parser.add_argument("--index-url", default="")
    arguments = parser.parse_args()
    # Elsewhere the plain build is a CPU build
    if arguments.build == "any" or sys.platform != "linux":
        return 0
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--no-deps",
        "--report",
        "-",
    ]
    command += ["--constraint", str(arguments.constraints), "torch"]
    command += ["--index-url", arguments.index_url] if arguments.index_url else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(
            "pip finds no torch as pinned in the constraints: see its words above", file=sys.stderr
        )
        return 2
    line = complaint(json.loads(done.stdout))
    if line:
        print(line, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
