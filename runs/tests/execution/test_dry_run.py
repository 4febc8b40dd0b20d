"""A dry run checks everything that can be checked at once, writes the manifest, and starts
nothing."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from runs.execution.launching import launch_pending
from runs.models import Run, RunEvent
from runs.services.erasing import affected_by, erase
from runs.services.reservations import run_folder
from runs.spec.architectures import read_architecture, tensors
from runs.spec.families import PRESETS
from runs.spec.manifest import OUTPUT_DEFAULTS, parse_manifest

pytestmark = pytest.mark.django_db
URL = "/api/tunix/run"
Answer = dict[str, Any]


def test_a_valid_one_is_completed_in_the_words_of_the_contract(run_dry: Callable[..., Answer]):
    answer = run_dry()

    assert answer["status"] == "completed"
    assert answer["mode"] == "dry-run"
    assert answer["exit_code"] == 0
    assert answer["stdout"] == "Dry-run validation passed"
    assert answer["message"] == "Dry-run completed successfully. Configuration is valid."
    assert answer["duration_seconds"] >= 0


def test_get_answers_the_same_as_post(run_dry: Callable[..., Answer], api: APIClient):
    answer = run_dry()

    assert api.get(f"/api/tunix/runs/{answer['run_id']}").json() == answer


def test_the_life_of_one_is_in_its_events(run_dry: Callable[..., Answer]):
    run_dry()

    steps = list(RunEvent.objects.order_by("id").values_list("old", "new"))
    assert steps == [("", "pending"), ("pending", "running"), ("running", "completed")]


def test_writes_the_manifest_and_nothing_else(
    run_dry: Callable[..., Answer], dataset: Dataset, output_root: Path
):
    answer = run_dry(num_epochs=5)

    run = Run.objects.get()
    assert [path.name for path in run_folder(run).iterdir()] == ["manifest.yaml"]
    assert run_folder(run) == output_root / answer["run_id"]
    manifest = parse_manifest((run_folder(run) / "manifest.yaml").read_text())
    assert manifest["run_id"] == answer["run_id"]
    assert manifest["dataset"] == {
        "key": "sums-v1",
        "path": "dataset.jsonl",
        "format": "tunix_sft",
        "fingerprint": dataset.fingerprint,
        "examples": 3,
        "held_out": 0,
    }
    assert manifest["model"] == {"id": "preset:tiny-llama", "path": None, "revision": None}
    assert manifest["training"]["num_epochs"] == 5
    assert manifest["output"] == OUTPUT_DEFAULTS
    assert manifest["resume_from"] is None


def test_reserves_no_folder(run_dry: Callable[..., Answer], output_root: Path):
    first, second = run_dry(output_dir="mine"), run_dry(output_dir="mine")

    assert first["output_dir"] == second["output_dir"] == "mine"
    assert first["run_id"] != second["run_id"]
    assert not (output_root / "mine").exists()


def test_takes_no_slot(run_dry: Callable[..., Answer], settings: LazySettings):
    settings.TUNIX_SLOTS = 0

    assert run_dry()["status"] == "completed"


def test_needs_no_runtime(run_dry: Callable[..., Answer], without_runtime: None):
    assert run_dry(model_id="google/gemma-2b-it")["status"] == "completed"


@pytest.mark.parametrize(
    ("model_id", "warning"),
    [
        ("preset:tiny-llama", "preset:tiny-llama starts from random weights (llama)."),
        (
            "google/gemma-2b-it",
            "google/gemma-2b-it was not fetched: its files are checked when the training starts.",
        ),
        ("acme/secret-1b", "The name acme/secret-1b does not tell the model's family"),
    ],
)
def test_what_could_not_be_checked_is_a_warning(
    run_dry: Callable[..., Answer], model_id: str, warning: str
):
    answer = run_dry(model_id=model_id)

    assert answer["status"] == "completed"
    assert any(said.startswith(warning) for said in answer["warnings"])
    assert answer["stderr"] == ""


@pytest.mark.parametrize(
    "model_id",
    [
        "openai-community/gpt2",
        "google/paligemma-3b",
        "mistralai/Mistral-7B-v0.1",
        "bert-base-uncased",
    ],
)
def test_a_family_that_cannot_be_trained_fails(run_dry: Callable[..., Answer], model_id: str):
    answer = run_dry(model_id=model_id)

    assert (answer["status"], answer["exit_code"], answer["stdout"]) == ("failed", None, "")
    assert answer["message"].startswith(f"{model_id} is of ")
    assert "families: gemma, gemma2, gemma3, llama, qwen2, qwen3" in answer["message"]
    assert answer["stderr"].splitlines()[0] == f"error: {answer['message']}"


def test_a_failed_one_writes_nothing(run_dry: Callable[..., Answer], output_root: Path):
    run_dry(model_id="gpt2")

    assert not output_root.exists()


@pytest.mark.parametrize(("size", "warned"), [(3, False), (4, True)])
def test_a_batch_larger_than_the_data_is_a_warning(
    run_dry: Callable[..., Answer], size: int, warned: bool
):
    assert (
        "is larger than the 3 training examples" in " ".join(run_dry(batch_size=size)["warnings"])
    ) is warned
    assert "is larger than" not in " ".join(run_dry(batch_size=size, packing=True)["warnings"])


def test_all_problems_are_said_at_once(
    run_dry: Callable[..., Answer], make_dataset: Callable[..., Dataset]
):
    make_dataset("empty", size=0)

    answer = run_dry(dataset_key="empty-v1", model_id="gpt2")

    assert answer["message"].count(".") >= 2
    assert [line.split(":")[0] for line in answer["stderr"].splitlines()] == ["error", "error"]


def test_an_output_root_that_cannot_be_written_is_a_failed_one(
    run_dry: Callable[..., Answer], settings: LazySettings, tmp_path: Path
):
    (tmp_path / "file").write_text("in the way")
    settings.TUNIX_OUTPUT_ROOT = tmp_path / "file"

    answer = run_dry()

    assert answer["status"] == "failed"
    assert answer["message"].startswith("The manifest cannot be written: Not a directory.")


def test_a_queued_one_is_answered_by_a_worker(api: APIClient, body: Answer):
    answer = api.post(f"{URL}?mode=async", body, format="json").json()
    assert answer["status"] == "pending"

    assert launch_pending() == 1

    run = Run.objects.get()
    assert (run.status, run.exit_code, run.stdout) == ("completed", 0, "Dry-run validation passed")
    assert launch_pending() == 0


def test_a_queued_one_that_cannot_work_fails_with_the_reason(api: APIClient, body: Answer):
    api.post(f"{URL}?mode=async", body | {"model_id": "gpt2"}, format="json")
    api.post(f"{URL}?mode=async", body, format="json")

    assert launch_pending() == 2

    assert sorted(Run.objects.values_list("model_id", "status")) == [
        ("gpt2", "failed"),
        ("preset:tiny-llama", "completed"),
    ]


def test_a_dataset_that_is_gone_by_then_fails_it(api: APIClient, body: Answer, dataset: Dataset):
    api.post(f"{URL}?mode=async", body, format="json")
    dataset.delete()

    launch_pending()

    assert Run.objects.get().message == "Dataset not found: sums-v1"


def test_a_model_that_may_no_longer_be_named_fails_it(
    api: APIClient, body: Answer, settings: LazySettings, tmp_path: Path
):
    settings.TUNIX_MODEL_ROOTS = [tmp_path.resolve()]
    api.post(f"{URL}?mode=async", body | {"model_id": f"{tmp_path.resolve()}/model"}, format="json")
    settings.TUNIX_MODEL_ROOTS = []

    launch_pending()

    run = Run.objects.get()
    assert run.status == "failed"
    assert run.message.startswith(
        "The request is no longer valid: model_id: A model folder must lie inside"
    )


# --- a model folder -------------------------------------------------------------------------------


class ModelFolder:
    """A folder as Hugging Face has them, with the weights of the tiny preset."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir()
        config = PRESETS["tiny-llama"]
        self.write("config.json", config)
        self.write("tokenizer.json", {"version": "1.0"})
        self.write("tokenizer_config.json", {"chat_template": "{{ messages }}"})
        header: dict[str, Any] = {}
        end = 0
        for tensor in tensors(read_architecture(config)):
            size = 4
            for length in tensor.shape:
                size *= length
            header[tensor.name] = {
                "dtype": "F32",
                "shape": list(tensor.shape),
                "data_offsets": [end, end + size],
            }
            end += size
        text = json.dumps(header).encode()
        with (path / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)

    def write(self, name: str, value: Any) -> None:
        (self.path / name).write_text(json.dumps(value))


@pytest.fixture
def model(tmp_path: Path, settings: LazySettings) -> ModelFolder:
    root = tmp_path.resolve() / "models"
    root.mkdir()
    settings.TUNIX_MODEL_ROOTS = [root]
    return ModelFolder(root / "tiny")


def test_a_whole_model_folder_passes(run_dry: Callable[..., Answer], model: ModelFolder):
    answer = run_dry(model_id=str(model.path))

    assert answer["status"] == "completed", answer["stderr"]
    manifest = parse_manifest((run_folder(Run.objects.get()) / "manifest.yaml").read_text())
    assert manifest["model"]["path"] == str(model.path)


def test_a_truncated_safetensors_file_fails(run_dry: Callable[..., Answer], model: ModelFolder):
    weights = model.path / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 1)

    answer = run_dry(model_id=str(model.path))

    assert (answer["status"], answer["exit_code"]) == ("failed", None)
    assert answer["message"].startswith("model.safetensors is truncated: ")


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_a_safetensors_file_without_its_header_fails(
    run_dry: Callable[..., Answer], model: ModelFolder, size: int
):
    with (model.path / "model.safetensors").open("r+b") as file:
        file.truncate(size)

    assert (
        "model.safetensors is truncated or not a safetensors file"
        in run_dry(model_id=str(model.path))["stderr"]
    )


def test_a_tokenizer_without_a_template_is_a_warning(
    run_dry: Callable[..., Answer], model: ModelFolder
):
    model.write("tokenizer_config.json", {})

    answer = run_dry(model_id=str(model.path))

    assert answer["status"] == "completed"
    assert "the tokenizer has no chat template" in " ".join(answer["warnings"])


def test_examples_beyond_the_models_positions_are_a_warning(
    run_dry: Callable[..., Answer], model: ModelFolder
):
    assert "positions" not in " ".join(run_dry(model_id=str(model.path))["warnings"])

    model.write("config.json", PRESETS["tiny-llama"] | {"max_position_embeddings": 8})
    answer = run_dry(model_id=str(model.path))

    assert answer["status"] == "completed"
    assert "The model was made for 8 positions" in " ".join(answer["warnings"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "config.json must hold a JSON object"),
        ("config.json", '{"model_type": "gpt2"}', "gpt2"),
        ("config.json", '{"model_type": ["llama"]}', "model_type"),
        ("model.safetensors", None, "there is no safetensors file"),
        ("tokenizer.json", None, "there is no tokenizer"),
        ("tokenizer.json", "\x00", "tokenizer.json is not valid JSON"),
        (
            "generation_config.json",
            '{"eos_token_id": ["x", null]}',
            "generation_config.json: eos_token_id is ['x', None]",
        ),
    ],
)
def test_a_broken_model_folder_fails_with_the_file_named(
    run_dry: Callable[..., Answer], model: ModelFolder, name: str, content: str | None, said: str
):
    (model.path / name).unlink(missing_ok=True)
    if content is not None:
        (model.path / name).write_text(content)

    answer = run_dry(model_id=str(model.path))

    assert answer["status"] == "failed"
    assert said in answer["message"]


@pytest.mark.parametrize(("rate", "warned"), [(0.5, True), (0.1, False)])
def test_a_learning_rate_that_is_seldom_meant_is_a_warning(
    api: APIClient, run_dry: Callable[..., dict[str, Any]], rate: float, warned: bool
):
    answer = run_dry(learning_rate=rate)

    assert (
        any("learning_rate 0.5 is far above" in warning for warning in answer["warnings"]) is warned
    )
    assert api.get(f"/api/tunix/runs/{answer['run_id']}").json()["warnings"] == answer["warnings"]
    assert answer["status"] == "completed"


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"role": "assistant", "content": "4", "reasoning": "2 and 2"}, "reasoning"),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}],
            },
            "tools",
        ),
    ],
)
def test_a_preset_is_refused_for_what_bytes_cannot_write(
    run_dry: Callable[..., Answer], user: User, answer: dict[str, Any], name: str
):
    """The training refused it, after the dry run had called it valid."""
    plain = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    traces = create_traces(items=[{"messages": plain}, {"messages": [plain[0], answer]}], by=user)
    made = create_dataset(name=name, version="v1", trace_ids=[one.pk for one in traces], by=user)
    assert made.stats[f"with_{name}"] == 1

    refused = run_dry(dataset_key=made.dataset_key)

    assert refused["status"] == "failed"
    assert refused["message"].startswith(
        f"1 of the examples have {name}, which the built-in presets"
    )


def test_what_was_erased_keeps_no_dry_run_from_passing(
    run_dry: Callable[..., Answer], admin_user: User
):
    plain = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    thinking = [plain[0], plain[1] | {"reasoning": "2 and 2"}]
    traces = create_traces(items=[{"messages": plain}, {"messages": thinking}], by=admin_user)
    made = create_dataset(
        name="mixed", version="v1", trace_ids=[one.pk for one in traces], by=admin_user
    )
    erase(affected=affected_by(trace_ids=[traces[1].pk], by=admin_user), confirmed=1, by=admin_user)

    answer = run_dry(dataset_key=made.dataset_key)

    assert answer["status"] == "completed"
    assert any("have reasoning" in warning for warning in answer["warnings"])
