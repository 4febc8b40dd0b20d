"""The start page: what the form says, what it takes, and what becomes of it."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from datasets.models import Dataset
from runs.forms.start import StartForm
from runs.models import Host, Run
from runs.services.claiming import claim_run
from runs.services.output_root import root_problem
from runs.spec.kinds import SFT, Kind
from runs.tests.conftest import Script, Submit
from runs.tests.spec.second_kind import pairs as pairs

DRY, LOCAL = ">Run (Dry-run)</button>", ">Run with Tunix (Local)</button>"


def page_of(client: Client, query: str = "") -> str:
    response = client.get(f"/runs/new{query}")
    assert response.status_code == 200
    return response.content.decode()


def filled(client: Client, query: str = "") -> dict[str, Any]:
    """What a browser sends when the form is sent as it came."""
    form: StartForm = client.get(f"/runs/new{query}").context["form"]
    data: dict[str, Any] = {}
    for field in form:
        value = field.value()
        if value is None or value is False:
            continue
        data[field.html_name] = "on" if value is True else value
    return data


def at_once(client: Client, query: str = "") -> dict[str, Any]:
    """The same without Run Async, which is on at first."""
    data = filled(client, query)
    assert data.pop("run_async") == "on"
    return data


def button(page: str, end: str) -> str:
    """The tag of the button whose text is ``end``."""
    before = page[: page.index(end)]
    return before[before.rindex("<button") :]


def test_nobody_is_shown_anything_without_a_login(remote_client: Client) -> None:
    assert remote_client.get("/runs/new")["Location"] == "/login?next=/runs/new"
    assert remote_client.post("/runs/new", {"action": "dry-run"}).status_code == 302
    assert Run.objects.count() == 0


def test_shows_every_parameter_with_its_default_and_range(
    local_client: Client, dataset: Dataset
) -> None:
    page = page_of(local_client)
    for name in SFT.parameters:
        assert f'name="{name}"' in page
    basic, advanced = page.split(' id="advanced"')
    for name, value in (
        ("learning_rate", "2e-05"),
        ("num_epochs", "3"),
        ("batch_size", "8"),
        ("max_seq_length", "2048"),
    ):
        assert f'name="{name}" value="{value}"' in basic
    assert 'inputmode="decimal"' in basic
    assert 'type="number"' not in page
    assert "128 to 32,768." in basic
    assert "0 &lt; x ≤ 1." in basic
    assert 'name="warmup_ratio"' in advanced
    assert '<details class="output fold" id="advanced" data-testid="advanced">' in page  # folded


def test_the_form_as_it_comes_asks_for_the_defaults(local_client: Client, dataset: Dataset) -> None:
    data = filled(local_client, "?dataset=sums-v1")
    local_client.post("/runs/new", data | {"action": "dry-run", "run_async": "on"})
    config = Run.objects.get().config
    assert {name: config[name] for name in SFT.parameters} == SFT.defaults()
    assert config["dry_run"] is True


def test_buttons_are_disabled_with_the_reason_when_there_is_no_dataset(
    local_client: Client, scripted: Script
) -> None:
    scripted()
    page = page_of(local_client)
    assert "disabled" in button(page, DRY)
    assert "disabled" in button(page, LOCAL)
    assert "There is no dataset to run on yet." in page


def test_local_is_disabled_with_the_reason_when_the_runtime_is_missing(
    local_client: Client, dataset: Dataset, without_runtime: None
) -> None:
    page = page_of(local_client)
    assert "disabled" not in button(page, DRY)
    assert "disabled" in button(page, LOCAL)
    assert "Tunix runtime not available. Install with `pip install -e &#x27;.[tunix]&#x27;`" in page


def test_local_is_offered_when_another_host_has_the_runtime(
    local_client: Client, dataset: Dataset, without_runtime: None
) -> None:
    Host.objects.create(name="elsewhere", runtime_version="0.1.7", heartbeat_at=timezone.now())
    page = page_of(local_client)
    assert "disabled" not in button(page, LOCAL)
    assert "Another host has it" in page
    Host.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    assert "disabled" in button(page_of(local_client), LOCAL)


def test_both_buttons_work_when_all_is_there(
    local_client: Client, dataset: Dataset, scripted: Script
) -> None:
    scripted()
    page = page_of(local_client)
    assert "disabled" not in button(page, DRY)
    assert "disabled" not in button(page, LOCAL)
    assert "Executing Tunix run…" in page


def test_a_dry_run_shows_its_result(local_client: Client, dataset: Dataset) -> None:
    data = at_once(local_client, "?dataset=sums-v1")
    response = local_client.post(
        "/runs/new", data | {"action": "dry-run", "num_epochs": "5"}, follow=True
    )
    run = Run.objects.get()
    assert response.redirect_chain == [(f"/runs/{run.pk}", 302)]
    assert (run.mode, run.status, run.config["num_epochs"], run.owner.username) == (
        "dry-run",
        "completed",
        5,
        "local",
    )
    assert "Dry-run completed successfully. Configuration is valid." in response.content.decode()


def test_a_dry_run_that_fails_says_why(
    local_client: Client, make_dataset: Callable[..., Dataset]
) -> None:
    make_dataset("nothing", size=0)
    data = at_once(local_client, "?dataset=nothing-v1")
    page = local_client.post(
        "/runs/new", data | {"action": "dry-run"}, follow=True
    ).content.decode()
    assert Run.objects.get().status == "failed"
    assert "Dataset nothing-v1 is empty" in page


def test_a_local_run_waits_and_shows_its_output(
    local_client: Client, dataset: Dataset, scripted: Script
) -> None:
    scripted(["say", "trained a little"])
    data = at_once(local_client, "?dataset=sums-v1")
    page = local_client.post("/runs/new", data | {"action": "local"}, follow=True).content.decode()
    run = Run.objects.get()
    assert (run.mode, run.status, run.exit_code) == ("local", "completed", 0), run.stderr
    assert "trained a little" in page


def test_an_asynchronous_run_is_queued(
    local_client: Client, dataset: Dataset, scripted: Script
) -> None:
    scripted()
    data = filled(local_client, "?dataset=sums-v1")
    page = local_client.post(
        "/runs/new", data | {"action": "local", "run_async": "on"}, follow=True
    ).content.decode()
    run = Run.objects.get()
    assert (run.mode, run.status) == ("local", "pending")
    assert run.queued_at is not None
    assert "Waiting in the queue" in page


def test_every_field_reaches_the_run(
    local_client: Client, dataset: Dataset, scripted: Script
) -> None:
    scripted()
    given = {
        "dataset_key": "sums-v1", "model_id": "google/gemma-2b-it", "learning_rate": "3e-4",
        "lora_rank": "16", "lora_alpha": "8.5", "lora_targets": ["q_proj", "v_proj"],
        "packing": "on", "too_long": "split", "tags": "one, two", "notes": "a\r\nb",
        "priority": "-5", "timeout_seconds": "90.5", "output_dir": "chosen/folder",
        "webhook_url": "https://example.org/hook", "max_grad_norm": "",
    }  # fmt: skip
    data = filled(local_client) | given | {"action": "local", "run_async": "on"}
    response = local_client.post("/runs/new", data)
    assert response.status_code == 302, response.context["form"].errors
    run = Run.objects.get()
    wanted = {
        "model_id": "google/gemma-2b-it", "learning_rate": 3e-4, "lora_rank": 16, "lora_alpha": 8.5,
        "lora_targets": ["q_proj", "v_proj"], "packing": True, "too_long": "split",
        "max_grad_norm": None, "tags": ["one", "two"], "notes": "a\nb", "priority": -5,
        "timeout_seconds": 90.5, "output_dir": "chosen/folder",
        "webhook_url": "https://example.org/hook", "dry_run": False,
    }  # fmt: skip
    assert {name: run.config[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dataset_key", "", "This field is required."),
        ("model_id", "", "This field is required."),
        ("model_id", "preset:nothing", "There is no preset"),
        ("model_id", "../../etc", "This field must be preset:"),
        ("learning_rate", "0", "must be greater than 0"),
        ("learning_rate", "1.1", "must be at most 1"),
        ("learning_rate", "nan", "'nan' is no number: write digits"),
        ("learning_rate", "", "This field is required."),
        ("num_epochs", "0", "must be at least 1"),
        ("num_epochs", "101", "must be at most 100"),
        ("num_epochs", "3.5", "'3.5' is no whole number: write digits only"),
        ("batch_size", "513", "must be at most 512"),
        ("max_seq_length", "127", "must be at least 128"),
        ("too_long", "explode", "Select a valid choice."),
        ("lora_alpha", "8", "This field needs lora_rank."),
        ("output_dir", "../outside", "inside the output root"),
        ("priority", "101", "between -100 and 100"),
        ("webhook_url", "ftp://example.org", "http or https"),
        ("tags", "x" * 65, "A tag has 1 to 64 characters"),
    ],
)
def test_a_wrong_field_is_marked_and_what_was_typed_stays(
    local_client: Client, dataset: Dataset, field: str, value: str, said: str
) -> None:
    data = filled(local_client, "?dataset=sums-v1") | {
        "notes": "typed before",
        "action": "dry-run",
        field: value,
    }
    response = local_client.post("/runs/new", data)
    assert response.status_code == 400
    page = response.content.decode()
    assert said in " ".join(response.context["form"].errors[field])
    assert 'aria-invalid="true"' in page or field == "client_request_id"
    assert "typed before" in page
    assert Run.objects.count() == 0


def test_an_unknown_dataset_is_404_and_said_at_its_field(
    local_client: Client, dataset: Dataset
) -> None:
    data = filled(local_client) | {"dataset_key": "gone-v1", "action": "dry-run"}
    response = local_client.post("/runs/new", data)
    assert response.status_code == 404
    assert "Not found: gone-v1" in response.content.decode()
    assert "Dataset not found" not in response.content.decode()


def test_without_the_runtime_a_local_run_is_501(
    local_client: Client, dataset: Dataset, without_runtime: None
) -> None:
    data = at_once(local_client, "?dataset=sums-v1") | {"action": "local"}
    response = local_client.post("/runs/new", data)
    assert response.status_code == 501
    assert "Tunix runtime not available" in response.content.decode()
    assert Run.objects.count() == 0


def test_without_a_free_slot_the_way_out_is_named(
    local_client: Client, dataset: Dataset, scripted: Script, submit: Submit, settings: LazySettings
) -> None:
    scripted()
    host = Host.objects.create(name=settings.TUNIX_HOST_NAME)
    assert root_problem() is None  # marks the root, as every host does
    claim_run(run=submit(), host=host, by="test")
    data = at_once(local_client, "?dataset=sums-v1") | {"action": "local"}
    response = local_client.post("/runs/new", data)
    assert response.status_code == 409
    assert "Tick Run Async to queue the run." in response.content.decode()


def test_a_check_without_a_free_slot_says_what_it_left_out(
    local_client: Client, dataset: Dataset, scripted: Script, submit: Submit, settings: LazySettings
) -> None:
    scripted()
    data = filled(local_client, "?dataset=sums-v1") | {"action": "check"}
    assert "checked-without-runtime" not in local_client.post("/runs/new", data).content.decode()
    claim_run(run=submit(), host=Host.objects.get(name=settings.TUNIX_HOST_NAME), by="test")
    assert "checked-without-runtime" in local_client.post("/runs/new", data).content.decode()


def test_the_same_form_sent_twice_starts_one_run(local_client: Client, dataset: Dataset) -> None:
    data = at_once(local_client, "?dataset=sums-v1") | {"action": "dry-run"}
    first = local_client.post("/runs/new", data)
    second = local_client.post("/runs/new", data, follow=True)
    assert second.redirect_chain == [(first["Location"], 302)]
    assert "This form was sent before" in second.content.decode()
    assert Run.objects.count() == 1


def test_going_back_and_changing_the_form_starts_another_run(
    local_client: Client, dataset: Dataset
) -> None:
    data = filled(local_client, "?dataset=sums-v1") | {"action": "dry-run"}
    local_client.post("/runs/new", data)
    local_client.post("/runs/new", data | {"num_epochs": "7"})
    assert sorted(run.config["num_epochs"] for run in Run.objects.all()) == [3, 7]


def test_a_clone_fills_the_form_but_for_the_folder(
    local_client: Client, submit: Submit, scripted: Script
) -> None:
    scripted()
    source = submit(
        model_id="google/gemma-2b-it",
        learning_rate=3e-4,
        lora_rank=16,
        tags=["one", "two"],
        output_dir="mine",
        notes="n",
    )
    data = filled(local_client, f"?clone={source.pk}")
    local_client.post("/runs/new", data | {"action": "local", "run_async": "on"})
    clone = Run.objects.exclude(pk=source.pk).get()
    assert clone.config == source.config | {"output_dir": None}
    assert clone.output_dir == str(clone.pk)
    assert 'id="advanced" open' in page_of(local_client, f"?clone={source.pk}")


@pytest.mark.parametrize("wanted", ["00000000-0000-4000-8000-000000000000", "nonsense"])
def test_a_clone_of_nothing_shows_the_defaults_and_says_so(
    local_client: Client, dataset: Dataset, wanted: str
) -> None:
    assert "The run to clone is not there" in page_of(local_client, f"?clone={wanted}")


def test_dataset_and_model_of_a_link_are_chosen(
    local_client: Client, make_dataset: Callable[..., Dataset]
) -> None:
    make_dataset("one")
    make_dataset("two", held_out=1)
    page = page_of(local_client, "?dataset=one-v1&model=google/gemma-2b-it")
    assert '<option value="one-v1" selected>one-v1 (3 to train on)</option>' in page
    assert "two-v1 (2 to train on, 1 held out)" in page
    assert 'name="model_id" value="google/gemma-2b-it"' in page


def test_hostile_values_are_shown_as_text(local_client: Client, dataset: Dataset) -> None:
    hostile = "<script>alert(1)</script>\"'"
    data = filled(local_client) | {
        "action": "dry-run",
        "dataset_key": hostile,
        "model_id": hostile,
        "notes": hostile,
    }
    page = local_client.post("/runs/new", data).content.decode()
    assert "<script>alert" not in page
    assert "<script>alert" not in page_of(
        local_client, f"?dataset={hostile}&model={hostile}&clone={hostile}"
    )


def test_a_check_answers_beside_the_form_and_leaves_it(
    local_client: Client, dataset: Dataset, without_runtime: None
) -> None:
    data = filled(local_client, f"?dataset={dataset.dataset_key}") | {
        "action": "check",
        "learning_rate": "0.001",
        "notes": "kept",
    }
    response = local_client.post("/runs/new", data)
    page = response.content.decode()
    assert response.status_code == 200
    run = Run.objects.get()
    assert (run.mode, run.status, run.config["preflight"]) == ("dry-run", "completed", "quick")
    assert "Dry-run completed successfully" in page
    assert f'href="/runs/{run.pk}"' in page
    assert 'value="0.001"' in page
    assert f'value="{data["client_request_id"]}"' in page
    local_client.post("/runs/new", data)
    assert Run.objects.count() == 2


def test_a_check_by_htmx_is_the_answer_alone(
    local_client: Client, dataset: Dataset, without_runtime: None
) -> None:
    data = filled(local_client, f"?dataset={dataset.dataset_key}") | {"action": "check"}
    text = local_client.post("/runs/new", data, headers={"HX-Request": "true"}).content.decode()
    assert text.startswith('<section id="preflight"')
    assert "hidden" not in text.split(">")[0]
    wrong = local_client.post(
        "/runs/new", data | {"num_epochs": "0"}, headers={"HX-Request": "true"}
    )
    assert "<strong>Epochs:</strong> This field must be at least 1." in wrong.content.decode()
    assert Run.objects.count() == 1


def test_a_full_check_shows_the_plan(
    local_client: Client, dataset: Dataset, scripted: Script
) -> None:
    report = {
        "total_steps": 12, "examples": 8, "tokens": 3456, "dropped": 1, "truncated": 2,
        "sentences": ["12 steps in 3 epochs."], "memory": {"total": 2**30}, "memory_there": 2**33,
        "warnings": ["One example is <long>."],
    }  # fmt: skip
    scripted(["put", "plan.json", json.dumps(report)])
    data = filled(local_client, f"?dataset={dataset.dataset_key}") | {"action": "check"}
    page = local_client.post("/runs/new", data, headers={"HX-Request": "true"}).content.decode()
    assert Run.objects.get().config["preflight"] == "full"
    for shown in (
        "12 steps in 3 epochs.",
        "3,456",
        "<dt>Left out</dt><dd>1 example</dd>",
        "<dt>Truncated</dt><dd>25 %</dd>",
        "of 8.6 GB",
        "One example is &lt;long&gt;.",
    ):
        assert shown in page


# --- what cannot be looked at, or not for so long -------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> str:
    """No space is left on the output root; the sentence that says so."""
    monkeypatch.setattr("runs.services.output_root.ROOT_FREE_BYTES", 2**80)
    return "is full:"


@pytest.mark.parametrize("action", ["local", "check"])
def test_a_full_disk_is_not_said_to_be_a_busy_slot(
    local_client: Client, dataset: Dataset, scripted: Script, full_disk: str, action: str
) -> None:
    scripted()
    response = local_client.post(
        "/runs/new", at_once(local_client, "?dataset=sums-v1") | {"action": action}
    )
    assert full_disk in response.content.decode()
    assert "slot" not in response.content.decode().split('id="preflight"')[-1]
    assert "Every slot" not in response.content.decode()


@pytest.mark.parametrize("action", ["local", "check"])
def test_an_unknown_dataset_is_404_with_the_root_unusable_too(
    local_client: Client, dataset: Dataset, scripted: Script, full_disk: str, action: str
) -> None:
    scripted()
    data = at_once(local_client) | {"dataset_key": "gone-v1", "action": action}
    response = local_client.post("/runs/new", data)
    assert response.status_code == 404
    assert "Not found: gone-v1" in response.content.decode()
    assert "Dataset not found" not in response.content.decode()


def test_an_unknown_dataset_is_404_while_every_slot_is_taken(
    local_client: Client, dataset: Dataset, scripted: Script, settings: LazySettings
) -> None:
    scripted()
    settings.TUNIX_SLOTS = 0
    response = local_client.post(
        "/runs/new", filled(local_client) | {"dataset_key": "gone-v1", "action": "check"}
    )
    assert response.status_code == 404


def test_run_async_is_on_at_first_and_stays_as_it_was_sent(
    local_client: Client, dataset: Dataset
) -> None:
    ticked = re.compile(r'name="run_async"[^>]* checked')
    assert ticked.search(page_of(local_client))
    data = at_once(local_client, "?dataset=sums-v1") | {"num_epochs": "0", "action": "local"}
    assert not ticked.search(local_client.post("/runs/new", data).content.decode())


def test_a_time_limit_that_a_run_in_the_request_cannot_have_is_said(
    local_client: Client, dataset: Dataset, scripted: Script, settings: LazySettings
) -> None:
    scripted()
    settings.TUNIX_SYNC_TIMEOUT_SECONDS = 1234.0
    cut = (
        "timeout_seconds 3,600 was cut to 1,234, TUNIX_SYNC_TIMEOUT_SECONDS, for a run in the"
        " request."
    )
    assert "Without Run Async it is cut to 1,234 s." in page_of(local_client)
    data = at_once(local_client, "?dataset=sums-v1") | {"timeout_seconds": "3600"}
    assert cut in local_client.post("/runs/new", data | {"action": "check"}).content.decode()
    assert (
        cut
        in local_client.post("/runs/new", data | {"action": "local"}, follow=True).content.decode()
    )
    queued = data | {"run_async": "on", "client_request_id": ""}
    assert (
        "was cut"
        not in local_client.post("/runs/new", queued | {"action": "check"}).content.decode()
    )
    assert (
        "was cut"
        not in local_client.post(
            "/runs/new", queued | {"action": "local"}, follow=True
        ).content.decode()
    )


def test_automatic_retries_are_promised_for_what_they_are_made_for(
    local_client: Client, dataset: Dataset
) -> None:
    page = page_of(local_client)
    assert "full memory" not in page
    assert (
        "when the training was lost with its process or its host, or its host was stopped" in page
    )


def test_depth_smoke_and_retries_reach_the_run(
    local_client: Client, dataset: Dataset, scripted: Script
) -> None:
    scripted()
    data = filled(local_client, f"?dataset={dataset.dataset_key}")
    data |= {
        "action": "local",
        "run_async": "on",
        "auto_retry": "2",
        "preflight": "full",
        "smoke": "on",
    }
    assert local_client.post("/runs/new", data).status_code == 302
    config = Run.objects.get().config
    assert (config["auto_retry"], config["preflight"], config["smoke"]) == (2, "full", True)


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("learning_rate", "0,0001", "'0,0001' has a comma: write 0.0001, with a point"),
        ("timeout_seconds", "1,5", "'1,5' has a comma: write 1.5"),
        ("batch_size", "1,000", "'1,000' has a comma: write 1000"),
        ("priority", "1,0", "'1,0' is no whole number"),
        ("learning_rate", "2", "at most 1"),
    ],
)
def test_a_number_that_cannot_be_read_is_refused_beside_its_field(
    local_client: Client, dataset: Dataset, field: str, text: str, says: str
) -> None:
    response = local_client.post(
        "/runs/new", filled(local_client, "?dataset=sums-v1") | {"action": "dry-run", field: text}
    )
    assert response.status_code == 400
    assert says in " ".join(response.context["form"].errors[field])
    assert f'value="{text}"' in response.content.decode()  # what was typed is still there
    assert Run.objects.count() == 0


HIGH = "is far above what fine-tuning uses"


@pytest.mark.parametrize(("rate", "warned"), [("0.5", True), ("0.1", False)])
def test_a_check_and_a_dry_run_warn_of_a_learning_rate_that_is_seldom_meant(
    local_client: Client, dataset: Dataset, without_runtime: None, rate: str, warned: bool
) -> None:
    for action in ("check", "dry-run"):
        data = at_once(local_client, "?dataset=sums-v1") | {"action": action, "learning_rate": rate}
        page = local_client.post("/runs/new", data, follow=True).content.decode()
        assert (HIGH in page.split('data-testid="stderr"')[0]) is warned, action


@pytest.mark.parametrize(("rate", "warned"), [("0.5", True), ("0.1", False)])
def test_a_training_that_starts_warns_of_it_too(
    local_client: Client, dataset: Dataset, scripted: Script, rate: str, warned: bool
) -> None:
    scripted()
    data = filled(local_client, "?dataset=sums-v1") | {
        "action": "local",
        "run_async": "on",
        "learning_rate": rate,
    }
    page = local_client.post("/runs/new", data, follow=True).content.decode()
    assert (HIGH in page) is warned


def test_what_is_wrong_with_a_hidden_field_is_said_above_the_form(
    local_client: Client, dataset: Dataset
) -> None:
    data = filled(local_client, "?dataset=sums-v1") | {"client_request_id": "x" * 256}
    response = local_client.post("/runs/new", data | {"action": "dry-run"})
    assert response.status_code == 400
    (said,) = response.context["form"].non_field_errors()
    assert said.startswith("client_request_id: ")
    assert said in response.content.decode()


class TestKinds:
    def test_one_kind_is_no_choice(self, local_client: Client, dataset: Dataset) -> None:
        page = page_of(local_client)
        assert 'data-testid="kinds"' not in page
        assert 'name="kind" value="sft"' in page

    def test_several_kinds_are_offered_with_what_the_form_was_opened_for(
        self, local_client: Client, dataset: Dataset, pairs: Kind
    ) -> None:
        page = page_of(local_client, "?dataset=sums-v1&model=preset:tiny-gemma3")
        assert (
            'href="/runs/new?kind=sft&amp;dataset=sums-v1&amp;model=preset%3Atiny-gemma3"'
            ' aria-current="true">Supervised fine-tuning</a>' in page
        )
        address = "?kind=pairs&dataset=sums-v1&model=preset%3Atiny-gemma3"
        assert f'href="/runs/new{address.replace("&", "&amp;")}">Pairs</a>' in page

        data = filled(local_client, address)
        assert (data["dataset_key"], data["model_id"]) == ("sums-v1", "preset:tiny-gemma3")
        assert data["beta"] == 0.1
        assert "packing" not in data

    def test_the_run_is_of_the_kind_whose_form_was_sent(
        self, local_client: Client, dataset: Dataset, pairs: Kind
    ) -> None:
        data = filled(local_client, "?kind=pairs&dataset=sums-v1")
        local_client.post("/runs/new", data | {"action": "dry-run", "beta": "0.5"})
        run = Run.objects.get()
        assert (run.kind, run.config["beta"]) == ("pairs", 0.5)

        cloned = filled(local_client, f"?clone={run.pk}")
        assert (cloned["kind"], cloned["beta"]) == ("pairs", 0.5)
        other = filled(local_client, f"?clone={run.pk}&kind=sft")
        assert other["kind"] == "sft"
        assert "beta" not in other

    def test_a_form_that_is_refused_keeps_its_kind(
        self, local_client: Client, dataset: Dataset, pairs: Kind
    ) -> None:
        data = filled(local_client, "?kind=pairs&dataset=sums-v1")
        response = local_client.post("/runs/new", data | {"action": "dry-run", "beta": "11"})
        assert response.status_code == 400
        assert "beta" in response.context["form"].errors
        assert 'name="kind" value="pairs"' in response.content.decode()

    @pytest.mark.parametrize("kind", ["dpo", "SFT", "sft\x00"])
    def test_a_kind_that_there_is_not_is_refused_where_it_is_seen(
        self, local_client: Client, dataset: Dataset, kind: str
    ) -> None:
        data = filled(local_client, "?dataset=sums-v1")
        response = local_client.post("/runs/new", data | {"action": "dry-run", "kind": kind})
        assert response.status_code == 400
        assert Run.objects.count() == 0
        assert response.context["form"].errors

    def test_an_address_with_an_unknown_kind_shows_the_default(
        self, local_client: Client, dataset: Dataset
    ) -> None:
        assert filled(local_client, "?kind=dpo")["kind"] == "sft"
