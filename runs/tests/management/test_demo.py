"""`manage.py demo`: what it says, and that it ends well only if everything happened. The training
itself: test_tunix_run.py."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from runs.models import Run, RunStatus
from runs.tests.conftest import Script

RESULT = {
    "loss_first": 5.5,
    "loss_last": 0.1,
    "exact_match_before": 0.0,
    "exact_match_after": 0.98,
    "checkpoint": "checkpoints/500",
}
CHECKPOINT = ["checkpoint", 500]


def demo() -> str:
    out = io.StringIO()
    call_command("demo", stdout=out)
    return out.getvalue()


def finishing_with(**changes: Any) -> list[Any]:
    return ["put", "result.json", json.dumps(RESULT | changes)]


def test_it_reports_what_happened(db: None, scripted: Script) -> None:
    plan = '{"time": 1, "plan": {"total_steps": 2}}\n'
    scripted(["put", "metrics.jsonl", plan], ["steps", 2, 0], CHECKPOINT, finishing_with())
    said = demo()
    run = Run.objects.get(dry_run=False)
    assert run.status == RunStatus.COMPLETED
    assert "arithmetic-v1: 4200 examples, 200 of them held out" in said
    assert "completed: Dry-run completed successfully." in said
    assert "step 2/2, loss 0.5000" in said
    assert f"Run          {run.run_id}\n" in said
    assert "Loss         5.500 → 0.1000\n" in said
    assert "Exact match  0.0% → 98.0% of 200 held-out problems\n" in said
    for name in ("checkpoints/500", "stdout.log", "manifest.yaml"):
        assert f"{run.output_dir}/{name}\n" in said


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([["leave", 13, "tunix: memory: too little."]], "failed: tunix: memory: too little."),
        ([finishing_with()], "The checkpoint is missing."),
        ([CHECKPOINT, finishing_with(exact_match_after=0.1)], "did not learn"),
    ],
)
def test_anything_else_is_an_error(
    db: None, scripted: Script, script: list[Any], reason: str
) -> None:
    scripted(*script)
    with pytest.raises(CommandError, match=reason):
        demo()


def test_without_the_runtime_it_says_how_to_get_it(db: None, without_runtime: None) -> None:
    with pytest.raises(CommandError, match="Install with"):
        demo()
