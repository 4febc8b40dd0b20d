"""How fast it was, from the journals, the events and the clients' watches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.chaos.proof import Proof


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that such a share of ``values`` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Return seconds: p50, p95, the longest, and how many there are."""
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
    "attendant and task workers",
    "attendant SIGTERM",
    "attendant, second one there",
    "PostgreSQL fast",
    "PostgreSQL immediate",
)
BACK_SECONDS = 10.0  # a program that was killed so long ago is back


def chaos_figures(proof: Proof) -> dict[str, Any]:
    """Return detection, cancels and starts under chaos; "all" includes the outages of attendants
    and database."""
    detected: dict[str, list[float]] = {"all": [], "attendant and database up": []}
    cancelled: dict[str, list[float]] = {"all": [], "attendant and database up": []}
    started = []
    for run_id, run in proof.runs.items():
        ended = proof.ended_at(run)
        hits = [deed.at for deed in proof.monkey.to_run(run_id, "keeper", "trainer")]
        if (
            hits
            and ended
            and run.status == "failed"
            and ("lost" in run.message or "signal 9" in run.message)
        ):
            _note(proof, detected, min(hits), ended)
        asked = [
            act.sent
            for act in proof.acts[run_id]
            if act.what.endswith("/cancel") and act.code == 202
        ]
        if asked and ended and run.status == "cancelled":
            _note(proof, cancelled, min(asked), ended)
        starts = proof.journals[run_id].starts
        if starts:
            started.append(max(0.0, starts[0] - proof.created_at(run)))
    written, kept = proof.bytes_written, proof.bytes_kept
    return {
        "keeper or trainer killed → failed in the table, s": {
            name: spread(values) for name, values in detected.items()
        },
        "cancel → cancelled, s": {name: spread(values) for name, values in cancelled.items()},
        "stored → training process started, waiting for a slot included, s": spread(started),
        "retries": {name: count for name, count in sorted(proof.heirs.counts.items()) if count},
        "true trainings": _true_trainings(proof),
        "longest chain": max((run.attempt for run in proof.runs.values()), default=0),
        "stdout kept": (
            f"{kept:,} of {written:,} bytes ({100 * kept / written:.3f} %)" if written else None
        ),
    }


def _true_trainings(proof: Proof) -> list[str]:
    runs = [
        (run_id, run) for run_id, run in proof.runs.items() if proof.plan(run)["kind"] == "real"
    ]
    found = []
    for run_id, run in sorted(runs, key=lambda item: proof.created_at(item[1])):
        begun, _ = proof.heirs.begin(run_id, run)
        saved, _ = proof.heirs.saved(run_id, run)
        found.append(
            f"{run_id[:8]} attempt {run.attempt}, from step {begun}, saved"
            f" {max(saved, default=None)}: {run.message[:80]}"
        )
    return found


def _note(proof: Proof, found: dict[str, list[float]], start: float, end: float) -> None:
    found["all"].append(max(0.0, end - start))
    if not proof.monkey.around(start - BACK_SECONDS, end, *OUTAGES):
        found["attendant and database up"].append(max(0.0, end - start))
