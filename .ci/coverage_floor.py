"""Hold line and branch coverage each to a floor of its own:  coverage_floor.py COVERAGE_JSON

coverage's own `fail_under` knows one number that mixes both, where many lines hide few branches.
"""

import json
import sys
from pathlib import Path
from typing import Any

LINES, BRANCHES = 95.0, 90.0


def percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def main(path: Path) -> int:
    report: dict[str, Any] = json.loads(path.read_text())
    for name, file in sorted(report["files"].items()):
        summary = file["summary"]
        lines = percent(summary["covered_lines"], summary["num_statements"])
        branches = percent(summary["covered_branches"], summary["num_branches"])
        if lines < LINES or branches < BRANCHES:
            missing = ", ".join(map(str, file["missing_lines"][:12])) + (
                " …" if len(file["missing_lines"]) > 12 else ""
            )
            print(
                f"  {name}: lines {lines:.1f} %, branches {branches:.1f} %"
                + (f"; not run: {missing}" if missing else "")
            )
    totals = report["totals"]
    lines = percent(totals["covered_lines"], totals["num_statements"])
    branches = percent(totals["covered_branches"], totals["num_branches"])
    print(
        f"lines {lines:.2f} % (at least {LINES:.0f}), branches {branches:.2f} % (at least"
        f" {BRANCHES:.0f})"
    )
    return 0 if lines >= LINES and branches >= BRANCHES else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
