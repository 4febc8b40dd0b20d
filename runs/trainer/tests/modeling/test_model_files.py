"""Whatever the files of a model folder hold, validation answers with 0, or with 12 and one
sentence, and training agrees."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from runs.trainer.launch import main
from runs.trainer.tests.helpers import Run, arithmetic, write_llama

Spoil = Callable[[Path], None]


def say(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def change_weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def change_json(name: str, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | changes))

    return spoil


def put(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content) and None


def replace_by_pipe(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def poison(number: float, name: str = "model.layers.0.mlp.up_proj.weight") -> Spoil:
    return change_weights(lambda weights: weights[name].__setitem__((5, 3), number))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            poison(np.nan),
            (
                "model.layers.0.mlp.up_proj.weight in model.safetensors has 1 of 2,048 weights that"
                " are NaN"
            ),
        ),
        (poison(-np.inf), "infinite"),
        (
            change_weights(
                lambda w: w.update(
                    {"model.norm.weight": w["model.norm.weight"].astype(np.float64) * 1e300}
                )
            ),
            "model.norm.weight in model.safetensors has 32 of 32 weights",
        ),
        (
            change_weights(
                lambda w: w.update(
                    {"lm_head.weight": w["model.embed_tokens.weight"] + np.float32(1e-3)}
                )
            ),
            "lm_head.weight differs",
        ),
        (
            change_weights(
                lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].copy()})
            ),
            None,
        ),
        (change_json("config.json", attention_bias=True), "attention_bias"),
        (change_json("config.json", is_causal=False), "is_causal"),
        (
            change_json("generation_config.json", eos_token_id=["x", None]),
            "eos_token_id is ['x', None]",
        ),
        (change_json("generation_config.json", eos_token_id=True), "eos_token_id is True"),
        (change_json("generation_config.json", eos_token_id=10**40), "eos_token_id is 1000"),
        (change_json("tokenizer_config.json", eos_token=7), "eos_token is 7"),
        (put("generation_config.json", b"\xff"), "generation_config.json is not UTF-8"),
        (put("generation_config.json", b"[]"), "generation_config.json must hold a JSON object"),
        (put("tokenizer.json", b"{}"), "tokenizer"),
        (put("added_tokens.json", b'{"<x>": -1}'), "added_tokens.json"),
        (replace_by_pipe("generation_config.json"), "generation_config.json is not a regular file"),
        (
            replace_by_pipe("special_tokens_map.json"),
            "special_tokens_map.json is not a regular file",
        ),
    ],
)
def test_validation_refuses_what_training_refuses_in_the_same_words(
    make_run: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Spoil,
    words: str | None,
) -> None:
    write_llama(tmp_path / "model")
    spoil(tmp_path / "model")
    run = make_run(model=tmp_path / "model", examples=arithmetic(8), max_steps=1)

    assert main(["validate", "--config", str(run.config)]) == (12 if words else 0)
    sentence = say(capsys) if words else ""
    assert run.train() == (12 if words else 0)

    if words:
        assert say(capsys) == sentence
        assert sentence.startswith("tunix: model: ")
        assert words in sentence
        assert not (run.folder / "result.json").exists()


def test_the_real_program_ends_with_a_sentence_and_not_with_a_traceback(
    make_run: Any, tmp_path: Path
) -> None:
    write_llama(tmp_path / "model")
    change_json("generation_config.json", eos_token_id=["x", None])(tmp_path / "model")
    run = make_run(model=tmp_path / "model", examples=arithmetic(8))
    code, _, err = run.finish("validate")
    assert code == 12
    assert "Traceback" not in err
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith("tunix: model: generation_config.json: eos_token_id")
    )


def test_weights_of_a_bare_decoder_are_loaded(make_run: Any, tmp_path: Path) -> None:
    """As ``LlamaModel.save_pretrained`` writes them: without ``model.`` before the names."""
    write_llama(tmp_path / "model")
    change_weights(
        lambda w: [w.update({name.removeprefix("model."): w.pop(name)}) for name in list(w)]
    )(tmp_path / "model")
    run = make_run(model=tmp_path / "model", examples=arithmetic(8), max_steps=1)
    assert main(["validate", "--config", str(run.config)]) == 0
    assert run.train() == 0
    assert "model.norm.weight" in load_file(run.folder / "model" / "model.safetensors")


# Anything at all in the files

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [2**31, 2**63, 10**400, -(10**30), 1e308, 5e-324, float("nan"), float("inf"), 0.5, -1.5]
    ),
    st.sampled_from(["", "x", "null", "\0", "\ud800", "é" * 500, "<|end|>"]),
    st.lists(st.none() | st.integers(-1, 300) | st.text(max_size=2), max_size=3),
    st.dictionaries(
        st.sampled_from(["content", "type", "a", ""]),
        st.none() | st.integers(-1, 9) | st.text(max_size=2),
        max_size=2,
    ),
)
files = st.sampled_from(
    [
        *(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ),
        *("added_tokens.json", "model.safetensors.index.json", "model.safetensors"),
    ]
)
CONTENT: dict[str, Any] = {  # of files that a folder need not have
    "generation_config.json": {"eos_token_id": [256], "bos_token_id": 1, "temperature": 0.7},
    "special_tokens_map.json": {
        "eos_token": {"content": "<|end|>", "lstrip": False},
        "pad_token": "<|end|>",
    },
    "added_tokens.json": {"<|user|>": 257},
    "model.safetensors.index.json": {
        "metadata": {"total_size": 1},
        "weight_map": {
            "model.norm.weight": "model.safetensors",
            "lm_head.weight": "model.safetensors",
        },
    },
}
CONFIG_KEYS = (
    *(
        "head_dim",
        "rope_scaling",
        "rope_parameters",
        "layer_types",
        "sliding_window",
        "hidden_act",
        "attention_bias",
        "is_causal",
    ),
    *(
        "quantization_config",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "eos_token_id",
        "pad_token_id",
        "dtype",
    ),
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value; of long lists and vocabularies the first few."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(spot for key, item in list(inner)[:12] for spot in spots(item, (*path, key)))]


def change_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = change_at(value[path[0]], path[1:], new) if path[1:] else new
    return changed


def spoil_bytes(content: bytes, way: str) -> bytes:
    return {
        "byte order mark": b"\xef\xbb\xbf" + content,
        "two bytes a letter": content.decode("utf-8", "replace").encode("utf-16"),
        "not UTF-8": content.replace(b'"', b'"\xff', 1),
        "empty": b"",
        "cut": content[: len(content) // 2],
        "nested without end": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        "said twice": b'{"eos_token_id": 1, "eos_token_id": 2, ' + content.lstrip()[1:],
        "not finite": b'{"a": NaN, "b": -Infinity, ' + content.lstrip()[1:],
        "a long number": b'{"a": ' + b"9" * 5000 + b", " + content.lstrip()[1:],
        "another thing behind": content + b"{}",
        "zeros": bytes(100),
    }[way]


WAYS = (
    *(
        "byte order mark",
        "two bytes a letter",
        "not UTF-8",
        "empty",
        "cut",
        "nested without end",
        "said twice",
        "not finite",
    ),
    *("a long number", "another thing behind", "zeros"),
)
NOT_FILES: dict[str, Callable[[Path], Any]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def read_part(path: Path) -> Any:
    """The JSON in a file: of safetensors the header."""
    content = path.read_bytes()
    return json.loads(
        content[8 : 8 + int.from_bytes(content[:8], "little")]
        if path.suffix == ".safetensors"
        else content
    )


def write_part(path: Path, content: bytes) -> None:
    if path.suffix == ".safetensors":
        whole = path.read_bytes()
        content = (
            len(content).to_bytes(8, "little")
            + content
            + whole[8 + int.from_bytes(whole[:8], "little") :]
        )
    path.write_bytes(content)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    write_llama(folder)
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=files, data=st.data())
def test_any_file_of_a_model_folder_is_read_or_refused(
    name: str, data: st.DataObject, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        shutil.copytree(model, folder)
        path = folder / name
        if not path.exists():
            path.write_text(json.dumps(CONTENT[name]))
        part = read_part(path)
        how = data.draw(st.sampled_from(["value", "value", "value", "bytes", "kind"]))
        if how == "kind":
            path.unlink()
            NOT_FILES[data.draw(st.sampled_from(sorted(NOT_FILES)))](path)
        elif how == "bytes":
            write_part(
                path, spoil_bytes(json.dumps(part).encode(), data.draw(st.sampled_from(WAYS)))
            )
        else:
            places = spots(part)[1:] + (
                [(key,) for key in CONFIG_KEYS] if name == "config.json" else []
            )
            write_part(
                path,
                json.dumps(
                    change_at(part, data.draw(st.sampled_from(places)), data.draw(odd_values))
                ).encode(),
            )
        run = Run.write(
            Path(place) / "run", examples=arithmetic(4), model=folder, resume_from=None, training={}
        )
        capsys.readouterr()
        code = main(["validate", "--config", str(run.config)])
        err = capsys.readouterr().err
        assert code in (0, 12), err
        assert "Traceback" not in err
        if code:
            assert err.strip().splitlines()[-1].startswith("tunix: model: ")
            assert err.strip().splitlines()[-1].isprintable()
