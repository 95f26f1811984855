"""The check that stops before gigabytes of CUDA packages come where a CPU build is meant."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from check_torch_build import complaint


def report(*requires: str) -> dict[str, Any]:
    return {
        "install": [
            {
                "metadata": {
                    "name": "torch",
                    "version": "2.13.0",
                    "requires_dist": ["filelock", *requires],
                }
            }
        ]
    }


def test_a_cpu_build_passes() -> None:
    """No CUDA package among the requirements: nothing to say."""
    assert complaint(report("sympy>=1.13")) is None
    assert complaint({"install": []}) is None


def test_a_cuda_build_is_one_line_with_the_remedy() -> None:
    """The line names the build, what it brings, and both ways out."""
    line = complaint(
        report('nvidia-cudnn-cu13==9.15.1; platform_system == "Linux"', "cuda-bindings==13.0.3")
    )
    assert line is not None
    assert "\n" not in line
    for part in ("torch 2.13.0", "nvidia-cudnn-cu13", "TORCH_INDEX_URL", "TORCH_BUILD=any"):
        assert part in line
