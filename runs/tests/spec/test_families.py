"""What the name of a hub model tells: a family that can be trained, one that cannot, or nothing."""

import pytest

from runs.spec.architectures import read_architecture
from runs.spec.families import MODEL_TYPES, PRESETS, families_text, family_of_hub_id, preset_names


@pytest.mark.parametrize(
    ("hub_id", "family"),
    [
        ("google/gemma-2b-it", "gemma"),
        ("google/gemma-7b", "gemma"),
        ("google/gemma-1.1-2b-it", "gemma"),
        ("google/gemma-2-2b", "gemma2"),
        ("google/gemma-2-27b-it", "gemma2"),
        ("google/gemma-3-1b-it", "gemma3"),
        ("google/gemma-3-270m", "gemma3"),
        ("meta-llama/Llama-3.2-1B", "llama"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "llama"),
        ("HuggingFaceTB/SmolLM-135M", "llama"),
        ("codellama/CodeLlama-7b-hf", "llama"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2"),
        ("Qwen/Qwen2-0.5B", "qwen2"),
        ("Qwen/Qwen1.5-0.5B", "qwen2"),
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("QWEN/QWEN3-0.6B", "qwen3"),
        ("unsloth/gemma-3-4b-it-GGUF", "gemma3"),
        ("gemma-2b", "gemma"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama"),
    ],
)
def test_a_known_family(hub_id: str, family: str):
    assert family_of_hub_id(hub_id) == (family, None)
    assert family in families_text()


@pytest.mark.parametrize(
    "hub_id",
    [
        "gpt2", "openai-community/gpt2-large", "EleutherAI/gpt-j-6b", "EleutherAI/gpt-neo-125m",
        "EleutherAI/gpt-neox-20b", "openai/gpt-oss-20b", "bert-base-uncased",
        "FacebookAI/roberta-base", "t5-small", "google/t5gemma-2b", "mistralai/Mistral-7B-v0.1",
        "mistralai/Mixtral-8x7B", "tiiuae/falcon-7b", "microsoft/phi-2", "microsoft/Phi-3-mini",
        "bigscience/bloom-560m", "bigscience/bloomz-560m", "facebook/opt-125m",
        "EleutherAI/pythia-70m", "google/paligemma-3b-pt-224", "google/codegemma-2b",
        "google/recurrentgemma-2b", "google/shieldgemma-2b", "google/gemma-3n-E2B",
        "google/embeddinggemma-300m", "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2.5-VL-3B",
        "Qwen/Qwen2-Audio-7B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen1.5-MoE-A2.7B",
        "meta-llama/Llama-4-Scout-17B", "meta-llama/Llama-3.2-11B-Vision",
        "HuggingFaceTB/SmolLM3-3B", "deepseek-ai/deepseek-llm-7b", "openai/whisper-tiny",
        "state-spaces/mamba-130m", "allenai/OLMo-1B", "allenai/OLMoE-1B-7B",
        "ibm-granite/granite-3b", "THUDM/glm-4-9b",
    ],
)  # fmt: skip
def test_a_family_that_cannot_be_trained(hub_id: str):
    family, problem = family_of_hub_id(hub_id)

    assert family is None
    assert problem is not None
    assert problem.startswith(f"{hub_id} is of ")
    assert problem.endswith(f"families: {families_text()}")


@pytest.mark.parametrize(
    "hub_id",
    ["acme/secret-1b", "m", "a/b", "optimus/prime", "acme/berta", "acme/1.5b-chat", "org/delphi-9"],
)
def test_a_name_that_does_not_tell(hub_id: str):
    assert family_of_hub_id(hub_id) == (None, None)


def test_the_organisation_does_not_count():
    assert family_of_hub_id("google-gemma-2b/secret") == (None, None)
    assert family_of_hub_id("gpt2/llama-1b") == ("llama", None)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_model_that_can_be_built(name: str):
    config = PRESETS[name]

    assert config["model_type"] in MODEL_TYPES
    assert read_architecture(config).family == MODEL_TYPES[config["model_type"]]
    assert config["hidden_size"] == config["head_dim"] * config["num_attention_heads"]


def test_families_are_named_in_order_and_once():
    assert families_text() == "gemma, gemma2, gemma3, llama, qwen2, qwen3"
