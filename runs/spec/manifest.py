"""The run manifest: what a training is asked to do, as one YAML file.

This module is plain Python: Django writes manifests with it and the training program reads them.

A manifest is a mapping of sections, described in ``docs/manifest.md``::

    manifest_version: "1.0"
    run_id: 0c5b…
    kind: sft
    dataset:  {key, path, format, fingerprint, examples, held_out}
    model:    {id, path, revision}
    training: every parameter of the kind (runs/spec/kinds.py)
    output:   {checkpoints, model, metrics, result}
    resume_from: null, or the folder of checkpoints to resume from
    extend_from_step: null, or the step of the checkpoint that the training extends

That of an evaluation has ``evaluation`` in place of ``training``, no ``resume_from`` and
``extend_from_step``, ``output: {items, metrics, result}``, a model of up to ``{id, path, revision,
adapter, checkpoints, step, seed}``, ``outputs_from``: null, or ``{path, sha256}`` of the items of
another evaluation whose outputs are scored, and ``scorer_files``: paths of the files of python
scorers, by their names.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from runs.spec.evaluation import GENERATE, settings_problems
from runs.spec.kinds import DEFAULT_KIND, EVALUATE, KINDS, Kind, kind_named, kind_names
from runs.spec.wording import shortened, value_text

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
_SHA256 = re.compile(r"[0-9a-f]{64}")
LEARNING_RATE_USUAL_MAX = 0.1  # above it, a warning


class ManifestError(ValueError):
    """A manifest that cannot be used. ``problems`` maps ``section.key`` to one sentence each."""

    def __init__(self, problems: dict[str, str]):
        self.problems = problems
        super().__init__("; ".join(f"{key}: {problem}" for key, problem in problems.items()))


Keys = tuple[tuple[str, type, bool], ...]

# Keys of the other sections: (name, type, required).
_SECTIONS: dict[str, Keys] = {
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
# The same of an evaluation. ``adapter``: a folder of an adapter for the model; ``checkpoints`` and
# ``step``: what a training saved of it; ``seed``: of a preset's weights.
_EVALUATION_SECTIONS: dict[str, Keys] = {
    "dataset": _SECTIONS["dataset"],
    "model": (
        *_SECTIONS["model"],
        ("adapter", str, False),
        ("checkpoints", str, False),
        ("step", int, False),
        ("seed", int, False),
    ),
    "output": (("items", str, False), ("metrics", str, False), ("result", str, False)),
}
_OUTPUTS_FROM: Keys = (("path", str, True), ("sha256", str, True))
EVALUATION_OUTPUT_DEFAULTS = {
    "items": "items.jsonl",
    "metrics": "metrics.jsonl",
    "result": "result.json",
}


def training_warnings(training: dict[str, Any]) -> list[str]:
    """Return what is allowed in a training and seldom meant, one sentence each."""
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
    kind: Kind,
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
        "kind": kind.name,
        "dataset": dataset,
        "model": model,
        "training": kind.defaults()
        | {name: training[name] for name in kind.parameters if name in training},
        "output": dict(OUTPUT_DEFAULTS),
        "resume_from": resume_from,
        "extend_from_step": extend_from_step,
    }


def build_evaluation_manifest(
    *,
    run_id: str,
    dataset: dict[str, Any],
    model: dict[str, Any],
    evaluation: dict[str, Any],
    outputs_from: dict[str, str] | None = None,
    scorer_files: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Make the complete manifest of an evaluation; settings that ``evaluation`` leaves out get
    their defaults.

    ``outputs_from``: ``path`` (absolute, or relative to the run folder) and ``sha256`` of the items
    file whose outputs are scored; no model is loaded then. ``scorer_files``: paths of the files of
    python scorers, by their names.
    """
    return {
        "manifest_version": MANIFEST_VERSION,
        "run_id": run_id,
        "kind": EVALUATE.name,
        "dataset": dataset,
        "model": model,
        "evaluation": EVALUATE.defaults()
        | {name: evaluation[name] for name in EVALUATE.parameters if name in evaluation},
        "output": dict(EVALUATION_OUTPUT_DEFAULTS),
        "outputs_from": outputs_from,
        "scorer_files": scorer_files or {},
    }


def dump_manifest(manifest: dict[str, Any]) -> str:
    """Return YAML text in the documented order."""
    return "".join(_dump_section(json.dumps({name: section})) for name, section in manifest.items())


@lru_cache(maxsize=256)
def _dump_section(text: str) -> str:
    """Return one section of a manifest, given as JSON, in YAML.

    Sections are cached, because the queue writes hundreds of manifests a second, most of which
    differ in their ``run_id`` alone: a manifest takes 0.05 ms of processor time instead of 0.32
    (``python -m benchmarks.manifests``).
    """
    dumped: str = yaml.dump(json.loads(text), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return dumped


def with_revision(text: str, commit: str) -> str:
    """Return the same YAML text with another ``model.revision``; comments and order stay. Leave
    text unchanged that writes its model in an unusual way (an alias, say)."""
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
    kind = _parse_kind(raw.get("kind"), problems)
    trains = kind is not EVALUATE
    known = {"manifest_version", "run_id", "kind", "dataset", "model", "output", kind.section}
    known |= {"resume_from", "extend_from_step"} if trains else {"outputs_from", "scorer_files"}
    for key in raw:
        if key not in known:
            problems[str(key)] = f"unknown section; known are {', '.join(sorted(known))}"
    if raw.get("manifest_version") != MANIFEST_VERSION:
        problems["manifest_version"] = (
            f'must be "{MANIFEST_VERSION}", not {raw.get("manifest_version")!r}'
        )
    for key in ("run_id", "resume_from"):
        if key in known and raw.get(key) is not None and not isinstance(raw[key], str):
            problems[key] = "must be text"
    extended = raw.get("extend_from_step")
    if (
        trains
        and extended is not None
        and (not isinstance(extended, int) or isinstance(extended, bool) or extended < 1)
    ):
        problems["extend_from_step"] = "must be a whole number of at least 1"
    manifest: dict[str, Any] = {
        "manifest_version": MANIFEST_VERSION,
        "run_id": raw.get("run_id"),
        "kind": kind.name,
    }
    if trains:
        manifest |= {"resume_from": raw.get("resume_from"), "extend_from_step": extended}
    for section, keys in (_SECTIONS if trains else _EVALUATION_SECTIONS).items():
        manifest[section] = _parse_section(section, raw.get(section), keys, problems)
    manifest["output"] = (OUTPUT_DEFAULTS if trains else EVALUATION_OUTPUT_DEFAULTS) | {
        k: v for k, v in manifest["output"].items() if v is not None
    }
    if manifest["dataset"].get("format") not in (None, *kind.dataset_formats):
        problems["dataset.format"] = f"must be {' or '.join(kind.dataset_formats)}"
    given = raw.get(kind.section, {})
    if not isinstance(given, dict):
        problems[kind.section] = "must be a mapping"
        given = {}
    for name, value in given.items():
        if name in kind.parameters:
            problem = kind.parameters[name].problem(value)
        elif owner := kind.foreign(name):
            problem = f"is a parameter of {owner}, not of {kind.name}"
        else:
            problem = "unknown parameter; docs/manifest.md lists them"
        if problem:
            problems[f"{kind.section}.{name}"] = problem
    manifest[kind.section] = kind.defaults() | {
        name: value for name, value in given.items() if name in kind.parameters
    }
    if not trains:
        manifest["outputs_from"] = _parse_outputs_from(raw.get("outputs_from"), problems)
        manifest["scorer_files"] = _parse_scorer_files(raw.get("scorer_files"), problems)
        if not problems:
            problems = _evaluation_problems(manifest)
    if problems:
        raise ManifestError(problems)
    return manifest


def _parse_outputs_from(value: Any, problems: dict[str, str]) -> dict[str, Any] | None:
    if value is None:
        return None
    section = _parse_section("outputs_from", value, _OUTPUTS_FROM, problems)
    if isinstance(digest := section.get("sha256"), str) and not _SHA256.fullmatch(digest):
        problems["outputs_from.sha256"] = "must be 64 hexadecimal digits"
    return section


def _parse_scorer_files(value: Any, problems: dict[str, str]) -> dict[str, str]:
    given = {} if value is None else value
    if not isinstance(given, dict) or not all(
        isinstance(text, str) for pair in given.items() for text in pair
    ):
        problems["scorer_files"] = "must be a mapping of names of files to their paths"
        return {}
    return given


def _evaluation_problems(manifest: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with an evaluation whose settings are each valid."""
    evaluation, model = manifest["evaluation"], manifest["model"]
    problems = {
        f"evaluation.{name}": problem for name, problem in settings_problems(evaluation).items()
    }
    if manifest["outputs_from"] and evaluation["method"] != GENERATE:
        problems["evaluation.method"] = f"must be {GENERATE} with outputs_from"
    if (model["checkpoints"] is None) != (model["step"] is None):
        problems["model.step"] = "must be given with checkpoints, and only with them"
    if model["checkpoints"] is not None and model["adapter"] is not None:
        problems["model.adapter"] = "must not be given with checkpoints"
    for name, least in (("step", 1), ("seed", 0)):
        if model[name] is not None and model[name] < least:
            problems[f"model.{name}"] = f"must be at least {least}"
    return problems


def _parse_kind(value: Any, problems: dict[str, str]) -> Kind:
    """Return the kind that a manifest names, the default where it names none or one that there is
    not."""
    if value is None:
        return KINDS[DEFAULT_KIND]
    kind = kind_named(value) if isinstance(value, str) else None
    if kind is None:
        names = " or ".join(kind_names())
        problems["kind"] = f"must be {names}, not {value_text(value)}"
        return KINDS[DEFAULT_KIND]
    return kind


def _parse_section(
    section: str, value: Any, keys: Keys, problems: dict[str, str]
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
    """Read a manifest file. Raise ManifestError, also when the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError({"manifest": f"cannot read {path}: {error}"}) from error
    return parse_manifest(text)
