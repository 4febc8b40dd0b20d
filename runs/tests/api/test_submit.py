"""POST /api/tunix/run: every field of the contract's table, at both ends of its range, and what is
stored of it."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from runs.models import Run, RunEvent
from runs.services.reservations import run_folder
from runs.spec.kinds import SFT
from runs.spec.manifest import parse_manifest
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
URL = "/api/tunix/run"

DEFAULTS = {
    "output_dir": None,
    "dry_run": True,
    "learning_rate": 2e-5,
    "num_epochs": 3,
    "batch_size": 8,
    "max_seq_length": 2048,
}
# field, the ends of its range, and the nearest values outside
RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("learning_rate", [5e-324, 1.0, 1], [0, 0.0, -0.0, -1e-9, 1.0000001, 2]),
    ("num_epochs", [1, 100], [0, 101, -1]),
    ("batch_size", [1, 512], [0, 513, -1]),
    ("max_seq_length", [128, 32768], [127, 32769]),
    ("priority", [-100, 100], [-101, 101]),
    ("timeout_seconds", [1, 31_536_000, 1.5, None], [0.999, 31_536_001, 0, -1]),
    ("auto_retry", [0, 10], [-1, 11]),
]
WRONG_NUMBERS: list[Any] = ["3", "", True, False, [], {}, [3]]


@pytest.fixture
def post(api: APIClient, body: dict[str, Any]):
    return lambda **fields: api.post(URL, body | fields, format="json")


def test_the_smallest_request_is_a_dry_run_with_the_documented_defaults(post):
    response = post()

    assert response.status_code == 202
    run = Run.objects.get()
    assert {name: run.config[name] for name in DEFAULTS} == DEFAULTS
    assert (run.kind, run.engine, run.dry_run, run.mode) == ("sft", "local", True, "dry-run")


def test_a_kind_that_there_is_not_is_400_and_those_there_are_named(post):
    assert post(kind="sft").status_code == 202

    response = post(kind="dpo")

    assert response.status_code == 400
    assert response.json()["kind"] == ["This field must be one of sft, evaluate."]
    assert Run.objects.count() == 1


def test_answers_all_fields_of_the_contract(post, user: User):
    answer = post().json()

    contract = {
        "run_id", "status", "kind", "mode", "dataset_key", "model_id", "output_dir", "exit_code",
        "stdout", "stderr", "duration_seconds", "started_at", "completed_at", "message",
    }  # fmt: skip
    assert contract <= set(answer)
    run = Run.objects.get()
    assert answer["run_id"] == str(run.run_id)
    assert answer["dataset_key"] == "sums-v1"
    assert answer["model_id"] == "preset:tiny-llama"
    assert answer["output_dir"] == str(run.run_id)
    assert answer["owner"] == user.username
    for name in ("started_at", "completed_at", "created_at"):
        assert answer[name].endswith("Z")
        assert datetime.now(UTC) - datetime.fromisoformat(answer[name]) < timedelta(minutes=1)
    assert answer["started_at"] <= answer["completed_at"]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, good, _ in RANGES for value in good]
)
def test_takes_both_ends_of_a_range(post, user: User, name: str, value: Any):
    set_role(user=user, role=Role.OPERATOR)  # a priority above 0 takes that
    response = post(**{name: value})

    assert response.status_code == 202, response.content
    assert Run.objects.get().config[name] == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, _, bad in RANGES for value in bad]
)
def test_refuses_what_lies_outside_a_range(post, name: str, value: Any):
    response = post(**{name: value})

    assert response.status_code == 400
    assert list(response.json()) == ["detail", name]
    assert name in response.json()["detail"]
    assert not Run.objects.exists()


@pytest.mark.parametrize("value", WRONG_NUMBERS)
@pytest.mark.parametrize("name", [name for name, _, _ in RANGES])
def test_a_number_must_be_a_number(post, name: str, value: Any):
    response = post(**{name: value})

    assert response.status_code == 400
    assert list(response.json()) == ["detail", name]


@pytest.mark.parametrize(
    "name", ["num_epochs", "batch_size", "max_seq_length", "priority", "auto_retry"]
)
def test_a_whole_number_must_be_whole(post, name: str):
    assert post(**{name: 200.5}).status_code == 400
    assert post(**{name: 8.0}).status_code == 400


@pytest.mark.parametrize(
    "name", [name for name, parameter in SFT.parameters.items() if not parameter.nullable]
)
def test_a_parameter_without_a_meaning_for_null_refuses_it(post, name: str):
    assert post(**{name: None}).json()[name] == ["This field must not be null."]


def test_every_training_parameter_can_be_given_and_reaches_the_manifest(post):
    training = {
        "learning_rate": 0.5, "num_epochs": 2, "batch_size": 3, "max_seq_length": 256, "seed": 7,
        "max_steps": 11, "lora_rank": 4, "lora_alpha": 9.5, "lora_targets": ["q_proj", "down_proj"],
        "packing": True, "too_long": "split", "prompt_style": "generation", "lr_schedule": "linear",
        "warmup_ratio": 0.5, "weight_decay": 0.25, "max_grad_norm": 2.5,
        "gradient_accumulation_steps": 2, "gradient_checkpointing": True, "dtype": "float32",
        "log_every_steps": 3, "eval_every_steps": 4, "exact_match_examples": 5,
        "exact_match_max_tokens": 6, "checkpoint_every_steps": 7, "checkpoint_every_minutes": 8.5,
        "keep_last_checkpoints": 9, "keep_best_checkpoints": 10, "export_merged": True,
        "data_parallel": 1, "fsdp_parallel": 1,
    }  # fmt: skip
    assert set(training) == set(SFT.parameters)

    assert post(**training).status_code == 202

    run = Run.objects.get()
    manifest = parse_manifest((run_folder(run) / "manifest.yaml").read_text(encoding="utf-8"))
    assert manifest["training"] == training
    assert {name: run.config[name] for name in training} == training


class TestDatasetKey:
    def test_takes_one_character_short_of_nothing_and_256(self, api: APIClient, user: User):
        for name, version in (("a", "b"), ("n" * 200, "v" * 55)):
            key = create_dataset(name=name, version=version, trace_ids=[], by=user).dataset_key
            response = api.post(
                URL, {"dataset_key": key, "model_id": "preset:tiny-llama"}, format="json"
            )
            assert response.status_code == 202
            assert response.json()["dataset_key"] == key

    @pytest.mark.parametrize("key", ["x", "k" * 256])
    def test_a_key_of_1_or_256_characters_is_looked_up(self, post, key: str):
        response = post(dataset_key=key)

        assert response.status_code == 404
        assert response.json() == {"detail": f"Dataset not found: {key}"}

    @pytest.mark.parametrize("key", ["", "k" * 257, 7, None, True, ["sums-v1"], {"key": "sums-v1"}])
    def test_refuses_anything_else(self, post, key: Any):
        response = post(dataset_key=key)

        assert response.status_code == 400
        assert list(response.json()) == ["detail", "dataset_key"]

    def test_is_required(self, api: APIClient):
        response = api.post(URL, {"model_id": "preset:tiny-llama"}, format="json")

        assert response.status_code == 400
        assert response.json()["dataset_key"] == ["This field is required."]


class TestModelId:
    @pytest.mark.parametrize(
        "model_id", ["m", "m" * 256, "google/gemma-2b-it", "a/b", "preset:tiny-llama"]
    )
    def test_takes_presets_and_hub_ids_of_1_to_256_characters(self, post, model_id: str):
        response = post(model_id=model_id)

        assert response.status_code == 202
        assert response.json()["model_id"] == model_id

    @pytest.mark.parametrize("model_id", ["my-model", "gemma-2b-it", "m" * 256])
    def test_a_name_without_an_owner_is_no_hub_id(self, post, model_id: str):
        answer = post(model_id=model_id).json()

        assert (answer["status"], answer["exit_code"]) == ("failed", None)
        assert answer["message"].startswith(f"{model_id} names no model: a hub id is owner/name")
        assert "absolute or starting with ./" in answer["stderr"]

    def test_a_folder_without_its_path_is_named_with_it(
        self, post, settings: LazySettings, tmp_path
    ):
        project, far = tmp_path.resolve() / "project", tmp_path.resolve() / "far"
        settings.BASE_DIR, settings.TUNIX_MODEL_ROOTS = project, [project / "models", far]
        for folder in (
            project / "models/near-model",
            project / "models/gpt2",
            far / "far-model",
            far / "Qwen/Qwen3-0.6B",
        ):
            folder.mkdir(parents=True)

        for model_id, meant in (
            ("near-model", "./models/near-model"),
            ("models/near-model", "./models/near-model"),
            ("gpt2", "./models/gpt2"),
            ("far-model", f"{far}/far-model"),
        ):
            answer = post(model_id=model_id).json()
            assert answer["status"] == "failed"
            assert f"Did you mean the folder {meant}?" in answer["stderr"]
        # may be either: the hub's, and that is said
        answer = post(model_id="Qwen/Qwen3-0.6B").json()
        assert answer["status"] == "completed"
        assert f"the folder of that name is {far}/Qwen/Qwen3-0.6B." in str(answer)

    @pytest.mark.parametrize("model_id", ["", "m" * 257, 7, None, True, [], {}])
    def test_refuses_what_is_no_text_of_that_length(self, post, model_id: Any):
        response = post(model_id=model_id)

        assert response.status_code == 400
        assert list(response.json()) == ["detail", "model_id"]

    def test_is_required(self, api: APIClient, dataset: Dataset):
        response = api.post(URL, {"dataset_key": dataset.dataset_key}, format="json")

        assert response.json()["model_id"] == ["This field is required."]

    def test_an_unknown_preset_is_refused_with_those_there_are(self, post):
        response = post(model_id="preset:huge")

        assert response.status_code == 400
        assert response.json()["model_id"] == ["There is no preset 'huge'; presets: tiny-llama."]

    def test_a_folder_may_be_absolute_or_relative_to_the_project(
        self, post, settings: LazySettings, tmp_path
    ):
        root = tmp_path.resolve()
        settings.TUNIX_MODEL_ROOTS = [root]
        settings.BASE_DIR = root
        (root / "a model").mkdir()

        for model_id in (str(root / "a model"), "./a model"):
            answer = post(model_id=model_id).json()
            assert answer["status"] == "failed"
            assert "config.json is missing" in answer["message"]


class TestOutputDir:
    @pytest.mark.parametrize(
        ("asked", "stored"),
        [
            ("mine", "mine"),
            ("./output/mine", "mine"),
            ("a/b/c", "a/b/c"),
            ("a//b/", "a/b"),
            ("./a", "a"),
            ("output/mine", "output/mine"),
            ("käse ✓", "käse ✓"),
            ("a" * 255, "a" * 255),
        ],
    )
    def test_is_a_path_below_the_output_root(self, post, asked: str, stored: str):
        response = post(output_dir=asked)

        assert response.status_code == 202, response.content
        assert response.json()["output_dir"] == stored

    @pytest.mark.parametrize("asked", [None, "", "./output/", "./"])
    def test_is_made_from_the_run_id_where_it_says_nothing(self, post, asked: str | None):
        answer = post(output_dir=asked).json()

        assert answer["output_dir"] == answer["run_id"]

    @pytest.mark.parametrize("asked", [7, True, [], {}, ["a"]])
    def test_must_be_text(self, post, asked: Any):
        assert list(post(output_dir=asked).json()) == ["detail", "output_dir"]


@pytest.mark.parametrize("value", [0, 1, "true", "false", None, [], {}])
@pytest.mark.parametrize("name", ["dry_run", "smoke", "packing"])
def test_a_boolean_must_be_a_boolean(post, name: str, value: Any):
    response = post(**{name: value})

    assert response.status_code == 400
    assert list(response.json()) == ["detail", name]


class TestTags:
    def test_are_stored_in_their_order_without_repeats(self, post):
        answer = post(tags=["b", " a ", "b", "t" * 64]).json()

        assert answer["tags"] == ["a", "b", "t" * 64]
        assert Run.objects.get().config["tags"] == ["b", "a", "t" * 64]

    @pytest.mark.parametrize("tags", [[], [str(number) for number in range(20)]])
    def test_there_may_be_none_or_twenty(self, post, tags: list[str]):
        assert post(tags=tags).status_code == 202

    @pytest.mark.parametrize(
        "tags",
        [
            "a",
            {"a": 1},
            [1],
            [""],
            ["  "],
            ["t" * 65],
            ["a\nb"],
            [str(number) for number in range(21)],
            [None],
        ],
    )
    def test_refuses_anything_else(self, post, tags: Any):
        assert list(post(tags=tags).json()) == ["detail", "tags"]


class TestNotes:
    def test_takes_20000_characters(self, post):
        assert post(notes="é" * 20_000).json()["notes"] == "é" * 20_000

    @pytest.mark.parametrize("notes", ["n" * 20_001, 7, []])
    def test_refuses_anything_else(self, post, notes: Any):
        assert list(post(notes=notes).json()) == ["detail", "notes"]


@pytest.mark.parametrize("value", ["quick", "full"])
def test_preflight_is_quick_or_full(post, value: str):
    assert post(preflight=value).status_code == 202
    assert list(post(preflight=value + "er").json()) == ["detail", "preflight"]


@pytest.mark.parametrize("name", ["lora_alpha", "lora_targets"])
def test_lora_settings_need_a_rank(post, name: str):
    value = {"lora_alpha": 2.0, "lora_targets": ["q_proj"]}[name]

    assert post(**{name: value}).json()[name] == ["This field needs lora_rank."]
    assert post(**{name: value}, lora_rank=2).status_code == 202


def test_unknown_fields_are_refused_with_their_names(post):
    response = post(learnin_rate=0.1, **{"": 1, "schön": None})

    assert response.status_code == 400
    assert set(response.json()) == {"detail", "learnin_rate", "", "schön"}
    assert response.json()["learnin_rate"] == ["Unknown field."]


def test_everything_that_is_wrong_is_said_at_once(post):
    response = post(dataset_key=1, model_id="", num_epochs=0, batch_size="8", surplus=1)

    assert set(response.json()) == {
        "detail",
        "dataset_key",
        "model_id",
        "num_epochs",
        "batch_size",
        "surplus",
    }


def test_a_run_has_its_first_event_from_the_moment_it_is_stored(post, user: User):
    post()

    first = RunEvent.objects.order_by("id")[0]
    assert (first.old, first.new, first.reason, first.by) == (
        "",
        "pending",
        "submitted",
        user.username,
    )


class TestAsync:
    def test_answers_at_once_with_a_pending_run(self, api: APIClient, body: dict[str, Any]):
        response = api.post(f"{URL}?mode=async", body, format="json")

        assert response.status_code == 202
        answer = response.json()
        assert answer["status"] == "pending"
        assert answer["queued_at"] is not None
        assert answer["started_at"] is answer["completed_at"] is answer["exit_code"] is None
        assert uuid.UUID(answer["run_id"]) == Run.objects.get().run_id

    def test_sync_can_be_said(self, api: APIClient, body: dict[str, Any]):
        assert api.post(f"{URL}?mode=sync", body, format="json").json()["status"] == "completed"

    @pytest.mark.parametrize("query", ["mode=later", "mode=ASYNC", "mod=async", "mode=async&x=1"])
    def test_another_query_is_422(self, api: APIClient, body: dict[str, Any], query: str):
        response = api.post(f"{URL}?{query}", body, format="json")

        assert response.status_code == 422
        assert not Run.objects.exists()

    def test_an_unknown_dataset_and_a_bad_body_are_refused_before_anything_is_queued(
        self, api: APIClient, body: dict[str, Any]
    ):
        assert (
            api.post(f"{URL}?mode=async", body | {"dataset_key": "no"}, format="json").status_code
            == 404
        )
        assert (
            api.post(f"{URL}?mode=async", body | {"num_epochs": 0}, format="json").status_code
            == 400
        )
        assert not Run.objects.exists()
