"""What a parameter is, and the parameters that all kinds of training share.

Plain Python: API, forms, preflight and the training program import it, so that a parameter has one
definition of its name, type, default, range and help. runs/spec/kinds.py has the parameters that
belong to one kind alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runs.spec.wording import not_a_number, number_text, value_text

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Parameter:
    """One training parameter.

    ``type`` is bool, int, float, str, list (of strings) or dict. The bounds are inclusive,
    ``minimum`` unless ``exclusive_minimum``. ``None`` is accepted where ``nullable`` and means what
    ``help`` says. A value of another form has a ``check``, which raises ValueError with what is
    wrong, and a ``schema`` that describes it.
    """

    name: str
    type: type
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    nullable: bool = False
    choices: tuple[str, ...] = ()
    basic: bool = False
    check: Callable[[Any], Any] | None = None
    schema: dict[str, Any] | None = None

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with ``value``, or None. Numbers must be numbers: ``"3"`` and ``True``
        are refused."""
        if value is None:
            return None if self.nullable else "must not be null"
        if self.check is not None:
            try:
                self.check(value)
            except ValueError as error:
                return str(error)
            return None
        if self.type is bool:
            return None if isinstance(value, bool) else "must be true or false"
        if self.type is int:
            if isinstance(value, bool) or not isinstance(value, int):
                return not_a_number(value, whole=True)
            return self._range_problem(value)
        if self.type is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return not_a_number(value, whole=False)
            if isinstance(value, float) and not math.isfinite(value):
                return "must be a finite number"
            return self._range_problem(value)
        if self.type is list:
            if not isinstance(value, list | tuple) or not value:
                return "must be a list with at least one name"
            unknown = [item for item in value if item not in self.choices]
            if unknown:
                return f"{value_text(unknown[0])} is not one of {', '.join(self.choices)}"
            return "must not name anything twice" if len(set(value)) < len(value) else None
        if self.type is dict:
            return (
                None if isinstance(value, dict) else f"must be an object, not {value_text(value)}"
            )
        if not isinstance(value, str):
            return f"must be text, not {value_text(value)}"
        if self.choices and value not in self.choices:
            return f"{value_text(value)} is not one of {', '.join(self.choices)}"
        return None

    def _range_problem(self, value: float) -> str | None:
        if self.minimum is not None:
            if self.exclusive_minimum and not value > self.minimum:
                return f"must be greater than {number_text(self.minimum)}"
            if not self.exclusive_minimum and value < self.minimum:
                return f"must be at least {number_text(self.minimum)}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {number_text(self.maximum)}"
        return None

    @property
    def range_text(self) -> str:
        """The range as people write it: ``0 < x ≤ 1``, ``1–100``, or the choices."""
        if self.choices:
            return ", ".join(self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        if self.exclusive_minimum:
            return f"{number_text(self.minimum)} < x ≤ {number_text(self.maximum)}"
        return f"{number_text(self.minimum)}–{number_text(self.maximum)}"


# What is trained, and on how much of the data: stands in front of what a kind adds.
_SCOPE = (
    Parameter(
        "learning_rate",
        float,
        2e-5,
        "Peak learning rate.",
        0,
        1.0,
        exclusive_minimum=True,
        basic=True,
    ),
    Parameter("num_epochs", int, 3, "Passes over the training part.", 1, 100, basic=True),
    Parameter(
        "batch_size",
        int,
        8,
        "Rows a step: examples, or packed rows with packing.",
        1,
        512,
        basic=True,
    ),
    Parameter(
        "max_seq_length",
        int,
        2048,
        "Longest row in tokens, prompt and answer.",
        128,
        32768,
        basic=True,
    ),
    Parameter(
        "seed",
        int,
        0,
        "Seed of the weights, the LoRA matrices and the order of the data.",
        0,
        2**31 - 1,
    ),
    Parameter(
        "max_steps",
        int,
        None,
        "Stop after so many optimizer steps, at the latest after num_epochs; null: after"
        " num_epochs.",
        1,
        10**8,
        nullable=True,
    ),
    Parameter(
        "lora_rank",
        int,
        None,
        "Rank of the LoRA matrices; null trains all weights.",
        1,
        1024,
        nullable=True,
    ),
    Parameter(
        "lora_alpha",
        float,
        None,
        "LoRA scale is alpha / rank; null: twice the rank.",
        0,
        8192,
        exclusive_minimum=True,
        nullable=True,
    ),
    Parameter(
        "lora_targets",
        list,
        None,
        "Projections that get LoRA matrices; null: all of them.",
        nullable=True,
        choices=LORA_TARGETS,
    ),
)

# How the weights are found, measured and kept: stands behind what a kind adds.
_PROCEDURE = (
    Parameter(
        "lr_schedule",
        str,
        "cosine",
        "Shape of the learning rate after the warm-up.",
        choices=("cosine", "linear", "constant"),
    ),
    Parameter(
        "warmup_ratio", float, 0.03, "Share of the steps in which the learning rate rises.", 0, 1.0
    ),
    Parameter("weight_decay", float, 0.0, "AdamW weight decay.", 0, 1.0),
    Parameter(
        "max_grad_norm",
        float,
        1.0,
        "Gradients are clipped to this norm; null: never.",
        0,
        1000,
        exclusive_minimum=True,
        nullable=True,
    ),
    Parameter(
        "gradient_accumulation_steps",
        int,
        1,
        "Batches whose gradients make one optimizer step.",
        1,
        1024,
    ),
    Parameter(
        "gradient_checkpointing",
        bool,
        False,
        "Recompute activations in the backward pass: less memory, more time.",
    ),
    Parameter(
        "dtype",
        str,
        "auto",
        "Type of weights and activations; auto: bfloat16 where the hardware has it.",
        choices=("auto", "float32", "bfloat16"),
    ),
    Parameter("log_every_steps", int, 1, "Steps between two lines of metrics.", 1, 10**6),
    Parameter(
        "eval_every_steps",
        int,
        None,
        "Steps between two held-out evaluations; null: at the end of each epoch.",
        1,
        10**8,
        nullable=True,
    ),
    Parameter(
        "exact_match_examples",
        int,
        50,
        "Held-out problems solved by greedy decoding before and after; 0: none.",
        0,
        100_000,
    ),
    Parameter("exact_match_max_tokens", int, 256, "Longest decoded answer in tokens.", 1, 8192),
    Parameter(
        "checkpoint_every_steps",
        int,
        None,
        "Steps between two checkpoints; null: by minutes only.",
        1,
        10**8,
        nullable=True,
    ),
    Parameter(
        "checkpoint_every_minutes",
        float,
        10.0,
        "Minutes between two checkpoints; null: by steps only.",
        0,
        10080,
        exclusive_minimum=True,
        nullable=True,
    ),
    Parameter("keep_last_checkpoints", int, 2, "Newest checkpoints that are kept.", 1, 1000),
    Parameter(
        "keep_best_checkpoints",
        int,
        1,
        "Checkpoints with the lowest held-out loss that are kept besides.",
        0,
        1000,
    ),
    Parameter(
        "export_merged", bool, False, "LoRA: also write the merged model, not only the adapter."
    ),
    Parameter(
        "data_parallel",
        int,
        None,
        "Devices over which batches are spread with whole weights; null: 1.",
        1,
        4096,
        nullable=True,
    ),
    Parameter(
        "fsdp_parallel",
        int,
        None,
        "Devices over which the weights are spread; null: all that are left.",
        1,
        4096,
        nullable=True,
    ),
)


def with_shared(*own: Parameter) -> dict[str, Parameter]:
    """Return the parameters of a kind by name, in the order of documents and forms: those that all
    kinds share, and its ``own``."""
    return {parameter.name: parameter for parameter in (*_SCOPE, *own, *_PROCEDURE)}


SHARED = with_shared()
