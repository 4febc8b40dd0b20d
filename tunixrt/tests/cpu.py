"""Bound the processor time of a test's work without reading a clock."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
"""


def run_within_cpu_seconds(seconds: int, code: str) -> str:
    """Run ``code`` in a Python process of its own that the kernel ends after ``seconds`` of
    processor time; return its output.

    For work whose time must not be quadratic or exponential in its input: choose an input for which
    the linear algorithm needs well under a second and the other one minutes, so that no machine is
    too slow for it.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED + code, str(ROOT), str(seconds)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (
        f"ended with {done.returncode} (-9 or -24: out of processor time)\n{done.stderr}"
    )
    return done.stdout
