"""What an evaluation may be asked: which part of a set, how outputs are made, what scores them."""

import hashlib
import json
from typing import Any

from runs.spec.parameters import Parameter
from runs.spec.scorers import DEFAULT_SCORERS, choose

STOPS_MAX = 4
STOP_MAX_CHARACTERS = 64
SYSTEM_PROMPT_MAX_CHARACTERS = 10_000
GENERATE, CHOICES, PERPLEXITY = METHODS = ("generate", "choices", "perplexity")
# What a method gives without a scorer: the labels of its scores, the one that counts first.
LIKELIHOOD_LABELS = {CHOICES: ("choice", "choice_by_sum"), PERPLEXITY: ("nll",)}


def check_stop(value: Any) -> list[str]:
    """Return the texts that end an output. Raise ValueError."""
    if (
        not isinstance(value, list | tuple)
        or not 1 <= len(value) <= STOPS_MAX
        or not all(
            isinstance(text, str) and 1 <= len(text) <= STOP_MAX_CHARACTERS for text in value
        )
    ):
        raise ValueError(
            f"must be a list of 1 to {STOPS_MAX} texts, each of 1 to {STOP_MAX_CHARACTERS}"
            " characters"
        )
    if len(set(value)) < len(value):
        raise ValueError("must not name anything twice")
    return list(value)


def check_system_prompt(value: Any) -> str:
    """Return the system prompt. Raise ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text that is not blank")
    if len(value) > SYSTEM_PROMPT_MAX_CHARACTERS:
        raise ValueError(f"must have at most {SYSTEM_PROMPT_MAX_CHARACTERS:,} characters")
    return value


def settings_problems(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with settings that are each valid, by the name of one of them."""
    if evaluation["method"] != GENERATE:
        return {
            name: f"is a setting of method {GENERATE}, not of {evaluation['method']}"
            for name in _OF_GENERATION
            if evaluation[name] != PARAMETERS[name].default
        }
    if evaluation["temperature"] == 0 and evaluation["samples"] > 1:
        return {"samples": "must be 1 with temperature 0, which gives the same output every time"}
    return {}


def settings_hash(evaluation: dict[str, Any]) -> str:
    """Return a hash of everything that decides what outputs are made for which items, and how they
    are scored: equal settings, equal hash."""
    text = json.dumps(evaluation, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            "method",
            str,
            GENERATE,
            "generate: outputs, which are scored; choices: the likeliest of the choices of each"
            " example; perplexity: how likely the reference answers are.",
            choices=METHODS,
        ),
        Parameter(
            "part",
            str,
            "auto",
            "Which examples of the dataset; auto: the held-out part if there is one, else all.",
            choices=("auto", "held_out", "all"),
        ),
        Parameter(
            "limit",
            int,
            None,
            "Only so many of them, always the same ones; null: all.",
            1,
            100_000,
            nullable=True,
        ),
        Parameter(
            "scorers",
            list,
            list(DEFAULT_SCORERS),
            "What scores the outputs: name, and optionally version, weight and parameters.",
            check=choose,
            schema={
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string"},
                        "version": {"type": "integer"},
                        "weight": {"type": "number", "exclusiveMinimum": 0},
                        "parameters": {"type": "object"},
                    },
                },
            },
        ),
        Parameter("samples", int, 1, "Outputs for each example.", 1, 64),
        Parameter(
            "temperature", float, 0.0, "Of sampling; 0: the likeliest token each time.", 0, 2
        ),
        Parameter(
            "top_p",
            float,
            1.0,
            "Sample from the likeliest tokens with this share together.",
            0,
            1,
            exclusive_minimum=True,
        ),
        Parameter("seed", int, 0, "Of sampling.", 0, 2**31 - 1),
        Parameter("max_tokens", int, 256, "Most tokens of an output.", 1, 8192),
        Parameter(
            "stop",
            list,
            None,
            "Texts that end an output, which is cut before the first of them; null: none.",
            nullable=True,
            check=check_stop,
            schema={
                "type": "array",
                "minItems": 1,
                "maxItems": STOPS_MAX,
                "items": {"type": "string", "minLength": 1, "maxLength": STOP_MAX_CHARACTERS},
            },
        ),
        Parameter(
            "system_prompt",
            str,
            None,
            "Instead of the system message of each example; null: the example's own.",
            nullable=True,
            check=check_system_prompt,
            schema={"type": "string", "minLength": 1, "maxLength": SYSTEM_PROMPT_MAX_CHARACTERS},
        ),
        Parameter(
            "max_prompt_tokens",
            int,
            None,
            "Longer prompts get no output; null: what the model has positions for.",
            1,
            1_000_000,
            nullable=True,
        ),
        Parameter(
            "prompt_style",
            str,
            "conversation",
            "As in a training: what the chat template writes before an answer.",
            choices=("conversation", "generation"),
        ),
        Parameter(
            "dtype",
            str,
            "auto",
            "Type of weights and activations; auto: bfloat16 where the hardware has it.",
            choices=("auto", "float32", "bfloat16"),
        ),
    )
}
_OF_GENERATION = ("scorers", "samples", "temperature", "top_p", "seed", "max_tokens", "stop")
