"""Store evaluations, and what comes of them.

The training program writes outputs and scores into the run's folder while it works. What is kept
here is computed from those lines at the end of the run, not taken from a number that a program
wrote: means, intervals, and whether the score takes part in leaderboards.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from datasets.models import Dataset
from runs.models import (
    Evaluation,
    EvaluationSet,
    Look,
    Run,
    RunStatus,
    Score,
    Standing,
)
from runs.models.evaluation import pack_examples, pack_hashes, pack_scores, unpack_hashes
from runs.runfolder import files, names
from runs.runfolder.items import item_lines
from runs.services.preflight import part_of
from runs.services.run_requests import InvalidRequest, RunRequest, clean_request
from runs.services.subjects import Subject
from runs.spec import statistics
from runs.spec.evaluation import GENERATE, LIKELIHOOD_LABELS, PERPLEXITY
from runs.spec.kinds import EVALUATE
from runs.spec.scorers import SCORERS, choose, labels

LIKELIHOOD_VERSION = 1  # of what the methods choices and perplexity compute
# Of an evaluation's settings, those that decide no output.
_NO_OUTPUT = frozenset({"part", "limit", "scorers"})
_DECIDING = [name for name in EVALUATE.parameters if name not in _NO_OUTPUT]
UNREADABLE_ITEM = "A line of items.jsonl cannot be read, so this evaluation is not compared."


# --- the request ----------------------------------------------------------------------------------


def clean_evaluation(data: Any) -> RunRequest:
    """Check the body of a request for an evaluation: a run of kind ``evaluate``.

    With ``outputs_from``, everything but the scorers is that of the other evaluation.

    Raises:
        InvalidRequest: every field that is wrong, missing or unknown.
    """
    if isinstance(data, dict):
        given = {"kind": EVALUATE.name, "dry_run": False}
        data = _settings_of_source(data) | data | given
    return clean_request(data)


def _settings_of_source(data: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the evaluation whose outputs are to be scored."""
    if data.get("outputs_from") is None:
        return {}
    source = find_evaluation(data["outputs_from"], name="outputs_from")
    kept = {"dataset_key", "model_id", *EVALUATE.parameters} - {"scorers"}
    settings = {name: value for name, value in source.run.config.items() if name in kept}
    differing = [name for name in settings if name in data and data[name] != settings[name]]
    if differing:
        raise InvalidRequest(
            {name: ["Leave this out: it is that of outputs_from."] for name in differing}
        )
    return settings


def find_evaluation(evaluation_id: Any, *, name: str) -> Evaluation:
    """Return the evaluation that a field of a request names. Raise InvalidRequest."""
    found = None
    try:
        found = (
            Evaluation.objects.select_related("run", "questions")
            .filter(pk=evaluation_id, run__trashed_at=None)
            .first()
        )
    except (TypeError, ValueError, ValidationError):  # no id at all
        pass
    if found is None:
        raise InvalidRequest({name: [f"Evaluation not found: {str(evaluation_id)[:80]}."]})
    return found


# --- the rows -------------------------------------------------------------------------------------


def settings_hash(request: RunRequest) -> str:
    """Identify what decides the outputs besides model and questions."""
    return _hash({name: request.training[name] for name in _DECIDING})


def store_evaluation(
    *, run: Run, request: RunRequest, dataset: Dataset, subject: Subject, by: User
) -> Evaluation:
    """Store what belongs to a run beyond the run, in the transaction that stores the run.

    Raises:
        InvalidRequest: the baseline or the evaluation with the outputs is not there, or of other
            questions.
    """
    questions = _set_for(request, dataset)
    baseline = None
    for name in ("baseline", "outputs_from"):
        if (wanted := getattr(request, name)) is None:
            continue
        other = find_evaluation(wanted, name=name)
        if other.questions_id != questions.pk:
            raise InvalidRequest(
                {name: [f"That evaluation is of other questions: {other.questions}."]}
            )
        baseline = other if name == "baseline" else baseline
    evaluation = Evaluation.objects.create(
        run=run,
        questions=questions,
        created_at=run.created_at,
        subject=subject.runs[0] if subject.runs else None,
        step=subject.step,
        lineage=subject.lineage,
        settings_hash=settings_hash(request),
        baseline=baseline,
    )
    # A retry makes the outputs of the same attempt.
    if run.retry_of_id is None and request.outputs_from is None:
        Look.objects.create(
            questions=questions,
            lineage=subject.lineage,
            run_id=run.pk,
            by=by.get_username(),
            at=run.created_at,
        )
    return evaluation


def _set_for(request: RunRequest, dataset: Dataset) -> EvaluationSet:
    part, limit = part_of(request, dataset), request.training["limit"]
    key = _hash([dataset.dataset_key, dataset.fingerprint, part, limit])
    questions, _ = EvaluationSet.objects.get_or_create(
        key=key,
        defaults={
            "dataset_key": dataset.dataset_key,
            "fingerprint": dataset.fingerprint,
            "part": part,
            "limit": limit,
        },
    )
    return questions


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- the end --------------------------------------------------------------------------------------


@dataclass
class ScorerValues:
    """What the items say of one scorer. ``means``: by the hash of the question, over its scored
    outputs; ``right``: (outputs, right ones) of each question where scores are 0 or 1."""

    scored: int = 0
    failed: int = 0
    means: dict[str, float] = field(default_factory=dict)
    right: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What the files of an evaluation say.

    ``hashes``: of the questions with outputs, in the order of the set, which is that of the hashes.
    By these: ``examples``, their ids, and ``texts``, hashes of the texts of the outputs.
    """

    hashes: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    by_label: dict[str, ScorerValues] = field(default_factory=dict)
    outputs: int = 0
    truncated: int = 0
    tokens: int = 0
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Measure:
    """What an evaluation is scored by: a scorer, or what a method gives without one."""

    label: str
    scorer: dict[str, Any]
    hash: str
    binary: bool
    lower_is_better: bool = False


def measures(config: dict[str, Any]) -> list[Measure]:
    """Return what scores the evaluation that ``config`` asked for."""
    method = config["method"]
    if method != GENERATE:
        return [_likelihood_measure(label, method) for label in LIKELIHOOD_LABELS[method]]
    chosen = choose(config["scorers"])
    return [
        Measure(label, one.as_json(), one.hash, SCORERS[one.name].binary)
        for one, label in zip(chosen, labels(chosen), strict=True)
    ]


def _likelihood_measure(label: str, method: str) -> Measure:
    scorer = {"name": label, "version": LIKELIHOOD_VERSION, "parameters": {}}
    lower = method == PERPLEXITY
    return Measure(label, scorer, _hash(scorer)[:16], binary=not lower, lower_is_better=lower)


def read_outcome(folder: Path, *, config: dict[str, Any]) -> Outcome:
    """Read what an evaluation has written so far.

    Args:
        config: the request of the evaluation.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found = Outcome(by_label={one.label: ScorerValues() for one in measures(config)})
    digest = hashlib.sha256()
    for line in item_lines(folder / names.ITEMS, digest):
        item = parse_item(line)
        if item is None:
            found.problem = UNREADABLE_ITEM
            continue
        _count_item(found, item)
    found.hashes.sort()
    if len(set(found.hashes)) < len(found.hashes):
        found.problem = "items.jsonl has a question twice, so this evaluation is not compared."
    found.sha256 = digest.hexdigest()
    return found


def parse_item(line: bytes) -> dict[str, Any] | None:
    """Return an item, or None where the line is none: the training program could write anything."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict):
        return None
    outputs = item.get("outputs")
    if not _is_hash(item.get("hash")) or not isinstance(outputs, list) or not outputs:
        return None
    if not all(isinstance(one, dict) and isinstance(one.get("scores"), dict) for one in outputs):
        return None
    return item


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _count_item(found: Outcome, item: dict[str, Any]) -> None:
    outputs, key = item["outputs"], item["hash"]
    found.hashes.append(key)
    found.examples[key] = str(item.get("id"))
    found.texts[key] = _hash([output.get("text") for output in outputs])
    found.outputs += len(outputs)
    for output in outputs:
        found.truncated += output.get("finish_reason") == "length"
        tokens = output.get("tokens")
        found.tokens += tokens if isinstance(tokens, int) and 0 <= tokens < 2**31 else 0
    for label, values in found.by_label.items():
        scores = [_number(output["scores"].get(label)) for output in outputs]
        scored = [score for score in scores if score is not None]
        values.scored += len(scored)
        values.failed += len(scores) - len(scored)
        if scored:
            values.means[key] = fmean(scored)
            values.right.append((len(scored), sum(score == 1 for score in scored)))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def store_outcome(*, run: Run, outcome: Outcome, status: str) -> None:
    """Store the scores of an evaluation that has ended, in the transaction that writes its end;
    ``run.summary`` is what the training program says."""
    result = run.summary if isinstance(run.summary, dict) else {}
    evaluation = Evaluation.objects.select_related("questions", "source").get(pk=run.pk)
    questions = evaluation.questions
    evaluation.complete = status == RunStatus.COMPLETED and not outcome.problem
    if evaluation.complete:
        outcome.problem = _freeze_questions(questions, outcome)
        evaluation.complete = not outcome.problem
    evaluation.problem = outcome.problem
    evaluation.answered = len(outcome.hashes)
    evaluation.truncated = outcome.truncated
    evaluation.tokens = outcome.tokens
    evaluation.outputs = outcome.sha256
    evaluation.texts = _hash([outcome.texts[key] for key in outcome.hashes])
    made_by = evaluation.source
    if made_by is None:
        evaluation.weights = _text(result.get("weights_sha256"), 64)
        evaluation.template = _text(result.get("template_hash"), 64)
        evaluation.engine = _engine(result)
    else:
        evaluation.weights, evaluation.template = made_by.weights, made_by.template
        evaluation.engine = made_by.engine
    if evaluation.complete and evaluation.weights:
        made_of = [evaluation.weights, questions.key, evaluation.template, evaluation.engine]
        settings = {name: run.config.get(name) for name in _DECIDING}
        evaluation.identity = _hash([*made_of, settings])
        evaluation.family = _hash([*made_of, settings | {"seed": None}])
    evaluation.save()
    for score in _scores(evaluation, outcome, run):
        score.save(force_insert=True)


def _freeze_questions(questions: EvaluationSet, outcome: Outcome) -> str:
    """Keep the questions that the first complete evaluation has answered; say what is wrong where
    this one has answered others."""
    hashes = outcome.hashes
    packed = pack_hashes(hashes)
    if not hashes:
        return "It has no outputs."
    EvaluationSet.objects.filter(pk=questions.pk, hashes=b"").update(
        hashes=packed, examples=pack_examples([outcome.examples[key] for key in hashes])
    )
    questions.refresh_from_db(fields=["hashes"])
    if bytes(questions.hashes) != packed:
        return (
            f"It has answered {len(hashes):,} questions that are not the"
            f" {len(unpack_hashes(questions.hashes)):,} of the set, so it is not compared."
        )
    return ""


def _scores(evaluation: Evaluation, outcome: Outcome, run: Run) -> Iterator[Score]:
    order = outcome.hashes
    for one in measures(run.config):
        values = outcome.by_label[one.label]
        score = Score(
            evaluation=evaluation,
            questions=evaluation.questions,
            label=one.label,
            scorer=one.scorer,
            scorer_hash=one.hash,
            lower_is_better=one.lower_is_better,
            scored=values.scored,
            failed=values.failed,
            truncated=outcome.truncated,
            total=values.scored + values.failed,
            values=pack_scores(values.means.get(key) for key in order),
            standing=Standing.PARTIAL,
        )
        if values.means:
            means = list(values.means.values())
            score.n = len(means)
            score.mean = fmean(means)
            score.low, score.high = interval_of(means, one)
            score.bound = -score.high if one.lower_is_better else score.low
            score.pass_at_k = pass_at_k(values) if one.binary else {}
        if evaluation.complete:
            score.standing = standing_of(score, len(values.means), evaluation)
        yield score


def interval_of(means: list[float], measure: Measure) -> statistics.Interval:
    """Return the 95 % interval of the mean of scores, one for each question."""
    if not measure.lower_is_better:  # scores from 0 to 1
        return statistics.share_interval(means)
    if len(means) < 2:
        return statistics.Interval(means[0], means[0])
    return statistics.bootstrap_interval(means, seed=0)


def standing_of(score: Score, n: int, evaluation: Evaluation) -> Standing:
    """Say whether the score of a complete evaluation, over ``n`` questions, is ranked."""
    if n < statistics.RANKED_MIN:
        return Standing.TOO_FEW
    if not evaluation.family:
        return Standing.RANKED
    ranked = Score.objects.filter(
        evaluation__family=evaluation.family,
        scorer_hash=score.scorer_hash,
        standing=Standing.RANKED,
    )
    identities = list(ranked.values_list("evaluation__identity", flat=True))
    if not identities:
        return Standing.RANKED
    return Standing.REPEATED if evaluation.identity in identities else Standing.RESEEDED


def pass_at_k(values: ScorerValues) -> dict[str, float]:
    """Return pass@k for k = 1, 2, 4, … up to the samples of each question."""
    samples = min((n for n, _ in values.right), default=0)
    if samples < 2:
        return {}
    ks = sorted({*(2**i for i in range(samples.bit_length()) if 2**i <= samples), samples})
    return {
        str(k): fmean(statistics.pass_at_k(n, right, k) for n, right in values.right) for k in ks
    }


def _text(value: Any, longest: int) -> str:
    return files.clean_text(value)[:longest] if isinstance(value, str) else ""


def _engine(result: dict[str, Any]) -> str:
    """Return what computed the outputs: backend, number type, versions."""
    parts = [result.get("jax_backend"), result.get("dtype")]
    versions = result.get("versions")
    if isinstance(versions, dict):
        parts += [f"{name} {version}" for name, version in sorted(versions.items())]
    return _text(", ".join(str(part) for part in parts if part), 256)
