"""The run manifest: what a training is asked to do, as one YAML file.

This module is plain Python. Django (API, forms, preflight) and the training program both import it,
so that the parameters of a training have one definition: name, type, default, range and help.

A manifest is a mapping of five sections, drawn in ``docs/manifest.md``::

    manifest_version: "1.0"
    run_id: 0c5b…
    dataset:  {key, path, format, fingerprint, examples, held_out}
    model:    {id, path, revision}
    training: every name in PARAMETERS
    output:   {checkpoints, model, metrics, result}
    resume_from: null, or the folder of checkpoints to go on from
    extend_from_step: null, or the step of the checkpoint that the training extends
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

# libyaml where PyYAML has it: ten times faster
_FastDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

# The scalars of the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema): tag,
# pattern, first characters. PyYAML reads YAML 1.1, where 2e-4 and 1e3 are text, 010 is eight, 1:30
# is ninety and `no` is false.
_CORE_SCHEMA: tuple[tuple[str, str, list[str]], ...] = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """Reads YAML with the scalars and tags of the 1.2 core schema. Refuses a key that is given
    twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        f"tag:yaml.org,2002:{name}": constructor
        for name, constructor in (
            ("null", yaml.SafeLoader.construct_yaml_null),
            ("bool", lambda loader, node: _core_bool(loader.construct_scalar(node))),
            ("int", lambda loader, node: _core_int(loader.construct_scalar(node))),
            ("float", lambda loader, node: _core_float(loader.construct_scalar(node))),
            ("str", yaml.SafeLoader.construct_yaml_str),
            ("seq", yaml.SafeLoader.construct_yaml_seq),
            ("map", yaml.SafeLoader.construct_yaml_map),
        )
    } | {None: yaml.SafeLoader.construct_undefined}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    problem = f"the key {value_text(key)} is given twice"
                    raise yaml.constructor.ConstructorError(
                        None, None, problem, key_node.start_mark
                    )
                seen.add(key)
        return mapping


def _core_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{shortened(repr(text))} is not true or false")
    return text.lower() == "true"


def _core_int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _core_float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(_FastDumper):
    """Writes YAML that readers of 1.1 and of 1.2 understand alike: text that either would take for
    something else is quoted."""


for _tag, _pattern, _first in _CORE_SCHEMA:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
        )

MANIFEST_VERSION = "1.0"
DATASET_FORMAT = "tunix_sft"

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


LEARNING_RATE_USUAL_MAX = 0.1  # above it, a warning
SHOWN_CHARACTERS = 80


def shortened(text: str) -> str:
    """``text`` as a message shows it: of what is long, the beginning."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def number_text(value: float) -> str:
    """A number as a message says it: ``100,000,000``, ``0.00002``, never ``1e+08``."""
    text = f"{value:,.15g}"
    return f"{value:,.20f}".rstrip("0").rstrip(".") if "e" in text and abs(value) < 1 else text


def value_text(value: Any) -> str:
    """A value as a message shows it: as it stands in a request, ``true`` and not ``True``."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)  # YAML knows dates
    except (
        ValueError,
        RecursionError,
    ):  # a number of more than 4,300 digits; lists in lists in lists
        return "this"
    return shortened(
        "".join(
            one if one.isprintable() else f"\\u{ord(one):04x}"
            for one in text[: SHOWN_CHARACTERS + 1]
        )
    )


NUMBER_HINT = "write it without quotes, with a point for decimals, as in 0.0001"


def not_a_number(value: Any, *, whole: bool) -> str:
    """Say what ``value`` should have been instead: ``must be a number, not "0,0001": write …``."""
    hint = NUMBER_HINT if not whole else "write digits without quotes and separators"
    said = f"must be a {'whole ' if whole else ''}number, not {value_text(value)}"
    return f"{said}: {hint}" if isinstance(value, str) else said


class ManifestError(ValueError):
    """A manifest that cannot be used. ``problems`` maps ``section.key`` to one sentence each."""

    def __init__(self, problems: dict[str, str]):
        self.problems = problems
        super().__init__("; ".join(f"{key}: {problem}" for key, problem in problems.items()))


@dataclass(frozen=True)
class Parameter:
    """One training parameter.

    ``type`` is bool, int, float, str or list (of strings). The bounds are inclusive, ``minimum``
    unless ``exclusive_minimum``. ``None`` is accepted where ``nullable`` and means what ``help``
    says.
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

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with ``value``, or None. Numbers must be numbers: ``"3"`` and ``True``
        are refused."""
        if value is None:
            return None if self.nullable else "must not be null"
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


_ALL = [
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
        "Stop after so many optimizer steps; null: after num_epochs.",
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
    Parameter("packing", bool, False, "Several examples in one row, each seeing only itself."),
    Parameter(
        "too_long",
        str,
        "drop",
        "What happens to an example longer than max_seq_length.",
        choices=("drop", "truncate", "split"),
    ),
    Parameter(
        "prompt_style",
        str,
        "conversation",
        "Where a chat template writes something else before an answer when it asks for one than in"
        " a finished conversation: what answers are learnt and measured after.",
        choices=("conversation", "generation"),
    ),
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
]

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _ALL}

# Keys of the other sections: (name, type, required).
_SECTIONS: dict[str, tuple[tuple[str, type, bool], ...]] = {
    "dataset": (
        ("key", str, True),
        ("path", str, True),
        ("format", str, True),
        ("fingerprint", str, False),
        ("examples", int, False),
        ("held_out", int, False),
    ),
    "model": (("id", str, True), ("path", str, False), ("revision", str, False)),
    "output": (
        ("checkpoints", str, False),
        ("model", str, False),
        ("metrics", str, False),
        ("result", str, False),
    ),
}
OUTPUT_DEFAULTS = {
    "checkpoints": "checkpoints",
    "model": "model",
    "metrics": "metrics.jsonl",
    "result": "result.json",
}


def parameter_defaults() -> dict[str, Any]:
    """Every training parameter with its default, in the documented order."""
    return {name: parameter.default for name, parameter in PARAMETERS.items()}


def warnings_of(training: dict[str, Any]) -> list[str]:
    """What is allowed in a training and seldom meant, one sentence each."""
    rate = training.get("learning_rate", 0)
    if rate > LEARNING_RATE_USUAL_MAX:
        return [
            f"learning_rate {rate:g} is far above what fine-tuning uses (1e-6 to 1e-3): training is"
            " likely to diverge. Check the place of its decimal point."
        ]
    return []


def build_manifest(
    *,
    run_id: str,
    dataset: dict[str, Any],
    model: dict[str, Any],
    training: dict[str, Any],
    resume_from: str | None = None,
    extend_from_step: int | None = None,
) -> dict[str, Any]:
    """Make a complete manifest; parameters that ``training`` leaves out get their defaults."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "run_id": run_id,
        "dataset": dataset,
        "model": model,
        "training": (
            parameter_defaults() | {name: training[name] for name in PARAMETERS if name in training}
        ),
        "output": dict(OUTPUT_DEFAULTS),
        "resume_from": resume_from,
        "extend_from_step": extend_from_step,
    }


def dump_manifest(manifest: dict[str, Any]) -> str:
    """YAML text in the documented order."""
    return "".join(_dump_section(json.dumps({name: section})) for name, section in manifest.items())


@lru_cache(maxsize=256)
def _dump_section(text: str) -> str:
    """One section of a manifest, from JSON. Remembered: the queue writes hundreds of manifests a
    second, most of which differ in their ``run_id`` alone, and writing YAML takes as long as
    everything else about a dry run."""
    dumped: str = yaml.dump(json.loads(text), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return dumped


def with_revision(text: str, commit: str) -> str:
    """The same YAML text with another ``model.revision``; comments and order stay. Text that writes
    its model in an unusual way (an alias, say) stays as it is."""
    before = parse_manifest(text)
    wanted = before | {"model": before["model"] | {"revision": commit}}
    document: Any = yaml.compose(text, Loader=_Loader)
    section = {key.value: value for key, value in document.value}["model"]
    entries = {key.value: (key, value) for key, value in section.value}
    if "revision" in entries:
        value = entries["revision"][1]
        start, end = value.start_mark.index, value.end_mark.index
        written = f'"{commit}"' if start < end else f' "{commit}"'  # nothing stands there for null
    else:
        key, value = entries["id"]
        start = end = value.end_mark.index
        written = (
            ", " if section.flow_style else "\n" + " " * key.start_mark.column
        ) + f'revision: "{commit}"'
    changed = text[:start] + written + text[end:]
    try:
        return changed if parse_manifest(changed) == wanted else text
    except ManifestError:
        return text


def parse_manifest(text: str) -> dict[str, Any]:
    """Read and check YAML text; fill in defaults.

    Raises:
        ManifestError: names every key that is missing, unknown, of the wrong type or out of range.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # !!int x; endless depth
        raise ManifestError({"manifest": f"is not YAML: {' '.join(str(error).split())}"}) from error
    if not isinstance(raw, dict):
        raise ManifestError({"manifest": "must be a mapping of sections"})
    problems: dict[str, str] = {}
    known = {
        "manifest_version",
        "run_id",
        "dataset",
        "model",
        "training",
        "output",
        "resume_from",
        "extend_from_step",
    }
    for key in raw:
        if key not in known:
            problems[str(key)] = f"unknown section; known are {', '.join(sorted(known))}"
    if raw.get("manifest_version") != MANIFEST_VERSION:
        problems["manifest_version"] = (
            f'must be "{MANIFEST_VERSION}", not {raw.get("manifest_version")!r}'
        )
    for key in ("run_id", "resume_from"):
        if raw.get(key) is not None and not isinstance(raw[key], str):
            problems[key] = "must be text"
    extended = raw.get("extend_from_step")
    if extended is not None and (
        not isinstance(extended, int) or isinstance(extended, bool) or extended < 1
    ):
        problems["extend_from_step"] = "must be a whole number of at least 1"
    manifest: dict[str, Any] = {
        "manifest_version": MANIFEST_VERSION,
        "run_id": raw.get("run_id"),
        "resume_from": raw.get("resume_from"),
        "extend_from_step": extended,
    }
    for section, keys in _SECTIONS.items():
        manifest[section] = _parse_section(section, raw.get(section), keys, problems)
    manifest["output"] = OUTPUT_DEFAULTS | {
        k: v for k, v in manifest["output"].items() if v is not None
    }
    if manifest["dataset"].get("format") not in (None, DATASET_FORMAT):
        problems["dataset.format"] = f"must be {DATASET_FORMAT}"
    training = raw.get("training", {})
    if not isinstance(training, dict):
        problems["training"] = "must be a mapping"
        training = {}
    for name, value in training.items():
        if name not in PARAMETERS:
            problems[f"training.{name}"] = "unknown parameter; docs/manifest.md lists them"
        elif problem := PARAMETERS[name].problem(value):
            problems[f"training.{name}"] = problem
    manifest["training"] = parameter_defaults() | {
        name: value for name, value in training.items() if name in PARAMETERS
    }
    if problems:
        raise ManifestError(problems)
    return manifest


def _parse_section(
    section: str, value: Any, keys: tuple[tuple[str, type, bool], ...], problems: dict[str, str]
) -> dict[str, Any]:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        problems[section] = "must be a mapping"
        return {}
    names = {name for name, _, _ in keys}
    for name in value:
        if name not in names:
            problems[f"{section}.{name}"] = f"unknown key; known are {', '.join(sorted(names))}"
    for name, kind, required in keys:
        item = value.get(name)
        if item is None:
            if required:
                problems[f"{section}.{name}"] = "is missing"
        elif not isinstance(item, kind) or isinstance(item, bool):
            problems[f"{section}.{name}"] = (
                "must be text" if kind is str else "must be a whole number"
            )
    return {name: value.get(name) for name, _, _ in keys}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest file. Raises ManifestError, also when the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError({"manifest": f"cannot read {path}: {error}"}) from error
    return parse_manifest(text)
