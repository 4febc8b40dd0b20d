"""Model folders are judged from headers alone, in the same words everywhere, and nothing in them
can crash the judge."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs.spec.architectures import (
    Tensor,
    UnsupportedModel,
    count_parameters,
    read_architecture,
    tensors,
)
from runs.spec.families import PRESETS
from runs.spec.model_folder import INDEX, check_model_folder, open_model_folder
from runs.tests.launching import bytes_read

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    "llama": LLAMA,
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 8},
    "gemma": LLAMA | {"model_type": "gemma", "head_dim": 8, "tie_word_embeddings": True},
    "gemma2": LLAMA | {"model_type": "gemma2", "head_dim": 8, "tie_word_embeddings": True},
    "gemma3": LLAMA | {"model_type": "gemma3_text", "head_dim": 8, "tie_word_embeddings": True},
}


def write_safetensors(path: Path, table: list[Tensor], *, dtype: str = "F32") -> None:
    size = {"F32": 4, "BF16": 2, "I8": 1, "F8_E4M3": 1}[dtype]
    header, position = {}, 0
    for tensor in table:
        end = position + tensor.size * size
        header[tensor.name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(position))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", LLAMA)


def write_folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    write_safetensors(path / "model.safetensors", tensors(read_architecture(config)))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return path


def only_problem(folder: Path) -> str:
    problems, _ = check_model_folder(folder)
    assert len(problems) == 1, problems
    return problems[0]


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_folder_has_nothing_to_report(family: str, tmp_path: Path) -> None:
    assert check_model_folder(write_folder(tmp_path / "model", FAMILIES[family])) == ([], [])


def test_the_check_reads_no_weights_and_needs_the_standard_library_only(folder: Path) -> None:
    with open(folder / "model.safetensors", "ab") as weights:
        weights.truncate(weights.tell() + (1 << 30))
    before = bytes_read()
    check_model_folder(folder)
    assert bytes_read() - before < 1 << 20
    import runs.spec.model_folder as module  # noqa: PLC0415 - looked at, not used

    roots = {getattr(value, "__module__", "").partition(".")[0] for value in vars(module).values()}
    assert roots <= {
        "",
        "builtins",
        "runs",
        "typing",
        "pathlib",
        "dataclasses",
        "__future__",
        "_frozen_importlib",
    } | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", ["missing", "nul\0byte", "x" * 5000])
def test_no_folder(path: str, tmp_path: Path) -> None:
    assert only_problem(tmp_path / path).startswith("there is no model folder")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    problem = only_problem(folder)
    assert name.removeprefix("model.") in problem


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "pytorch_model.bin",
            (
                "PyTorch's format only: where PyTorch is installed,"
                " AutoModelForCausalLM.from_pretrained"
            ),
        ),
        ("consolidated.00.pth", "PyTorch's format only: where PyTorch is installed"),
        ("model-q4.gguf", "llama.cpp (GGUF) only: use the checkpoint in safetensors"),
        ("flax_model.msgpack", "Flax only: use the checkpoint in safetensors"),
        ("adapter_model.safetensors", "holds a LoRA adapter: merge it into its base model"),
    ],
)
def test_weights_in_another_form_name_the_way_out(name: str, words: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    if name.startswith("adapter"):
        (folder / "adapter_config.json").write_text("{}")
    assert words in only_problem(folder)


def test_an_adapter_without_its_model_says_what_it_is(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "holds a LoRA adapter" in check_model_folder(folder)[0][0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"a": NaN',
        b"[" * 100_000,
        b'"text"',
        b"1" * 10_000,
    ],
)
def test_a_config_that_is_no_json_object(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    assert only_problem(folder).startswith("config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral'"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": ["llama"]}, "model_type ['llama']"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is None"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": -1}, "rope_theta is -1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 18}, "hidden_size 18"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"head_dim": 3}, "head_dim 3"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings is None"),
        ({"attention_bias": 1}, "attention_bias is 1"),
        ({"is_causal": False}, "is_causal"),
        ({"hidden_act": None}, "activation None"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"rope_scaling": {"rope_type": "default", "rope_theta": None}}, "rope_theta is None"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "by kind of layer"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
        (
            {"original_max_position_embeddings": 0, "rope_scaling": LLAMA3},
            "original_max_position_embeddings is 0",
        ),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"eos_token_id": ["x", None]}, "eos_token_id is ['x', None]"),
        ({"bos_token_id": [1]}, "bos_token_id is [1]"),
        ({"pad_token_id": 32}, "pad_token_id 32 is not in the vocabulary"),
    ],
)
def test_what_would_be_computed_differently_is_refused_by_name(
    changes: dict[str, Any], words: str, folder: Path
) -> None:
    change_config(folder, **changes)
    assert words in only_problem(folder)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "use_sliding_window"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": "all"}, "max_window_layers"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"use_sliding_window": "false"}, "use_sliding_window is 'false'"),
        ("qwen2", {"sliding_window": "x"}, "sliding_window is 'x'"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0},
            "sliding_window is 0",
        ),
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": None,
                "layer_types": ["sliding_attention"] * 2,
            },
            "sliding_window",
        ),
        ("qwen3", {"head_dim": None}, "head_dim is None"),
        ("gemma", {"hidden_act": "silu"}, "activation"),
        ("gemma", {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "silu"}, "activation"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("gemma3", {"sliding_window": None}, "sliding_window is None"),
        ("gemma3", {"attn_logit_softcapping": "x"}, "attn_logit_softcapping"),
        ("gemma3", {"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters"),
        ("gemma3", {"model_type": "gemma3"}, "text_config is missing"),
        (
            "gemma3",
            {
                "model_type": "gemma3",
                "text_config": FAMILIES["gemma3"],
                "tie_word_embeddings": False,
            },
            "tie_word_embeddings",
        ),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma2", {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ("gemma2", {"layer_types": 5}, "layer_types"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma2", {"attn_logit_softcapping": -1}, "attn_logit_softcapping"),
        ("gemma2", {"hidden_activation": "gelu"}, "activation"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"rope_parameters": {"full_attention": 3}}, "full_attention"),
        ("gemma3", {"sliding_window": 0}, "sliding_window"),
    ],
)
def test_families_refuse_by_name(family: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        read_architecture(FAMILIES[family] | changes)


def test_truncated_and_extended_files(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 4, 8, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        problem = only_problem(folder)
        assert (
            "model.safetensors is truncated" in problem or "model.safetensors is damaged" in problem
        )
    file.write_bytes(whole + b"\0")
    assert "damaged" in only_problem(folder)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        5,
        {},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 15]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]},
        {"dtype": 3, "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, True]},
    ],
)
def test_a_damaged_header(entry: Any, folder: Path) -> None:
    text = json.dumps({"model.embed_tokens.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    assert "model.safetensors is damaged" in only_problem(folder)


def test_a_header_that_is_no_json(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b"{\xff" * 8)
    assert "damaged" in only_problem(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "not a regular file" in only_problem(folder)


def test_the_one_tensor_of_a_wrong_shape_is_named(folder: Path) -> None:
    first, *others = tensors(read_architecture(LLAMA))
    rows, width = first.shape
    wrong = replace(first, shape=(rows, width + 1), expanded=(rows, width + 1))
    write_safetensors(folder / "model.safetensors", [wrong, *others])
    assert (
        only_problem(folder) == f"the tensor {first.name} has the shape [{rows}, {width + 1}] in"
        f" model.safetensors, but config.json makes it [{rows}, {width}]"
    )


def test_wrong_shapes_missing_and_foreign_tensors_are_named(folder: Path) -> None:
    table = tensors(read_architecture(LLAMA | {"intermediate_size": 25}))
    write_safetensors(folder / "model.safetensors", table)
    problems, _ = check_model_folder(folder)
    assert (
        problems[0] == "the tensor model.layers.0.mlp.gate_proj.weight has the shape [25, 16] in"
        " model.safetensors, but config.json makes it [24, 16]; 5 more tensors have other shapes"
        " as well"
    )
    table = tensors(read_architecture(LLAMA))
    write_safetensors(folder / "model.safetensors", table[1:])
    assert (
        only_problem(folder)
        == "the tensor model.embed_tokens.weight is missing from the safetensors files"
    )
    bias = Tensor("model.layers.0.self_attn.q_proj.bias", (), (16,), (16,), (0,))
    write_safetensors(folder / "model.safetensors", [*table, bias])
    assert "model.layers.0.self_attn.q_proj.bias is not part of a llama model" in only_problem(
        folder
    )


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3"])
def test_a_number_type_that_cannot_be_trained_is_said_once(dtype: str, folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", tensors(read_architecture(LLAMA)), dtype=dtype)
    problem = only_problem(folder)
    assert problem.startswith(
        "21 tensors (model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight …) have the"
        " number type"
    )
    assert dtype in problem
    assert "convert the weights to bfloat16" in problem


def test_names_without_their_prefix_are_understood(folder: Path) -> None:
    table = [
        replace(tensor, name=tensor.name.removeprefix("model."))
        for tensor in tensors(read_architecture(LLAMA))
    ]
    write_safetensors(folder / "model.safetensors", table)
    assert check_model_folder(folder) == ([], [])
    write_safetensors(
        folder / "model.safetensors", [*table, replace(table[0], name="model.embed_tokens.weight")]
    )
    assert (
        only_problem(folder)
        == "the tensor model.embed_tokens.weight is there twice, as model.embed_tokens.weight as"
        " well"
    )


def test_names_of_another_model_are_one_sentence(folder: Path) -> None:
    table = [
        replace(tensor, name="transformer." + tensor.name)
        for tensor in tensors(read_architecture(LLAMA))
    ]
    write_safetensors(folder / "model.safetensors", table)
    problem = only_problem(folder)
    assert problem.startswith("21 tensors (model.embed_tokens.weight, ")
    assert "and 21 tensors (transformer.model.embed_tokens.weight, " in problem
    assert len(problem) < 400


def test_of_a_tied_pair_one_is_enough_and_two_are_compared_later(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)
    problems, warnings = check_model_folder(folder)
    assert problems == []
    assert warnings == [
        "lm_head.weight beside tied embeddings must equal them; the training program compares them"
    ]
    write_safetensors(folder / "model.safetensors", tensors(read_architecture(LLAMA))[1:])
    assert check_model_folder(folder) == ([], [])
    assert open_model_folder(folder).entries["model.embed_tokens.weight"].shape == (32, 16)


def test_vocabulary_mismatch_between_config_and_weights(folder: Path) -> None:
    change_config(folder, vocab_size=33)
    problems, _ = check_model_folder(folder)
    assert "model.embed_tokens.weight has the shape [32, 16]" in problems[0]


def test_shards_with_an_index(folder: Path) -> None:
    table = tensors(read_architecture(LLAMA))
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": table[:5], "b.safetensors": table[5:]}
    for name, half in halves.items():
        write_safetensors(folder / name, half)
    index = {"weight_map": {tensor.name: name for name, half in halves.items() for tensor in half}}
    (folder / INDEX).write_text(json.dumps(index))
    assert check_model_folder(folder) == ([], [])
    (folder / "b.safetensors").unlink()
    assert "names b.safetensors, which is missing" in only_problem(folder)
    for content in (
        "{",
        "{}",
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../../etc/x.safetensors"}}',
    ):
        (folder / INDEX).write_text(content)
        assert INDEX in only_problem(folder)


def test_the_same_tensor_in_two_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    write_safetensors(folder / "two.safetensors", tensors(read_architecture(LLAMA))[:1])
    assert "is in one.safetensors and in two.safetensors" in only_problem(folder)


def test_no_chat_template_is_a_warning(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    problems, warnings = check_model_folder(folder)
    assert problems == []
    assert "no chat template" in warnings[0]
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert check_model_folder(folder) == ([], [])


def test_what_is_computed_otherwise_than_config_json_says_is_a_warning(tmp_path: Path) -> None:
    gemma3 = write_folder(
        tmp_path / "gemma3", FAMILIES["gemma3"] | {"attn_logit_softcapping": 50.0}
    )
    assert (
        "attn_logit_softcapping 50.0 of config.json is not applied"
        in check_model_folder(gemma3)[1][0]
    )
    gemma = write_folder(tmp_path / "gemma", FAMILIES["gemma"] | {"hidden_act": "gelu"})
    assert (
        "hidden_act gelu of config.json is computed in its tanh form"
        in check_model_folder(gemma)[1][0]
    )


def test_dropout_that_is_not_applied_is_a_warning(folder: Path) -> None:
    change_config(folder, attention_dropout=0.1)
    problems, warnings = check_model_folder(folder)
    assert problems == []
    assert warnings == [
        "attention_dropout 0.1 of config.json is not applied: training runs without dropout"
    ]


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert only_problem(folder).startswith("tokenizer.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", b'{"eos_token_id": ["x", null]}'),
        ("generation_config.json", b'{"eos_token_id": true}'),
        ("generation_config.json", b'{"eos_token_id": -1}'),
        ("generation_config.json", b'{"eos_token_id": {"a": 1}}'),
        ("generation_config.json", b'{"eos_token_id": 4294967296}'),
        ("generation_config.json", b'{"eos_token_id": 1, "eos_token_id": 2}'),
        ("generation_config.json", b"\xef\xbb\xbf{}"),
        ("config.json", b"\xef\xbb\xbf" + json.dumps(LLAMA).encode()),
        ("config.json", json.dumps(LLAMA).encode("utf-16")),
        ("config.json", b'{"vocab_size": 8, "vocab_size": 9}'),
        ("tokenizer.json", b"[1]"),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "a"}]}'),
        ("tokenizer_config.json", b'{"eos_token": 3}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}'),
        ("special_tokens_map.json", b'{"pad_token": {"lstrip": true}}'),
        ("added_tokens.json", b'{"a": 1.5}'),
        ("chat_template.json", b'{"chat_template": null}'),
        ("chat_template.jinja", b"\xff"),
        (INDEX, b'{"weight_map": {"a": "model.safetensors", "a": "b.safetensors"}}'),
    ],
)
def test_a_malformed_file_is_named(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    assert only_problem(folder).startswith(name)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nothing", path)])
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "merges.txt", INDEX]
)
def test_what_is_no_file_is_named(name: str, make: Any, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert only_problem(folder).startswith(name)


def test_a_header_that_says_a_tensor_twice_is_damaged(folder: Path) -> None:
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = b'{"a":' + entry + b',"a":' + entry + b"}"
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert (
        "model.safetensors is damaged: its header is not valid JSON: it says 'a' twice"
        in only_problem(folder)
    )


def test_control_characters_from_a_file_never_reach_a_sentence(folder: Path) -> None:
    text = json.dumps({"a\n\u001b[31mb\0": {}}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert only_problem(folder).isprintable()
    change_config(folder, model_type="x\n\0\ud800" * 100)
    assert all(problem.isprintable() for problem in check_model_folder(folder)[0])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
keys = st.sampled_from(
    [
        *LLAMA,
        *(
            "head_dim",
            "rope_scaling",
            "rope_parameters",
            "layer_types",
            "sliding_window",
            "max_window_layers",
            "text_config",
        ),
        *(
            "use_sliding_window",
            "attn_logit_softcapping",
            "query_pre_attn_scalar",
            "hidden_act",
            "hidden_activation",
        ),
        *(
            "sliding_window_pattern",
            "max_position_embeddings",
            "quantization_config",
            "is_causal",
            "eos_token_id",
            "pad_token_id",
        ),
        *(
            "original_max_position_embeddings",
            "partial_rotary_factor",
            "rope_local_base_freq",
            "tie_word_embeddings",
        ),
    ]
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(keys, json_values, max_size=4))
def test_any_config_is_read_or_refused(family: str, changes: dict[str, Any]) -> None:
    try:
        architecture = read_architecture(FAMILIES[family] | changes)
    except UnsupportedModel as error:
        sentence = str(error)
    else:
        assert len(architecture.windows) == len(architecture.ropes) == architecture.layers
        sentence = "read"
    assert sentence.isprintable()


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_as_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert check_model_folder(folder)[0]


def test_head_dim_and_rope_are_derived_as_transformers_does() -> None:
    architecture = read_architecture(LLAMA)
    assert (architecture.head_dim, architecture.ropes[0].theta) == (4, 10_000.0)
    newer = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    newer["rope_parameters"] = {"rope_type": "default", "rope_theta": 500_000.0}
    assert read_architecture(newer).ropes[0].theta == 500_000.0
    gemma3 = read_architecture(FAMILIES["gemma3"] | {"num_hidden_layers": 7, "rope_theta": 1e6})
    assert [window is None for window in gemma3.windows] == [False] * 5 + [True, False]
    assert (gemma3.ropes[0].theta, gemma3.ropes[5].theta) == (10_000.0, 1_000_000.0)


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
            {"windows": [None, None]},
        ),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": -1},
            {"windows": [5, 5]},
        ),
        # 28 layers come first
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 5},
            {"windows": [None, None]},
        ),
        ("qwen2", {"attention_bias": True, "mlp_bias": True}, {}),
        ("gemma3", {"attn_logit_softcapping": 3.0}, {"attention_softcap": None}),
        ("gemma2", {"attn_logit_softcapping": 3.0}, {"attention_softcap": 3.0}),
        (
            "gemma2",
            {},
            {
                "attention_softcap": 50.0,
                "final_softcap": 30.0,
                "query_scale": 1 / 16,
                "windows": [4096, None],
            },
        ),
        (
            "llama",
            {"query_pre_attn_scalar": 3, "final_logit_softcapping": 2.0},
            {"query_scale": 0.5, "final_softcap": None},
        ),
        ("gemma", {"query_pre_attn_scalar": 4}, {"query_scale": 8**-0.5}),
        ("llama", {"num_key_value_heads": None}, {"kv_heads": 4}),
        ("llama", {}, {"positions": 2048}),
        ("gemma3", {}, {"positions": 131_072}),
    ],
)
def test_odd_configurations_are_read_as_transformers_reads_them(
    family: str, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The numbers against transformers itself:
    runs/trainer/parity_tests/test_parity_odd_configs.py."""
    architecture = read_architecture(FAMILIES[family] | changes)
    plain = read_architecture(FAMILIES[family])
    found = {key: getattr(architecture, key) for key in expected}
    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in found.items()
    } == expected
    assert expected or architecture == plain


def test_the_length_before_scaling_may_stand_outside() -> None:
    scaled = LLAMA | {
        "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16},
        "max_position_embeddings": 64,
    }
    assert read_architecture(scaled).ropes[0].original_max_position_embeddings == 16
    assert (
        read_architecture(scaled | {"original_max_position_embeddings": 32})
        .ropes[0]
        .original_max_position_embeddings
        == 32
    )
    assert (
        read_architecture(scaled | {"rope_scaling": LLAMA3})
        .ropes[0]
        .original_max_position_embeddings
        == 64
    )


def test_parameters_are_counted_from_config_alone() -> None:
    config = PRESETS["tiny-llama"]
    per_layer = 4 * 128 * 128 + 3 * 128 * 384 + 2 * 128
    total = 260 * 128 + 4 * per_layer + 128
    assert count_parameters(config) == (total, total)
    lora = 4 * 8 * (4 * (128 + 128) + 3 * (128 + 384))
    assert count_parameters(config, lora_rank=8) == (total + lora, lora)
    assert count_parameters(config, lora_rank=8, lora_targets=["q_proj"]) == (
        total + 4 * 8 * 256,
        4 * 8 * 256,
    )
