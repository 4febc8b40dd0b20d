"""How fast it was, from the journals, the events and the clients' watches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.chaos.proof import Proof


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of ``values`` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Seconds: p50, p95, the longest, and how many there are."""
    if not values:
        return None
    return {
        "p50": round(quantile(values, 0.5), 3),
        "p95": round(quantile(values, 0.95), 3),
        "max": round(max(values), 3),
        "count": len(values),
    }


OUTAGES = (
    "attendant",
    "attendant and cluster",
    "attendant SIGTERM",
    "attendant, second one there",
    "PostgreSQL fast",
    "PostgreSQL immediate",
)
BACK_SECONDS = 10.0  # a program that was killed so long ago is back


def chaos_figures(proof: Proof) -> dict[str, Any]:
    """Detection, cancels and starts under chaos; "all" has the outages of attendants and database in it."""
    detected: dict[str, list[float]] = {"all": [], "attendant and database up": []}
    cancelled: dict[str, list[float]] = {"all": [], "attendant and database up": []}
    started = []
    for run_id, run in proof.runs.items():
        ended = proof.ended_at(run)
        hits = [deed.at for deed in proof.monkey.to_run(run_id, "keeper", "trainer")]
        if hits and ended and run.status == "failed" and ("lost" in run.message or "signal 9" in run.message):
            _note(proof, detected, min(hits), ended)
        asked = [act.sent for act in proof.acts[run_id] if act.what.endswith("/cancel") and act.code == 202]
        if asked and ended and run.status == "cancelled":
            _note(proof, cancelled, min(asked), ended)
        starts = proof.journals[run_id]["starts"]
        if starts:
            started.append(max(0.0, starts[0] - run.created_at.timestamp()))
    written, kept = proof.bytes_written, proof.bytes_kept
    return {
        "keeper or trainer killed → failed in the table, s": {name: spread(values) for name, values in detected.items()},
        "cancel → cancelled, s": {name: spread(values) for name, values in cancelled.items()},
        "stored → training process started, waiting for a slot included, s": spread(started),
        "stdout kept": f"{kept:,} of {written:,} bytes ({100 * kept / written:.3f} %)" if written else None,
    }


def _note(proof: Proof, found: dict[str, list[float]], start: float, end: float) -> None:
    found["all"].append(max(0.0, end - start))
    if not proof.monkey.around(start - BACK_SECONDS, end, *OUTAGES):
        found["attendant and database up"].append(max(0.0, end - start))
