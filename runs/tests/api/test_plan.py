"""The plan of a dry run with depth, in the API and on the run's page; and summaries that hold
anything."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from runs.execution.outcome import NO_REPORT, SUMMARY_MAX_BYTES, read_report
from runs.execution.outcome import read_result as read_result_file
from runs.models import Run
from runs.queries.summaries import histogram_bars, read_plan, read_result
from runs.services.preflight import TEXTS_MAX, Preflight, warnings_in
from runs.services.reservations import run_folder
from runs.spec.kinds import SFT
from runs.tests.conftest import Script, Submit
from runs.tests.leftovers import make_run

Answer = dict[str, Any]
RANDOM_WEIGHTS = "preset:tiny-llama starts from random weights (llama)."
# As `tunix validate --report` writes it: runs/trainer/tests/commands/test_validate.py compares the
# names.
REPORT: Answer = {
    "total_steps": 12, "steps_per_epoch": 4, "num_epochs": 3.0, "examples": 40, "held_out": 8,
    "tokens": 3456, "answer_tokens": 345, "dropped": 3, "truncated": 2, "split": 0,
    "rows_per_step": 8, "row_lengths": [128, 256], "padding_waste": 0.25,
    "padding_waste_packed": 0.1, "padding_waste_unpacked": 0.25,
    "length_histogram": [[0, 15, 10], [16, 31, 0], [32, 47, 38]], "parameters": 1000,
    "trainable_parameters": 100, "dtype": "float32", "backend": "cpu", "devices": 1,
    "memory": {"total": 2**30, "weights": 2**29, "activations": 2**29}, "memory_there": 2**33,
    "sentences": ["12 steps: 3 epochs of 4."], "warnings": ["One example is <long>."],
    "smoke": {"loss": 5.5, "grad_norm": 1.5, "seconds": 2.0, "memory_bytes": 2**20},
}  # fmt: skip
PLAN: Answer = {
    "examples": 40, "held_out": 8, "tokens": 3456, "answer_tokens": 345, "dropped": 3, "split": 0,
    "truncated": 2, "truncated_share": 0.05, "histogram": [[0, 15, 10], [16, 31, 0], [32, 47, 38]],
    "steps": 12, "steps_per_epoch": 4, "epochs": 3.0, "rows_per_step": 8, "row_lengths": [128, 256],
    "padding_share": 0.25, "parameters": 1000, "trainable_parameters": 100, "dtype": "float32",
    "backend": "cpu", "devices": 1,
    "memory": {
        "needed_bytes": 2**30, "available_bytes": 2**33,
        "parts": {"weights": 2**29, "activations": 2**29},
    },
    "smoke": {"loss": 5.5, "grad_norm": 1.5, "seconds": 2.0, "memory_bytes": 2**20},
    "sentences": ["12 steps: 3 epochs of 4."], "warnings": ["One example is <long>."],
}  # fmt: skip


@pytest.fixture
def check(api: APIClient, body: Answer, scripted: Script) -> Callable[..., Answer]:
    """A dry run with depth, whose training command follows a script."""

    def post(*script: list[Any], limit: float | None = None, **fields: Any) -> Answer:
        scripted(*script)
        request = body | {"preflight": "full", "timeout_seconds": limit} | fields
        response = api.post("/api/tunix/run", request, format="json")
        assert response.status_code == 202, response.content
        answer: Answer = response.json()
        return answer

    return post


def test_post_and_get_answer_with_the_plan(check: Callable[..., Answer], api: APIClient) -> None:
    answer = check(
        ["say", "12 steps, 3456 tokens"],
        ["complain", "a library says a word"],
        ["put", "plan.json", json.dumps(REPORT)],
    )
    assert (answer["status"], answer["stdout"], answer["stderr"]) == (
        "completed",
        "Dry-run validation passed",
        "",
    )
    assert answer["plan"] == api.get(f"/api/tunix/runs/{answer['run_id']}").json()["plan"] == PLAN
    assert answer["warnings"][-2:] == [RANDOM_WEIGHTS, "One example is <long>."]
    log = api.get(f"/api/tunix/runs/{answer['run_id']}/logs").json()
    assert "12 steps, 3456 tokens" in json.dumps(log)


def test_depth_warns_of_what_the_quick_check_warns_of_and_once(
    check: Callable[..., Answer], run_dry: Callable[..., Answer]
) -> None:
    quick = run_dry(learning_rate=0.5)["warnings"]
    assert RANDOM_WEIGHTS in quick and len(quick) > 1
    report = json.dumps(REPORT | {"warnings": [quick[-1], "New."]})
    for script, added in (
        ([["put", "plan.json", report]], ["New."]),
        ([["say", "hello"]], [NO_REPORT]),
        ([["leave", 1]], []),
    ):
        assert check(*script, learning_rate=0.5)["warnings"] == [*quick, *added]


def test_what_depth_answers_is_not_left_as_a_warning() -> None:
    preflight = Preflight(warnings=["Random."])
    preflight.leave_open("Lengths are known later.")
    assert preflight.warnings == ["Random.", "Lengths are known later."]
    assert preflight.lasting_warnings == ["Random."]


def test_the_command_writes_text_for_people_and_the_report_beside_it(
    check: Callable[..., Answer],
) -> None:
    check(["put", "plan.json", "{}"])
    argv = json.loads((run_folder(Run.objects.get()) / "command.json").read_text())["argv"]
    assert argv[-5:] == ["validate", "--config", "manifest.yaml", "--report", "plan.json"]


def test_a_report_that_is_printed_counts_too(check: Callable[..., Answer]) -> None:
    assert check(["say", json.dumps(REPORT)])["plan"] == PLAN


@pytest.mark.parametrize("script", [[["say", "hello"]], [["put", "plan.json", "{}"]]])
def test_without_a_report_there_is_no_plan_and_a_warning(
    check: Callable[..., Answer], script: list[list[Any]]
) -> None:
    answer = check(*script)
    assert (answer["status"], answer["plan"]) == ("completed", None)
    assert answer["warnings"][-1] == NO_REPORT


UNREADABLE = {
    "[]": "holds no JSON object",
    "{": "is not JSON",
    '{"tokens": NaN}': "NaN is not a JSON number",
    '{"tokens": 1e400}': "1e400 is too large a number",
    json.dumps({"x": "y" * SUMMARY_MAX_BYTES}): "holds more than",
}


@pytest.mark.parametrize(("content", "reason"), UNREADABLE.items(), ids=UNREADABLE.values())
def test_a_report_that_cannot_be_read_was_written_all_the_same(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "plan.json").write_text(content)
    [warning] = read_report(tmp_path)["warnings"]
    assert warning.startswith("The training command wrote a report that cannot be read")
    assert reason in warning
    assert "plan.json" in warning and str(tmp_path) not in warning


def test_a_report_beyond_any_size_is_not_read_at_all(tmp_path: Path) -> None:
    with open(tmp_path / "plan.json", "wb") as file:
        file.truncate(61_000_000)  # of holes
    [warning] = read_report(tmp_path)["warnings"]
    assert "plan.json is larger than" in warning


def test_a_result_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    assert read_result_file(tmp_path) == {}
    (tmp_path / "result.json").write_text("[")
    [warning] = read_result_file(tmp_path)["warnings"]
    assert warning.startswith(
        "The training command wrote a result that cannot be read: result.json is not JSON"
    )


def test_a_flood_of_warnings_is_cut_and_says_how_many_more(tmp_path: Path) -> None:
    flood = [f"{number} {'w' * 2_000}" for number in range(3_000)]
    for file, read in (("plan.json", read_report), ("result.json", read_result_file)):
        (tmp_path / file).write_text(
            json.dumps({"warnings": flood, "sentences": flood, "examples": 1})
        )
        summary = read(tmp_path)
        warnings = warnings_in(summary)
        assert (len(warnings), warnings[-1]) == (TEXTS_MAX, f"And {3_001 - TEXTS_MAX:,} more.")
        assert len(json.dumps(summary)) < 200_000
    # of a row that was stored before
    plan = read_plan({"preflight": {"warnings": flood, "sentences": flood}})
    assert plan is not None
    assert len(plan["warnings"]) == len(plan["sentences"]) == TEXTS_MAX
    assert max(map(len, plan["warnings"] + plan["sentences"])) <= 1_000


def test_a_share_that_cannot_be_is_null() -> None:
    plan = read_plan({"preflight": REPORT | {"truncated": 13_320, "padding_waste": 55}})
    assert plan is not None
    assert (plan["truncated_share"], plan["padding_share"], plan["truncated"]) == (
        None,
        None,
        13_320,
    )
    result = read_result({"exact_match_before": 0.5, "exact_match_after": 55}, SFT)
    assert (result["exact_match_before"], result["exact_match_after"]) == (0.5, None)


def test_numbers_that_no_client_can_read_are_null() -> None:
    plan = read_plan(
        {"preflight": {"tokens": 10**400, "num_epochs": float("inf"), "memory": {"total": 2**63}}}
    )
    assert plan is not None
    assert (plan["tokens"], plan["epochs"], plan["memory"]["needed_bytes"]) == (None, None, None)


@pytest.mark.parametrize(
    "script",
    [
        [["wait", "stop.json", False], ["put", "plan.json", json.dumps(REPORT)]],
        [["steps", 100_000, 0.01]],
    ],
)
def test_one_that_runs_past_its_limit_is_a_timeout_and_its_files_say_the_same(
    check: Callable[..., Answer], script: list[list[Any]]
) -> None:
    """Whether the command obeys the stop or completes in spite of it."""
    answer = check(*script, limit=1)
    folder = run_folder(Run.objects.get())
    assert (answer["status"], answer["exit_code"], answer["plan"], answer["stdout"]) == (
        "timeout",
        None,
        None,
        "",
    )
    assert (folder / "stop.json").exists()
    end = json.loads((folder / "exit.json").read_text())
    assert (end["reason"], end["message"]) == ("timeout", answer["message"])


def test_others_have_no_plan(run_dry: Callable[..., Answer]) -> None:
    assert run_dry()["plan"] is None


def test_a_failed_one_has_its_warnings_as_well(run_dry: Callable[..., Answer]) -> None:
    answer = run_dry(model_id="gpt2", learning_rate=0.5)
    assert answer["status"] == "failed"
    assert "learning_rate 0.5 is far above" in " ".join(answer["warnings"])


def test_the_page_has_a_panel_that_needs_no_script(
    check: Callable[..., Answer], local_client: Client
) -> None:
    run_id = check(["put", "plan.json", json.dumps(REPORT)])["run_id"]
    page = local_client.get(f"/runs/{run_id}").content.decode()
    panel = re.search(r'<section[^>]*data-testid="plan">.*?</section>', page, re.DOTALL)
    assert panel is not None
    for shown in (
        "<dt>Steps</dt><dd>12</dd>", "<dt>Examples</dt><dd>40</dd>",
        "<dt>Tokens</dt><dd>3,456</dd>", "<dt>Truncated</dt><dd>5 %</dd>", "of 8.6 GB",
        "Examples by length, held-out ones as well", "<bdi>12 steps: 3 epochs of 4.</bdi>",
        "8 of 128 or 256 tokens",
    ):  # fmt: skip
        assert shown in panel[0], shown
    assert re.findall(r'<rect width="(.*?)"', panel[0]) == ["26.32", "0.00", "100.00"]
    assert "<bdi>One example is &lt;long&gt;.</bdi>" in page
    assert "{&quot;" not in page


# --- whatever a training command writes -----------------------------------------------------------

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["total", "loss", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(REPORT)), _json, max_size=8))
def test_any_report_is_a_plan_of_the_same_shape(report: Answer) -> None:
    plan = read_plan({"preflight": report})
    if not report:
        assert plan is None
        return
    assert plan is not None
    assert plan.keys() == PLAN.keys()
    assert all(isinstance(number, int) for row in plan["histogram"] for number in row)
    histogram_bars(plan["histogram"])


HOSTILE: list[Any] = [
    None,
    True,
    5,
    -1.5,
    "x",
    [],
    [1, "x", None],
    [[0, 15, "x"]],
    {},
    {"total": "x"},
    [["a"]],
    [{"prompt": 5}],
]
NAMES = [
    "preflight", "warnings", "samples", "loss_first", "loss_last", "exact_match_before",
    "exact_match_after", "eval_loss_before", "eval_loss_after", "steps", "tokens_per_second",
    "model_revision",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_no_page_breaks_over_what_a_training_command_wrote(
    local_client: Client, user: User, submit: Submit, value: Any
) -> None:
    summaries = [dict.fromkeys(NAMES, value), {"preflight": dict.fromkeys(REPORT, value)}]
    runs = []
    for summary in summaries:
        run = submit(dry_run=True)
        Run.objects.filter(pk=run.pk).update(
            summary=summary, process={"keeper": value, "trainer": value}
        )
        runs.append(run)
    first, second = runs
    pages = ["/", "/datasets/sums-v1/tokens", f"/runs/compare?ids={first.pk},{second.pk}"]
    pages += [f"/runs/compare.csv?ids={first.pk},{second.pk}"]
    pages += [
        f"{start}{run.pk}"
        for run in runs
        for start in ("/runs/", "/api/tunix/runs/", "/runs/new?clone=")
    ]
    for page in pages:
        assert local_client.get(page).status_code == 200, page


def test_results_keep_what_they_should_be() -> None:
    samples = [{"prompt": "1+1=", "expected": "2", "before": None, "after": 2}, "x", None]
    result = read_result(
        {"loss_last": -1.5, "steps": True, "samples": samples, "tokens_per_second": "fast"}, SFT
    )
    assert (result["loss_last"], result["steps"], result["tokens_per_second"]) == (-1.5, None, None)
    assert result["samples"] == [{"prompt": "1+1=", "expected": "2", "before": "", "after": "2"}]
    assert read_result(None, SFT)["samples"] == read_result({"samples": 5}, SFT)["samples"] == []


# --- the limit of a run in the request ------------------------------------------------------------


def test_a_limit_that_was_cut_is_said_in_post_and_get(
    api: APIClient, body: Answer, scripted: Script, settings: LazySettings
) -> None:
    scripted()
    settings.TUNIX_SYNC_TIMEOUT_SECONDS = 1234.0
    asked = body | {"dry_run": False, "timeout_seconds": 31_536_000}
    answer = api.post("/api/tunix/run", asked, format="json").json()
    assert answer["timeout_seconds"] == 1234.0
    assert answer["warnings"] == api.get(f"/api/tunix/runs/{answer['run_id']}").json()["warnings"]
    assert answer["warnings"][0].startswith(
        "timeout_seconds 31,536,000 was cut to 1,234, TUNIX_SYNC_TIMEOUT_SECONDS"
    )
    assert api.post("/api/tunix/run?mode=async", asked, format="json").json()["warnings"] == []
    settings.TUNIX_RUN_TIMEOUT_SECONDS = 5000.5
    [said] = api.post("/api/tunix/run?mode=async", asked, format="json").json()["warnings"]
    assert (
        said
        == "timeout_seconds 31,536,000 was cut to 5,000.5: TUNIX_RUN_TIMEOUT_SECONDS limits every"
        " run to that."
    )


def test_a_dry_run_with_depth_holds_no_slot_for_ever(
    api: APIClient, body: Answer, scripted: Script, settings: LazySettings
) -> None:
    """The chat template of a model can loop."""
    scripted()

    def ask(**fields: Any) -> Answer:
        answer: Answer = api.post(
            "/api/tunix/run?mode=async", body | {"dry_run": True} | fields, format="json"
        ).json()
        return answer

    assert ask(preflight="full")["timeout_seconds"] == 3600.0
    assert ask(preflight="quick")["timeout_seconds"] is None
    cut = ask(preflight="full", timeout_seconds=7200)
    assert cut["warnings"] == [
        "timeout_seconds 7,200 was cut to 3,600: TUNIX_DRY_RUN_TIMEOUT_SECONDS limits every dry run"
        " to that."
    ]
    settings.TUNIX_RUN_TIMEOUT_SECONDS = 60.0
    assert ask(smoke=True)["timeout_seconds"] == 60.0


def test_a_limit_within_is_no_warning(api: APIClient, body: Answer, scripted: Script) -> None:
    scripted()
    assert (
        api.post(
            "/api/tunix/run", body | {"dry_run": False, "timeout_seconds": 60}, format="json"
        ).json()["warnings"]
        == []
    )


def test_a_page_of_a_run_folder_that_was_made_by_anybody(local_client: Client, user: User) -> None:
    run = make_run(
        user,
        files={
            "plan.json": b"[[",
            "seen.json": b'{"examples": [{"tokens": ["a"], "learnt": [[0, "x"]], "length": 1}]}',
        },
    )
    assert local_client.get(f"/runs/{run.pk}").status_code == 200
    assert local_client.get(f"/runs/{run.pk}/samples").status_code == 200
