"""The page of one run: everything about it, in words, escaped, refreshed while it is active."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from runs.execution.launching import launch_pending
from runs.models import Host, Run, RunEvent
from runs.runfolder import files, names
from runs.services.annotations import annotate_run
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.finishing import finish_run
from runs.services.reservations import run_folder
from runs.services.retrying import retry_run
from runs.tests.conftest import Submit
from runs.tests.leftovers import leave_checkpoints_of

HOSTILE = "<script>alert(1)</script></pre><img src=x onerror=alert(1)>\x1b[31m\"'&"


pytestmark = pytest.mark.usefixtures("a_training_command")


def page_of(client: Client, run: Run, **headers: str) -> str:
    response = client.get(f"/runs/{run.pk}", headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def finished(submit: Submit, status: str = "completed", **fields: Any) -> Run:
    run = submit(**fields.pop("request", {}))
    claim_run(run=run, host=Host.objects.get_or_create(name="a-host")[0], by="test")
    exit_code = 0 if status == "completed" else 1
    return finish_run(
        run=run,
        status=status,
        reason=fields.pop("reason", "It is over."),
        by="test",
        exit_code=exit_code,
        **fields,
    )


def test_nobody_is_shown_anything_without_a_login(remote_client: Client, submit: Submit) -> None:
    run = submit()
    response = remote_client.get(f"/runs/{run.pk}")
    assert response.status_code == 302
    assert response["Location"] == f"/login?next=/runs/{run.pk}"


@pytest.mark.parametrize("path", ["00000000-0000-4000-8000-000000000000", "not-a-run", "new/"])
def test_a_run_that_is_not_there_is_404(local_client: Client, path: str) -> None:
    response = local_client.get(f"/runs/{path}")
    assert response.status_code == 404
    assert "Not found" in response.content.decode()


def test_a_run_in_the_trash_is_404(local_client: Client, submit: Submit) -> None:
    run = submit()
    request_cancel(run=run, by=run.owner)
    trash_run(run=run, by=run.owner)
    assert local_client.get(f"/runs/{run.pk}").status_code == 404


def test_shows_all_fields(local_client: Client, submit: Submit) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    run = finished(
        submit,
        "failed",
        reason="The loss is not a number at step 137.",
        duration_seconds=185.4,
        stdout="said this",
        stderr="complained so",
        request={
            "tags": ["chosen"],
            "priority": 7,
            "timeout_seconds": 7200,
            "client_request_id": "my-request",
        },
    )
    Run.objects.filter(pk=run.pk).update(created_at=moment, started_at=moment, completed_at=moment)
    page = page_of(local_client, run)
    for shown in (
        str(run.pk), "sums-v1", "preset:tiny-llama", "local", "somebody", "a-host", "3 min 05 s",
        "The loss is not a number at step 137.", "said this", "complained so",
        "chosen", "2 h 00 min", "my-request", "2026-03-04 05:06:07 UTC", run.output_dir,
    ):  # fmt: skip
        assert shown in page
    assert (
        '<span class="status large is-failed" data-testid="run-status"'
        " data-live-status>failed</span>" in page
    )


def test_says_why_and_who_and_when(local_client: Client, submit: Submit) -> None:
    run = submit()
    request_cancel(run=run, by=run.owner)
    RunEvent.objects.filter(run=run).update(at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    page = page_of(local_client, run)
    timeline = page[page.index('data-testid="events"') :]
    assert timeline.index("cancelled by somebody") < timeline.index("submitted")
    assert 'title="2026-03-04 05:06:07 UTC"' in timeline
    assert "by somebody" in timeline


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("pending", "Waiting in the queue"),
        ("running", "Running on <bdi>a-host</bdi>"),
        ("cancelling", "Asked to stop"),
    ],
)
def test_says_in_words_what_an_active_run_does(
    local_client: Client, submit: Submit, status: str, words: str
) -> None:
    run = submit()
    if status != "pending":
        claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    if status == "cancelling":
        request_cancel(run=run, by=run.owner)
    assert words in page_of(local_client, run)


def test_shows_the_configuration_with_defaults_and_what_was_changed(
    local_client: Client, submit: Submit
) -> None:
    page = page_of(local_client, submit(learning_rate=3e-4, lora_rank=16))
    assert (
        '<tr class="changed"><td class="mono" title="Peak learning rate.">learning_rate</td><td'
        ' class="mono">0.0003</td>' in page
    )
    before, rest = page.split('id="other-parameters"')
    assert ">lora_rank<" in before
    assert ">num_epochs<" in before
    assert ">warmup_ratio<" in rest


def test_shows_the_command_that_was_executed_and_links_the_manifest(
    local_client: Client, submit: Submit
) -> None:
    run = submit()
    path = run_folder(run)
    path.mkdir(parents=True)
    assert "The manifest is written when the run starts." in page_of(local_client, run)
    files.write_json(
        path / names.COMMAND, {"argv": ["/opt/some python", "train", "--config", "manifest.yaml"]}
    )
    (path / names.MANIFEST).write_text("manifest_version: '1.0'\n")
    page = page_of(local_client, run)
    assert f"cd {path}" in page
    assert "&#x27;/opt/some python&#x27; train --config manifest.yaml" in page
    link = f"/api/tunix/runs/{run.pk}/manifest"
    assert f'href="{link}"' in page
    assert local_client.get(link).content == b"manifest_version: '1.0'\n"


def test_shows_what_an_executing_run_has_written_so_far(
    local_client: Client, submit: Submit
) -> None:
    run = submit()
    claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    assert "Nothing has been written yet." in page_of(local_client, run)
    path = run_folder(run)
    path.mkdir(parents=True)
    (path / names.STDOUT).write_text("step 1 of 10\n")
    page = page_of(local_client, run)
    assert "step 1 of 10" in page
    assert '<details class="output" id="output-stdout" open>' in page


def test_refreshes_itself_only_while_it_is_active(local_client: Client, submit: Submit) -> None:
    run = submit()
    assert f'hx-get="/runs/{run.pk}" hx-trigger="run:status from:body, every 10s' in page_of(
        local_client, run
    )
    part = page_of(local_client, run, **{"HX-Request": "true"})
    assert part.startswith('<div id="live"')
    request_cancel(run=run, by=run.owner)
    assert "hx-trigger" not in page_of(local_client, run, **{"HX-Request": "true"})


def test_shows_progress(local_client: Client, submit: Submit) -> None:
    run = submit()
    claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    Run.objects.filter(pk=run.pk).update(step=120, total_steps=400, last_loss=0.8342)
    page = page_of(local_client, run)
    assert '<progress value="120" max="400"' in page
    assert "loss 0.8342" in page


def test_shows_what_came_of_it(local_client: Client, submit: Submit) -> None:
    result = {
        "loss_first": 2.8714, "loss_last": 0.3905, "eval_loss_before": 2.9, "eval_loss_after": 0.4,
        "exact_match_before": 0.0, "exact_match_after": 0.84, "steps": 400,
        "tokens_per_second": 9412.3,
        "samples": [{"prompt": HOSTILE, "expected": "68", "before": "", "after": "17 + 51 = 68"}],
    }  # fmt: skip
    page = page_of(local_client, finished(submit, summary=result))
    for shown in ("2.8714 →</span> 0.3905", "0 % →</span> 84 %", "9,412.3", "17 + 51 = 68"):
        assert shown in page
    assert "<script>alert" not in page


def test_shows_the_commit_of_a_hub_model(local_client: Client, submit: Submit) -> None:
    assert f'data-testid="revision">{"a" * 40}<' in page_of(
        local_client, finished(submit, summary={"model_revision": "a" * 40})
    )
    assert "<script>alert" not in page_of(
        local_client, finished(submit, summary={"model_revision": HOSTILE})
    )
    assert 'data-testid="revision"' not in page_of(
        local_client, finished(submit, summary={"model_revision": None})
    )


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"model_revision": {"a": [1]}},
        {"samples": "not a list"},
        {"loss_last": "NaN"},
        {"samples": [1, None]},
        {"exact_match_after": []},
    ],
)
def test_a_result_file_that_makes_no_sense_does_no_harm(
    local_client: Client, submit: Submit, summary: dict[str, Any]
) -> None:
    page_of(local_client, finished(submit, summary=summary))


def test_hostile_output_is_shown_as_text(local_client: Client, submit: Submit) -> None:
    run = finished(
        submit,
        "failed",
        reason=HOSTILE,
        stdout=HOSTILE,
        stderr=HOSTILE,
        request={"notes": HOSTILE, "tags": [HOSTILE[:24]]},
    )
    page = page_of(local_client, run)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/pre&gt;" in page


def test_notes_are_markdown_without_any_html_of_their_own(
    local_client: Client, submit: Submit
) -> None:
    notes = (
        "**bold** [in](/runs/new) [out](javascript:alert(1)) <b onclick=alert(1)>x</b>"
        " ![pixel](https://example.org/x.png)"
    )
    page = page_of(local_client, submit(notes=notes))
    assert "<strong>bold</strong>" in page
    assert '<a href="/runs/new">in</a>' in page
    assert 'href="javascript' not in page
    assert "<b onclick" not in page
    assert "<img" not in page


def test_shows_the_chain_of_retries(local_client: Client, submit: Submit) -> None:
    run = finished(submit, "failed")
    retry = retry_run(run=run, by=run.owner)
    assert f'href="/runs/{retry.pk}"' in page_of(local_client, run)
    page = page_of(local_client, retry)
    assert f'href="/runs/{run.pk}"' in page
    assert "<dd>2, after" in page


def test_offers_what_can_be_done_in_its_status(local_client: Client, submit: Submit) -> None:
    run = submit()
    page = page_of(local_client, run)
    assert "/cancel" in page
    assert "/retry" not in page
    assert "/trash" not in page
    request_cancel(run=run, by=run.owner)
    page = page_of(local_client, run)
    assert "/cancel" not in page
    for action in ("retry", "trash", "pin", "annotate"):
        assert f'action="/runs/{run.pk}/{action}"' in page
    assert f'href="/runs/new?clone={run.pk}"' in page


@pytest.mark.parametrize("count", [1, 3])
def test_costs_the_same_queries_for_any_number_of_events_and_tags(
    local_client: Client,
    submit: Submit,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    run = submit()
    for number in range(count):
        annotate_run(run=run, by=run.owner, tags=tuple(f"tag-{each}" for each in range(number + 1)))
    # the local user is made and remembered, and the writes before are counted
    page_of(local_client, run)
    # the local user, the run, its events, tags, retries, the dataset and its overlaps; it waits:
    # the root
    with django_assert_num_queries(8):
        page_of(local_client, run)


def test_a_broken_command_file_does_no_harm(local_client: Client, submit: Submit) -> None:
    run = submit()
    path = run_folder(run)
    path.mkdir(parents=True)
    (path / names.COMMAND).write_text("{broken")
    assert "train --config manifest.yaml" in page_of(local_client, run)
    (path / names.COMMAND).write_text(json.dumps({"argv": "text"}))
    assert "train --config manifest.yaml" in page_of(local_client, run)


def test_hooks_for_the_live_log_and_the_charts(local_client: Client, submit: Submit) -> None:
    run = submit()
    page = page_of(local_client, run)
    for hook in (
        f'data-live-run="{run.pk}"',
        'data-live-log="stdout"',
        'data-live-log="stderr"',
        "data-live-charts",
        "data-live-progress",
    ):
        assert hook in page
    assert 'src="/static/tunixrt/live.js" type="module"' in page
    assert "data-live-chain" not in page
    request_cancel(run=run, by=run.owner)
    assert "data-live-chain" in page_of(local_client, retry_run(run=run, by=run.owner))


def test_a_dry_run_has_no_files_to_follow(local_client: Client, submit: Submit) -> None:
    page = page_of(local_client, submit(dry_run=True))
    assert "data-live-log" not in page
    assert "data-live-charts" not in page
    assert 'data-testid="files"' not in page


@pytest.fixture
def with_files(submit: Submit) -> Run:
    """An ended run with a checkpoint of two files, a model and a log."""
    run = submit()
    request_cancel(run=run, by=run.owner)
    folder = run_folder(run)
    for path, size in (
        ("model/model.safetensors", 2048),
        ("stdout.log", 5),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x" * size)
    leave_checkpoints_of(run, 10)
    return run


def test_files_are_listed_with_size_and_download(local_client: Client, with_files: Run) -> None:
    response = local_client.get(f"/runs/{with_files.pk}")
    identity = (run_folder(with_files) / "checkpoints/identity.json").stat().st_size
    assert [(group.path, group.size, group.removable) for group in response.context["files"]] == [
        ("checkpoints/10", 36, True), ("checkpoints/identity.json", identity, False),
        ("model", 2048, True), ("stdout.log", 5, False),
    ]  # fmt: skip
    page = response.content.decode()
    assert (
        f'href="/api/tunix/runs/{with_files.pk}/artifacts/checkpoints/10/model_params/_METADATA"'
        " download" in page
    )
    assert f'href="/api/tunix/runs/{with_files.pk}/artifacts/stdout.log" download' in page


def test_a_checkpoint_is_deleted(local_client: Client, with_files: Run) -> None:
    page = local_client.post(
        f"/runs/{with_files.pk}/remove-file?path=checkpoints/10", follow=True
    ).content.decode()
    assert "\u2068checkpoints/10\u2069 is deleted: 36 bytes are free again." in page
    assert not (run_folder(with_files) / "checkpoints/10").exists()
    assert (run_folder(with_files) / "model/model.safetensors").exists()
    assert with_files.events.latest("id").by == "local"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "stdout.log",
        "../x",
        "checkpoints/11",
        "checkpoints/identity.json",
        "model/../stdout.log",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_deleted(local_client: Client, with_files: Run, path: str) -> None:
    page = local_client.post(
        f"/runs/{with_files.pk}/remove-file?path={path}", follow=True
    ).content.decode()
    assert "that could be read or removed" in page
    assert (run_folder(with_files) / "stdout.log").exists()


def test_files_of_an_active_run_stay(local_client: Client, submit: Submit) -> None:
    run = submit()
    path = run_folder(run) / "model" / "x"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    assert 'aria-label="Delete model"' not in page_of(local_client, run)
    page = local_client.post(f"/runs/{run.pk}/remove-file?path=model", follow=True).content.decode()
    assert "Files can be removed when the run has ended" in page
    assert path.exists()


def test_the_output_of_a_queued_dry_run_comes_with_its_end(
    submit: Submit, local_client: Client
) -> None:
    """It has no process whose log could be followed, so the part is fetched anew."""
    run = submit(dry_run=True)
    page = local_client.get(f"/runs/{run.pk}").content.decode()
    assert "#part-output," in page
    output = page[page.index('id="part-output"') :]
    assert "data-live-log" not in output
    assert '<details class="output" id="output-stdout" open>' in output
    launch_pending()
    part = local_client.get(f"/runs/{run.pk}", headers={"HX-Request": "true"}).content.decode()
    assert "Dry-run validation passed" in part[part.index('id="part-output"') :]


def test_the_log_of_a_training_is_followed_and_never_fetched_as_a_part(
    submit: Submit, local_client: Client
) -> None:
    page = local_client.get(f"/runs/{submit().pk}").content.decode()
    assert "part-output" not in page
    assert 'data-live-log="stdout"' in page
