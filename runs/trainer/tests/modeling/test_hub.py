"""Models by hub id, against a hub on loopback: what is asked first, what is refused, which commit
is trained again."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from runs.spec.manifest import read_manifest
from runs.trainer.errors import ModelError, StorageError
from runs.trainer.modeling.hub import fetch
from runs.trainer.tests.conftest import ROOT
from runs.trainer.tests.fake_hub import Hub, Repository, serve
from runs.trainer.tests.helpers import Run, arithmetic, write_llama

MODEL = "owner/tiny-llama"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model; this process asks it, with an empty cache."""
    with serve() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        write_llama(tmp_path / "first")
        hub.repositories[MODEL] = Repository()
        hub.repositories[MODEL].push(tmp_path / "first")
        yield hub
        close_session()


def test_the_configuration_comes_before_everything_else(hub: Hub):
    folder, commit = fetch(MODEL, None)

    assert hub.contents()[0] == "config.json"
    assert commit == folder.name == hub.repositories[MODEL].resolve("main")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_without_weights_only_the_description_comes(hub: Hub):
    folder, _ = fetch(MODEL, None, weights=False)

    assert "tokenizer.json" in hub.contents()
    assert "model.safetensors" not in hub.contents()
    assert not (folder / "model.safetensors").exists()


def test_what_is_in_the_cache_is_not_fetched_again(hub: Hub):
    _, commit = fetch(MODEL, None)
    hub.asked.clear()

    assert fetch(MODEL, commit)[1] == commit

    assert hub.asked == []


def change_config(hub: Hub, tmp_path: Path, **changes: object) -> None:
    path = tmp_path / "first" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    hub.repositories[MODEL].push(tmp_path / "first")


@pytest.mark.parametrize("weights", [True, False])
def test_a_model_that_cannot_be_trained_is_refused_before_its_weights_come(
    hub: Hub, tmp_path: Path, weights: bool
):
    change_config(hub, tmp_path, model_type="mixtral")

    with pytest.raises(ModelError, match=f"{MODEL} cannot be loaded: .*mixtral"):
        fetch(MODEL, None, weights=weights)

    assert hub.contents() == ["config.json"]


@pytest.mark.parametrize("weights", [True, False])
def test_a_model_that_the_disk_has_no_room_for_is_refused_before_its_weights_come(
    hub: Hub, weights: bool
):
    hub.repositories[MODEL].sizes["model.safetensors"] = 10**18

    with pytest.raises(
        StorageError, match=rf"^1000000000\.0 GB of {MODEL} .* GB are free; .*HF_HOME"
    ):
        fetch(MODEL, None, weights=weights)

    assert hub.contents() == ["config.json"]


def test_weights_that_are_in_the_cache_need_no_room(hub: Hub):
    fetch(MODEL, None)
    hub.repositories[MODEL].sizes["model.safetensors"] = 10**18

    fetch(MODEL, None)


@pytest.mark.parametrize(
    ("file", "words"),
    [("config.json", "has no config.json"), ("model.safetensors", "no weights as safetensors")],
)
def test_a_repository_without_what_a_model_needs_is_refused(
    hub: Hub, tmp_path: Path, file: str, words: str
):
    (tmp_path / "first" / file).rename(tmp_path / "first" / "pytorch_model.bin")
    hub.repositories[MODEL].push(tmp_path / "first")

    with pytest.raises(ModelError, match=words):
        fetch(MODEL, None)

    assert "pytorch_model.bin" not in hub.contents()


def test_code_beside_a_model_is_not_fetched(hub: Hub, tmp_path: Path):
    (tmp_path / "first" / "modeling_evil.py").write_text("raise SystemExit")
    change_config(hub, tmp_path, auto_map={"AutoConfig": "modeling_evil.Config"})

    folder, _ = fetch(MODEL, None)

    assert "modeling_evil.py" not in hub.contents()
    assert not (folder / "modeling_evil.py").exists()


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("owner/nothing", None, "owner/nothing is not on the hub, or needs a token"),
        (MODEL, "no-branch", f"{MODEL} has no revision no-branch"),
        ("owner/gated", None, "owner/gated is gated: accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: Hub, tmp_path: Path, name: str, revision: str | None, words: str
):
    hub.repositories["owner/gated"] = Repository(hub.repositories[MODEL].commits, gated=True)

    with pytest.raises(ModelError, match=words):
        fetch(name, revision)


def test_a_hub_that_is_away_leaves_what_is_in_the_cache(hub: Hub):
    hub.down = True
    with pytest.raises(ModelError, match="not in the local cache and the hub cannot be reached"):
        fetch(MODEL, None)
    hub.down = False
    folder, commit = fetch(MODEL, None)
    hub.down = True

    assert fetch(MODEL, None) == (folder, commit)
    assert fetch(MODEL, commit) == (folder, commit)


def test_offline_nobody_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    folder, commit = fetch(MODEL, None)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert fetch(MODEL, None) == (folder, commit)
    assert hub.asked == []


def test_a_training_started_again_trains_the_same_commit(hub: Hub, tmp_path: Path):
    """Also when the branch has moved on in between."""
    run = Run.write(
        tmp_path / "run",
        examples=arithmetic(16),
        model=MODEL,
        resume_from=None,
        training={"num_epochs": 1},
    )
    run.config.write_text("# mine\n" + run.config.read_text())
    commit = hub.repositories[MODEL].resolve("main")

    assert run.train() == 0

    assert read_manifest(run.config)["model"] == {"id": MODEL, "path": None, "revision": commit}
    assert run.config.read_text().startswith("# mine\n")
    assert run.result()["model_revision"] == commit
    card = (run.folder / "model" / "README.md").read_text()
    assert f"{MODEL} at revision {commit}" in card
    assert f"revision: {commit}" in card.partition("## Manifest")[2]
    assert not list(run.folder.glob(".manifest*"))

    write_llama(tmp_path / "second", seed=1)
    assert hub.repositories[MODEL].push(tmp_path / "second") != commit
    assert run.train() == 0

    assert run.result()["model_revision"] == commit
    assert run.result()["resumed_from_step"] == 2


def calls_of_from_pretrained() -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(
        path
        for part in ("runs", "benchmarks", "datasets", "tunixrt", "docs")
        for path in (ROOT / part).rglob("*.py")
    ):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "from_pretrained" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}", node))
    return found


def test_nobody_runs_code_that_comes_with_a_model():
    calls = calls_of_from_pretrained()

    assert len(calls) >= 5
    for text, call in calls:
        assert isinstance(call.func, ast.Attribute)
        if ast.unparse(call.func.value).endswith("PeftModel"):
            continue  # reads matrices into a model that is there; has no such parameter
        trust = [keyword.value for keyword in call.keywords if keyword.arg == "trust_remote_code"]
        assert [ast.literal_eval(value) for value in trust] == [False], text
