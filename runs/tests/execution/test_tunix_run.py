"""With google-tunix: a local run of the preset through the API really trains."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.models import MetricSeries, Run
from runs.services.reservations import run_folder

pytestmark = [pytest.mark.tunix, pytest.mark.django_db]


@pytest.fixture
def train(api: APIClient, body: dict[str, Any], settings: LazySettings) -> Any:
    settings.TUNIX_SYNC_TIMEOUT_SECONDS = 300.0

    def post(**fields: Any) -> dict[str, Any]:
        asked = body | {"dry_run": False, "max_seq_length": 128, "batch_size": 3} | fields
        answer: dict[str, Any] = api.post("/api/tunix/run", asked, format="json").json()
        return answer

    return post


def test_a_small_training_completes_with_a_checkpoint(
    train: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """PYTHONPATH names the project here: the trainer must not take our `datasets` for Hugging
    Face's."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))

    answer = train(max_steps=4, num_epochs=9, learning_rate=1e-2, exact_match_examples=0)

    assert (answer["status"], answer["exit_code"]) == ("completed", 0), answer["stderr"]
    assert (answer["step"], answer["total_steps"]) == (4, 4)
    result = answer["summary"]
    assert result["steps"] == 4
    assert result["loss_last"] < result["loss_first"]
    folder = run_folder(Run.objects.get())
    assert any((folder / result["checkpoint"]).iterdir())
    assert json.loads((folder / "result.json").read_text())["loss_last"] == result["loss_last"]
    series = {each.name: each for each in MetricSeries.objects.all()}
    assert series["loss"].count == 4
    assert {"learning_rate", "grad_norm", "tokens", "tokens_per_second"} <= set(series)
    assert series["loss"].last == pytest.approx(answer["last_loss"])


def test_a_dry_run_with_depth_has_a_whole_plan(train: Any, dataset: Dataset):
    answer = train(dry_run=True, preflight="full", num_epochs=2)

    assert (answer["status"], answer["stdout"], answer["stderr"]) == (
        "completed",
        "Dry-run validation passed",
        "",
    )
    plan = answer["plan"]
    assert (plan["examples"], plan["steps"], plan["truncated_share"]) == (3, 2, 0)
    assert sum(count for _, _, count in plan["histogram"]) == 3
    assert [name for name, value in plan.items() if value is None] == ["smoke"]
    assert 0 < plan["memory"]["needed_bytes"] == sum(plan["memory"]["parts"].values())
    assert plan["memory"]["available_bytes"] > 0
    log = (run_folder(Run.objects.get()) / "stdout.log").read_text()
    assert "3 examples to learn from" in log
    assert "{" not in log


def test_what_the_training_program_refuses_is_said_in_words(train: Any, make_dataset: Any):
    """Only the training program counts tokens exactly: with its template the example is longer than
    the limit."""
    make_dataset("long", size=1, prompt="x" * 123)

    answer = train(dataset_key="long-v1", max_steps=1)

    assert (answer["status"], answer["exit_code"]) == ("failed", 11)
    assert answer["message"].startswith("tunix: data: ")
