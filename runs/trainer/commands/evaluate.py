"""``tunix evaluate``: from a manifest to scored outputs, in the manifest's folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from runs.spec.evaluation import GENERATE, LIKELIHOOD_LABELS, PERPLEXITY, settings_hash
from runs.spec.kinds import EVALUATE
from runs.spec.scorers import SCORERS, Chosen, choose, labels
from runs.trainer.commands.likelihood import Likelihood
from runs.trainer.commands.result import versions
from runs.trainer.commands.subject import Subject, load_subject
from runs.trainer.data.inputs import open_manifest, pin_revision
from runs.trainer.errors import (
    DataError,
    Interrupted,
    ManifestProblem,
    RewardProblem,
    StorageError,
)
from runs.trainer.evaluation.answers import (
    Answers,
    encode_prompts,
    measured,
    most_prompt_tokens,
)
from runs.trainer.evaluation.items import Question, read_questions
from runs.trainer.evaluation.progress import Writer
from runs.trainer.evaluation.record import (
    PROMPT_TOO_LONG,
    Answer,
    ItemsFile,
    file_sha256,
    item_line,
    most_characters,
    read_lines,
)
from runs.trainer.evaluation.scorers.item import Item
from runs.trainer.evaluation.scoring import Scoring
from runs.trainer.evaluation.summary import Tally, summary_of, weighted
from runs.trainer.loop.devices import choose_dtype, make_mesh, start_devices
from runs.trainer.loop.stop import StopWatch
from runs.trainer.modeling.decoding import decoding_weights
from runs.trainer.modeling.fingerprint import weights_sha256
from runs.trainer.reporting.metrics import MetricsFile, say, write_json

IDENTITY = "evaluation.json"
# An items file is continued only where these are equal.
BINDING = (
    *("settings_hash", "set_hash", "weights_sha256", "tokenizer", "outputs_from", "dtype"),
    "jax_backend",
)


def evaluate_from_manifest(config: Path) -> None:
    """Evaluate. Everything is written below the manifest's folder; docs/evaluation.md says what.

    Raises:
        TrainerError: what went wrong, with its exit code.
    """
    manifest, folder = open_manifest(config)
    if manifest["kind"] != EVALUATE.name:
        raise ManifestProblem(f"{config.name}: kind is {manifest['kind']}; `tunix train` trains it")
    stop = StopWatch(folder)
    stop.install()
    start_devices()
    if jax.process_count() > 1:
        raise ManifestProblem("an evaluation runs in one process; start it on one host")
    with make_mesh(data_parallel=None, fsdp_parallel=None) as mesh, contextlib.ExitStack() as stack:
        stop.check()
        questions = read_set(manifest, folder)
        chosen = choose(manifest["evaluation"]["scorers"])
        check_references(manifest, questions, chosen)
        scoring = None
        if manifest["evaluation"]["method"] == GENERATE:
            scoring = stack.enter_context(Scoring(chosen, files=manifest["scorer_files"]))
            scoring.start()  # a scorer that cannot be made is said before the model is loaded
        evaluation = Evaluation(manifest, folder, questions, chosen, scoring, stop)
        if manifest["outputs_from"] is not None:
            evaluation.score_again()
            return
        dtype = choose_dtype(manifest["evaluation"]["dtype"])
        subject = load_subject(manifest, folder, mesh=mesh, dtype=dtype)
        for warning in (*subject.model.warnings, *subject.tokenizer.notes):
            say(warning)
        if subject.model.revision:
            say(f"The model is {subject.model.model_id} at revision {subject.model.revision}.")
            pin_revision(config, subject.model.revision)
        stop.check()
        if manifest["evaluation"]["method"] == GENERATE:
            evaluation.generate(subject)
        else:
            evaluation.measure(subject)


def read_set(manifest: dict[str, Any], folder: Path) -> list[Question]:
    """Return the questions that the manifest asks for. Raise DataError."""
    dataset, evaluation = manifest["dataset"], manifest["evaluation"]
    return read_questions(
        folder / dataset["path"],
        format=dataset["format"],
        part=evaluation["part"],
        limit=evaluation["limit"],
        system_prompt=evaluation["system_prompt"],
    )


def check_references(
    manifest: dict[str, Any], questions: list[Question], chosen: tuple[Chosen, ...]
) -> None:
    """Raise RewardProblem if a scorer compares with reference answers, and there is none."""
    if manifest["evaluation"]["method"] != GENERATE:
        return
    if any((question.reference or "").strip() for question in questions):
        return
    for one in chosen:
        if SCORERS[one.name].needs_reference and one.parameters.get("text") is None:
            raise RewardProblem(
                f"{one.name} compares with reference answers, and no example of"
                f" {manifest['dataset']['key']} has one; choose a scorer that needs none"
            )


def check_source(source: dict[str, str], folder: Path) -> Path:
    """Return the path of the items whose outputs are scored. Raise DataError: they are not those
    that the manifest names."""
    path = folder / source["path"]
    try:
        found = file_sha256(path)
    except OSError as error:
        raise DataError(f"outputs_from: {path} cannot be read: {error.strerror}") from error
    if found != source["sha256"]:
        raise DataError(
            f"outputs_from: {path.name} has the hash {found[:12]}…, not {source['sha256'][:12]}…:"
            " it was changed after its evaluation"
        )
    return path


def missing_outputs(path: Path, questions: list[Question]) -> int:
    """Return how many of the questions have no output there. Raise DataError: none has one."""
    wanted = {question.hash for question in questions}
    there = wanted & {line["hash"] for line in read_lines(path)}
    if not there:
        raise DataError(f"outputs_from: {path.name} has no output of this set")
    return len(wanted) - len(there)


class Evaluation:
    """The items of one evaluation: those that are there already, and those that are to come."""

    def __init__(
        self,
        manifest: dict[str, Any],
        folder: Path,
        questions: list[Question],
        chosen: tuple[Chosen, ...],
        scoring: Scoring | None,
        stop: StopWatch,
    ):
        self.manifest, self.folder, self.questions = manifest, folder, questions
        self.settings: dict[str, Any] = manifest["evaluation"]
        self.chosen, self.scoring, self.stop = chosen, scoring, stop
        method = self.settings["method"]
        self.labels = labels(chosen) if method == GENERATE else LIKELIHOOD_LABELS[method]
        self.samples: int = self.settings["samples"]
        self.tally = Tally(self.labels)
        self.done: set[str] = set()
        self.pending: dict[int, dict[int, Answer]] = {}
        self.writer: Writer  # while the files are open
        self.prompts: dict[str, int] = {}
        self.missing = 0

    def generate(self, subject: Subject) -> None:
        """Generate and score what is not there yet; write ``result.json``."""
        model, tokenizer = subject.model, subject.tokenizer
        prompts = encode_prompts(
            self.questions,
            tokenizer,
            most=most_prompt_tokens(self.settings, model.architecture),
        )
        self.prompts = measured(prompts)
        answers = Answers(
            self.settings,
            prompts,
            tokenizer=tokenizer,
            architecture=model.architecture,
            itemsize=subject.dtype.itemsize,
            characters=most_characters(self.samples),
        )
        with self._opened(self._identity(subject)) as self.writer:
            weights = decoding_weights(model.module, model.architecture)

            def keep(place: int, sample: int, answer: Answer) -> None:
                self._score(self.questions[place], answer)
                found = self.pending.setdefault(place, {})
                found[sample] = answer
                if len(found) == self.samples:
                    del self.pending[place]
                    prompt = prompts[place]
                    self._write(
                        place,
                        [found[number] for number in range(self.samples)],
                        rendered=tokenizer.decode(prompt.ids, marks=True),
                        prompt_tokens=len(prompt.ids),
                    )

            answers.generate(
                weights,
                {place: prompts[place] for place in self._left()},
                on_answer=keep,
                check_stop=self._check_stop,
            )

    def measure(self, subject: Subject) -> None:
        """Measure likelihoods where they are not there yet; write ``result.json``."""
        likelihood = Likelihood(
            self.settings["method"],
            self.questions,
            tokenizer=subject.tokenizer,
            most=most_prompt_tokens(self.settings, subject.model.architecture),
        )
        self.prompts = likelihood.measured()
        with self._opened(self._identity(subject)) as self.writer:
            for place, answer in likelihood.answers(
                subject.model.module, set(self._left()), check_stop=self._check_stop
            ):
                ids = likelihood.prompts[place]
                self._write(
                    place,
                    [answer],
                    rendered=subject.tokenizer.decode(ids, marks=True),
                    prompt_tokens=len(ids),
                )

    def score_again(self) -> None:
        """Score the outputs of another evaluation; write ``result.json``.

        Raises:
            DataError: they are not those that the manifest names, or of another set.
        """
        path = check_source(self.manifest["outputs_from"], self.folder)
        places = {question.hash: place for place, question in enumerate(self.questions)}
        self.missing = missing_outputs(path, self.questions)
        source = self.manifest["outputs_from"]["sha256"]
        identity = {"outputs_from": source} | self._settings_identity()
        with self._opened(identity) as self.writer:
            for line in read_lines(path):
                place = places.get(line["hash"])
                if place is None or line["hash"] in self.done:
                    continue
                self._check_stop()
                answers = [Answer.from_json(output) for output in line["outputs"]]
                for answer in answers:
                    self._score(self.questions[place], answer)
                self._write(
                    place,
                    answers,
                    rendered=str(line.get("rendered", "")),
                    prompt_tokens=line.get("prompt_tokens", 0),
                )

    def _write(
        self, place: int, answers: list[Answer], *, rendered: str, prompt_tokens: int
    ) -> None:
        question = self.questions[place]
        line = item_line(
            place, question, rendered=rendered, prompt_tokens=prompt_tokens, answers=answers
        )
        self.writer.write(line, answers)
        self.done.add(question.hash)

    def _left(self) -> list[int]:
        return [
            place for place, question in enumerate(self.questions) if question.hash not in self.done
        ]

    def _check_stop(self) -> None:
        if reason := self.stop.reason():
            raise Interrupted(
                f"stopped by {reason} after {self.tally.items:,} of {len(self.questions):,} items;"
                " start the run again to continue"
            )

    def _score(self, question: Question, answer: Answer) -> None:
        if answer.finish_reason == PROMPT_TOO_LONG:
            answer.fail("there is no output: the prompt is too long", self.labels)
            return
        self._check_stop()  # a scorer may take its whole time for each output
        assert self.scoring is not None
        started = time.monotonic()
        scored = self.scoring.score(
            Item(answer.text, answer.tokens, question.reference, question.columns)
        )
        self.writer.scoring_seconds += time.monotonic() - started
        if any(one.problem for one in scored.values()):
            self._check_stop()  # a signal to the whole group ends the scoring process as well
        answer.scores = {label: one.score for label, one in scored.items()}
        answer.problems = {label: one.problem for label, one in scored.items() if one.problem}

    def _settings_identity(self) -> dict[str, Any]:
        system_prompt = self.settings["system_prompt"]
        hashes = "\n".join(question.hash for question in self.questions)
        return {
            "settings_hash": settings_hash(self.settings),
            "set_hash": hashlib.sha256(hashes.encode()).hexdigest(),
            "system_prompt_hash": (
                None
                if system_prompt is None
                else hashlib.sha256(system_prompt.encode("utf-8", "surrogatepass")).hexdigest()
            ),
        }

    def _identity(self, subject: Subject) -> dict[str, Any]:
        return {
            **self._settings_identity(),
            "weights_sha256": weights_sha256(subject.model),
            "model_revision": subject.model.revision,
            "tokenizer": subject.tokenizer.fingerprint,
            "template_hash": subject.tokenizer.template_hash,
            "dtype": str(subject.dtype),
            "jax_backend": jax.default_backend(),
            "devices": jax.device_count(),
        }

    @contextlib.contextmanager
    def _opened(self, identity: dict[str, Any]) -> Iterator[Writer]:
        """Open the files, read what is there, and write the result at the end."""
        output = self.manifest["output"]
        identity = _UNKNOWN | identity
        with (
            ItemsFile(self.folder / output["items"]) as items,
            MetricsFile(self.folder / output["metrics"]) as metrics,
        ):
            self._read_done(items, identity)
            resumed = self.tally.items
            write_json(
                self.folder / IDENTITY,
                identity | {"versions": versions("math-verify", "sacrebleu")},
            )
            metrics.plan(
                {
                    "total_steps": len(self.questions) - self.missing,
                    "items": len(self.questions),
                    "outputs": len(self.questions) * self.samples,
                    **self.prompts,
                    "missing": self.missing,
                    "resumed_from_step": resumed or None,
                }
            )
            say(self._sentence(resumed))
            total = len(self.questions) - self.missing
            writer = Writer(items, metrics, self.tally, total=total)
            try:
                yield writer
            finally:
                writer.report()
            result = self._result(identity, writer, resumed)
        write_json(self.folder / output["result"], result)
        for sentence in result_sentences(result):
            say(sentence)
        if failed := self.tally.failed_entirely():
            raise RewardProblem(
                f"{failed[0]} failed for all {self.tally.outputs:,} outputs:"
                f" {self.tally.problems.get(failed[0], 'no score')}"
            )

    def _read_done(self, items: ItemsFile, identity: dict[str, Any]) -> None:
        """Read the items that are there. Raise StorageError: they are of another evaluation."""
        known = {question.hash for question in self.questions}
        for line in items.read():
            if not self.done:
                self._check_identity(identity)
            if line["hash"] not in known or line["hash"] in self.done:
                continue
            self.done.add(line["hash"])
            self.tally.add([Answer.from_json(output) for output in line["outputs"]])

    def _check_identity(self, identity: dict[str, Any]) -> None:
        name = self.manifest["output"]["items"]
        try:
            found = json.loads((self.folder / IDENTITY).read_text(encoding="utf-8"))
            differing = [key for key in BINDING if found.get(key) != identity[key]]
        except (OSError, ValueError, AttributeError):
            differing = [IDENTITY]
        if differing:
            raise StorageError(
                f"the items in {name} are of another evaluation: {differing[0]} differs; move the"
                " file away to start over"
            )

    def _sentence(self, resumed: int) -> str:
        count = f"{len(self.questions):,} items"
        if self.samples > 1:
            count += f" × {self.samples} samples"
        if too_long := self.prompts.get("prompt_too_long"):
            count += f", {too_long:,} of them too long"
        return f"{count}." if not resumed else f"{count}, {resumed:,} of them are there already."

    def _result(self, identity: dict[str, Any], writer: Writer, resumed: int) -> dict[str, Any]:
        tally = self.tally
        by_label: dict[str, Chosen | None] = dict.fromkeys(self.labels)
        generates = self.settings["method"] == GENERATE
        if generates:
            by_label = dict(zip(self.labels, self.chosen, strict=True))
        return {
            "method": self.settings["method"],
            "scores": {
                label: summary_of(label, tally, chosen=one) for label, one in by_label.items()
            },
            "weighted": weighted(self.labels, self.chosen, tally) if generates else None,
            "perplexity": tally.perplexity() if self.settings["method"] == PERPLEXITY else None,
            "items": tally.items,
            "outputs": tally.outputs,
            "missing": self.missing,
            "truncated": tally.truncated,
            "prompt_too_long": tally.prompt_too_long,
            "tokens": tally.tokens,
            "prompt_tokens": self.prompts.get("prompt_tokens"),
            "seconds": round(writer.seconds, 3),
            "tokens_per_second": writer.tokens_per_second,
            **identity,
            "items_sha256": file_sha256(self.folder / self.manifest["output"]["items"]),
            "resumed_from_step": resumed or None,
            "versions": versions("math-verify", "sacrebleu"),
        }


# Of an evaluation that loads no model.
_UNKNOWN: dict[str, Any] = dict.fromkeys(
    (
        *("settings_hash", "set_hash", "system_prompt_hash", "weights_sha256", "model_revision"),
        *("tokenizer", "template_hash", "outputs_from", "dtype", "jax_backend", "devices"),
    )
)


def result_sentences(result: dict[str, Any]) -> list[str]:
    """Return the result as readable text."""
    sentences = []
    for label, score in result["scores"].items():
        if score["mean"] is None:
            sentences.append(f"{label}: no score, {score['failed']:,} failed.")
            continue
        interval = (
            "" if score["low"] is None else f" (95 %: {score['low']:.4g} to {score['high']:.4g})"
        )
        failed = f", {score['failed']:,} failed" if score["failed"] else ""
        sentences.append(
            f"{label} {score['mean']:.4g}{interval} of {score['questions']:,} questions{failed}."
        )
    if result["perplexity"] is not None:
        sentences.append(f"Perplexity {result['perplexity']:.4g}.")
    if result["truncated"]:
        sentences.append(f"{result['truncated']:,} outputs reached max_tokens.")
    return sentences
