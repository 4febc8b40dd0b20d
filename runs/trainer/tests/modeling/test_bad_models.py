"""Models that cannot be trained, named before the first step: exit code 12, and nothing written
that looks like a result."""

import json

import pytest

from runs.trainer.tests.helpers import arithmetic, write_llama


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def garble(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])


def configure(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def lose(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, "model.safetensors"),
        (garble, "model.safetensors"),
        (lose("model.safetensors"), "safetensors"),
        (lose("config.json"), "config.json"),
        (configure(intermediate_size=80), "gate_proj.weight has the shape [64, 32]"),
        (configure(model_type="mixtral"), "mixtral"),
        (configure(num_hidden_layers=2), "model.layers.1."),
    ],
)
def test_a_bad_model_ends_with_12(make_run, tmp_path, capsys, spoil, words):
    write_llama(tmp_path / "model")
    spoil(tmp_path / "model")
    run = make_run(model=tmp_path / "model")

    assert run.train() == 12

    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("tunix: model: ")
    assert words in last
    assert not (run.folder / "result.json").exists()
    assert not (run.folder / "model").exists()


def test_a_tokenizer_of_another_model_ends_with_12(make_run, tmp_path, capsys):
    """The answers' end has id 256, the vocabulary ends at 255."""
    write_llama(tmp_path / "model", vocab_size=256)
    run = make_run(model=tmp_path / "model", examples=arithmetic(8))

    assert run.train() == 12

    assert "tokenizer and model do not belong together" in capsys.readouterr().err
    assert not (run.folder / "result.json").exists()
