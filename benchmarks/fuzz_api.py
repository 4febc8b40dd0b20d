"""Ask a real server what its OpenAPI document allows, and what it does not:  make fuzz-api

schemathesis draws requests for every operation, alone and in sequences (an id of one answer goes
into the next request), and compares every answer with the document: status, headers, type of the
content, body. A status of the server's own fault is one that the document does not have; 501 and
503 are documented. The same seed draws the same requests.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from runs.tests.browser.house import House

CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "use_after_free",
)
# A limit for hangs, not for slow machines.
SECONDS = "180"


def fuzz(
    house: House, *, examples: int, seed: int, phases: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Have schemathesis ask ``house``: at most ``examples`` cases of each operation and phase."""
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["run", f"{house.url}/api/schema?format=json", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--phases", phases]
    command += ["--generation-database", "none", "--no-shrink", "--request-timeout", SECONDS]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure"]
    return subprocess.run(
        command, cwd=folder, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )


def cases_in(printed: str) -> int:
    """Return how many requests schemathesis says it has made."""
    found = re.search(r"([\d,]+) generated", printed)
    return int(found[1].replace(",", "")) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="requests to make at least")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    made, seed, examples = 0, given.seed, 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(House(folder, TUNIX_SYNC_TIMEOUT_SECONDS="2")) as house:
            house.add_dataset("sums")  # that the examples name
            while made < given.cases:
                phases = "examples,coverage,fuzzing,stateful"
                ended = fuzz(house, examples=examples, seed=seed, phases=phases, folder=folder)
                made += cases_in(ended.stdout)
                print(f"seed {seed}: {made:,} cases, exit code {ended.returncode}", flush=True)
                if ended.returncode:
                    print(ended.stdout, ended.stderr)
                    return 1
                seed, examples = seed + 1, 40
    return 0


if __name__ == "__main__":
    sys.exit(main())
