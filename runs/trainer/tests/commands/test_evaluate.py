"""``tunix evaluate``: what is written, what is continued, what is refused."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runs.spec.kinds import EVALUATE
from runs.spec.statistics import share_interval
from runs.trainer import launch
from runs.trainer.commands.subject import load_subject
from runs.trainer.data.conversation import Conversation
from runs.trainer.data.inputs import open_tokenizer
from runs.trainer.evaluation import answers
from runs.trainer.evaluation.record import ItemsFile
from runs.trainer.loop.devices import make_mesh
from runs.trainer.modeling import export_model, load_model
from runs.trainer.modeling.fingerprint import weights_sha256
from runs.trainer.tests.helpers import EvaluationRun, Run, arithmetic, question, write_llama

Make = Callable[..., EvaluationRun]
LONGEST = 64  # tokens of a row whose likelihood is compared
CARD: dict[str, Any] = {
    "run_id": "r",
    "dataset": {"key": "d"},
    "model": {"id": "m"},
    "training": {},
    "kind": "sft",
    "method": "m",
    "result": {},
}
NUMBER = {"name": "regex", "parameters": {"pattern": r"\d"}}
EXAMPLES = arithmetic(24, held_out=12)


@pytest.fixture
def make(tmp_path: Path, llama: Path) -> Make:
    """``make(name, examples=…, model=…, outputs_from=…, **settings)`` writes the folder of an
    evaluation."""

    def write(name: str = "evaluation", **settings: Any) -> EvaluationRun:
        return EvaluationRun.make(
            tmp_path / name, **({"examples": EXAMPLES, "model": {"path": llama}} | settings)
        )

    return write


@pytest.fixture(scope="module", autouse=True)
def _few_rows() -> Iterator[None]:
    """So few that not all items are generated at once, and the same for all tests, so that they
    share their compiled functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "MOST_ROWS", 4)
        yield


@pytest.fixture(scope="module")
def greedy(_few_rows: None, tmp_path_factory: pytest.TempPathFactory, llama: Path) -> EvaluationRun:
    """A finished evaluation, to be looked at and compared with, not to be changed."""
    run = EvaluationRun.make(
        tmp_path_factory.mktemp("greedy") / "run",
        examples=EXAMPLES,
        model={"path": llama},
        scorers=[{"name": "exact_match"}, NUMBER],
    )
    assert run.evaluate() == 0
    return run


def weights_of(**section: Any) -> str:
    """The hash of the weights of a subject."""
    names = ("path", "revision", "adapter", "checkpoints", "step", "seed")
    model = {"id": "x"} | dict.fromkeys(names) | section
    manifest = {"model": model, "evaluation": EVALUATE.defaults()}
    with make_mesh(data_parallel=None, fsdp_parallel=None) as mesh:
        subject = load_subject(manifest, Path(), mesh=mesh, dtype=np.dtype("float32"))
        return weights_sha256(subject.model)


def last_line_of(run: Run, capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.splitlines()[-1].replace(str(run.folder), "run")


class TestGenerating:
    def test_every_item_is_kept_with_what_it_was_scored_by(self, greedy: EvaluationRun):
        items = greedy.items()

        held_out = {one["id"]: one for one in EXAMPLES if one["split"] == "held_out"}
        assert {item["id"] for item in items} == held_out.keys()
        assert [item["index"] for item in items] == list(range(len(held_out)))
        assert len({item["hash"] for item in items}) == len(held_out)
        for item in items:
            asked = held_out[item["id"]]
            assert item["prompt"] == asked["messages"][:1]
            assert item["reference"] == asked["final_answer"]
            assert (
                item["rendered"]
                == f"<|user|>{asked['messages'][0]['content']}<|end|>\n<|assistant|>"
            )
            assert item["prompt_tokens"] > 5
            [output] = item["outputs"]
            assert output["scores"] == {
                "exact_match": float(output["text"].strip() == item["reference"]),
                "regex": float(any(letter.isdigit() for letter in output["text"])),
            }
            assert output["finish_reason"] in ("stop", "length")
            assert (output["tokens"] == 8) or output["finish_reason"] == "stop"

    def test_the_result_is_that_of_the_items(self, greedy: EvaluationRun):
        result, items = greedy.result(), greedy.items()
        outputs = [item["outputs"][0] for item in items]

        for label in ("exact_match", "regex"):
            score = result["scores"][label]
            values = [output["scores"][label] for output in outputs]
            assert score["mean"] == fmean(values)
            assert [score["low"], score["high"]] == list(share_interval(values))
            assert (score["scored"], score["failed"], score["total"]) == (12, 0, 12)
            assert score["scorer"]["name"] == label
            assert score["pass_at_k"] is None
        assert result["weighted"]["mean"] == fmean(
            (output["scores"]["exact_match"] + output["scores"]["regex"]) / 2 for output in outputs
        )
        assert result["truncated"] == sum(one["finish_reason"] == "length" for one in outputs)
        assert result["tokens"] == sum(output["tokens"] for output in outputs)
        content = (greedy.folder / "items.jsonl").read_bytes()
        assert result["items_sha256"] == hashlib.sha256(content).hexdigest()

    def test_everything_that_is_written_is_documented(self, greedy: EvaluationRun):
        item, result = greedy.items()[0], greedy.result()
        names = {*item, *item["outputs"][0], *result, *result["scores"]["regex"]}
        text = (launch.ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
        written = text.split("\n## What is written\n")[1]

        assert [name for name in sorted(names) if f"`{name}`" not in written] == []

    def test_progress_is_measured(self, greedy: EvaluationRun):
        plan, *lines = greedy.metrics()

        assert plan["plan"]["total_steps"] == 12
        assert plan["plan"]["prompt_tokens"] == sum(
            item["prompt_tokens"] for item in greedy.items()
        )
        assert lines[-1]["step"] == 12
        assert lines[-1]["values"]["regex"] == greedy.result()["scores"]["regex"]["mean"]

    def test_the_same_evaluation_gives_the_same_outputs(
        self, greedy: EvaluationRun, make: Make, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(answers, "MOST_ROWS", 3)  # whatever is generated side by side
        again = make(scorers=[{"name": "exact_match"}, NUMBER])

        assert again.evaluate() == 0
        assert again.outputs() == greedy.outputs()
        for name in ("settings_hash", "set_hash", "weights_sha256", "template_hash", "tokenizer"):
            assert again.result()[name] == greedy.result()[name]

    def test_samples_are_averaged_by_question_and_repeat_with_their_seed(self, make: Make):
        settings = {"samples": 3, "temperature": 1.0, "scorers": [NUMBER], "limit": 6}
        runs = [make(str(number), **settings, seed=number // 2) for number in range(3)]

        assert [run.evaluate() for run in runs] == [0, 0, 0]
        assert runs[0].outputs() == runs[1].outputs() != runs[2].outputs()
        score = runs[0].result()["scores"]["regex"]
        by_question = [
            [output["scores"]["regex"] for output in item["outputs"]] for item in runs[0].items()
        ]
        assert score["mean"] == fmean(map(fmean, by_question))
        assert (score["questions"], score["scored"], score["total"]) == (6, 18, 18)
        assert score["pass_at_k"]["1"] == pytest.approx(score["mean"])
        assert score["pass_at_k"]["3"] == fmean(map(max, by_question))
        assert any(len(set(texts)) > 1 for texts in runs[0].outputs().values())

    def test_an_output_ends_before_a_stop_text(self, make: Make):
        settings = {"temperature": 1.0, "max_tokens": 40, "scorers": [NUMBER], "limit": 4}
        plain = make("plain", **settings)
        assert plain.evaluate() == 0
        whole = {name: text for name, [text] in plain.outputs().items()}
        stop = next(
            letter
            for text in whole.values()
            for letter in text[5:15]
            if letter.isascii() and letter not in text[:5]
        )
        run = make("stopped", stop=["never there", stop], **settings)

        assert run.evaluate() == 0
        for item in run.items():
            text, [output] = whole[item["id"]], item["outputs"]
            assert output["text"] == text.split(stop)[0]
            if stop in text:
                assert output["finish_reason"] == "stop"
                assert len(output["text"]) + 1 <= output["tokens"] <= 40
        ended = [item for item in run.items() if stop in whole[item["id"]]]
        assert run.result()["tokens"] < plain.result()["tokens"] and ended

    def test_a_system_prompt_is_asked_and_hashed(self, greedy: EvaluationRun, make: Make):
        run = make(system_prompt="Be brief.")

        assert run.evaluate() == 0
        assert all("<|system|>Be brief." in item["rendered"] for item in run.items())
        assert [item["hash"] for item in run.items()] == [item["hash"] for item in greedy.items()]
        assert run.result()["system_prompt_hash"] == hashlib.sha256(b"Be brief.").hexdigest()

    def test_a_prompt_that_is_too_long_has_no_score(self, make: Make):
        examples = [question("short", "1+1?", "2"), question("long", "1+" * 50 + "1?", "51")]
        run = make(examples=examples, max_prompt_tokens=60)

        assert run.evaluate() == 0
        score = run.result()["scores"]["exact_match"]
        assert (score["scored"], score["failed"], score["total"]) == (1, 1, 2)
        assert run.result()["prompt_too_long"] == 1
        [output] = next(item["outputs"] for item in run.items() if item["id"] == "long")
        assert (output["finish_reason"], output["scores"]) == (
            "prompt_too_long",
            {"exact_match": None},
        )

    def test_columns_go_with_the_items(self, make: Make):
        run = make(examples=[question("a", "1+1?", "2", level=3, topic="sums")])

        assert run.evaluate() == 0
        assert run.items()[0]["columns"] == {"level": 3, "topic": "sums"}


class TestSubjects:
    def test_a_checkpoint_is_the_model_that_was_exported(
        self, trained: Run, llama: Path, make: Make
    ):
        step = trained.checkpoints()[-1]
        of_checkpoint = make(
            "checkpoint",
            model={"path": llama, "checkpoints": trained.folder / "checkpoints", "step": step},
        )
        of_folder = make("folder", model={"path": trained.folder / "model"})

        for run in (of_checkpoint, of_folder):
            assert run.evaluate() == 0
        hashes = [run.result()["weights_sha256"] for run in (of_checkpoint, of_folder)]
        assert hashes[0] == hashes[1] != weights_of(path=llama)
        assert of_checkpoint.outputs() == of_folder.outputs()

    def test_an_adapter_is_the_checkpoint_of_its_training(self, make_run: Any, llama: Path):
        training = make_run(
            "lora", lora_rank=2, learning_rate=0.5, max_steps=2, checkpoint_every_steps=1
        )
        assert training.train() == 0
        checkpoints = training.folder / "checkpoints"

        of_first, of_last, of_adapter = (
            weights_of(path=llama, **section)
            for section in (
                {"checkpoints": checkpoints, "step": 1},
                {"checkpoints": checkpoints, "step": 2},
                {"adapter": training.folder / "model"},
            )
        )

        assert of_first != of_last == of_adapter

    def test_a_preset_has_the_weights_of_its_seed(self, tmp_path: Path):
        preset = {"id": "preset:tiny-llama"}
        first, again, other = (weights_of(**preset, seed=seed) for seed in (1, 1, 2))
        assert first == again != other

        loaded = load_model(
            model_id=preset["id"], path=None, revision=None, dtype="float32", mesh=None, seed=1
        )
        export_model(loaded, tmp_path / "model", lora=False, merged=False, card=CARD)

        # a folder without a tokenizer
        assert weights_of(path=tmp_path / "model") == first

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"checkpoints": "gone", "step": 1}, "there are no checkpoints of a training in"),
            ({"step": 77}, "there is no checkpoint of step 77 in"),
            ({"path": "wide"}, "of another shape than ./tiny"),
        ],
    )
    def test_a_checkpoint_that_is_not_there_or_of_another_model_is_refused(
        self,
        trained: Run,
        llama: Path,
        make: Make,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        section: dict[str, Any],
        message: str,
    ):
        write_llama(tmp_path / "wide", intermediate_size=96)
        there = {"checkpoints": trained.folder / "checkpoints", "step": trained.checkpoints()[-1]}
        if "path" in section:
            section = {"path": tmp_path / section["path"]}
        run = make(model={"path": llama} | there | section)

        assert run.evaluate() == 15
        assert message in last_line_of(run, capfd)


class TestLikelihood:
    @pytest.fixture
    def log_prob(self, llama: Path) -> Callable[[str, str], tuple[float, int]]:
        """The log-probability of an answer and its tokens, computed from all logits."""
        model = load_model(
            model_id="x", path=llama, revision=None, dtype="float32", mesh=None, seed=0
        )
        tokenizer = open_tokenizer(llama, prompt_style="conversation")

        module: Any = model.module
        mask = jnp.tril(jnp.ones((1, LONGEST, LONGEST), bool))

        @jax.jit
        def computed(ids: jax.Array) -> jax.Array:
            logits = module(ids, jnp.arange(LONGEST)[None], None, mask)[0][0]
            return jax.nn.log_softmax(logits.astype(jnp.float32))

        def measure(asked: str, answer: str) -> tuple[float, int]:
            messages = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ]
            [[row]] = tokenizer.encode([Conversation.of_trace(messages)])
            ids = row.ids + [0] * (LONGEST - len(row.ids))
            log_probs = np.asarray(computed(jnp.array(ids)[None]))
            [(start, end)] = row.counted
            chosen = [float(log_probs[at - 1, row.ids[at]]) for at in range(start, end)]
            return math.fsum(chosen), len(chosen)

        return measure

    def test_perplexity_is_that_of_the_answers(
        self, make: Make, log_prob: Callable[[str, str], tuple[float, int]]
    ):
        run = make(method="perplexity", limit=5, max_tokens=256)

        assert run.evaluate() == 0
        total = tokens = 0.0
        for item in run.items():
            answer = next(one for one in EXAMPLES if one["id"] == item["id"])["messages"][1]
            value, count = log_prob(item["prompt"][0]["content"], answer["content"])
            [output] = item["outputs"]
            assert output["scores"]["nll"] == pytest.approx(-value / count, abs=1e-4)
            assert output["tokens"] == count
            total, tokens = total + value, tokens + count
        result = run.result()
        assert result["perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-4)
        nll = result["scores"]["nll"]
        assert nll["low"] < nll["mean"] < nll["high"]

    def test_the_likeliest_choice_is_chosen(
        self, make: Make, log_prob: Callable[[str, str], tuple[float, int]]
    ):
        options = ["4", "a much longer answer", "22"]
        examples = [
            question("letter", "2+2?", "C", choices=options),
            question("text", "1+1?", "4", choices=options),
            question("place", "0+0?", "1", choices=options),
            question("none", "1?", "1"),
        ]
        run = make(examples=examples, method="choices", max_tokens=256)

        assert run.evaluate() == 0
        items = {item["id"]: item for item in run.items()}
        for name, right in (("letter", 2), ("text", 0), ("place", 1)):
            [output] = items[name]["outputs"]
            found = [log_prob(items[name]["prompt"][0]["content"], option) for option in options]
            sums = [value for value, _ in found]
            means = [value / count for value, count in found]
            assert [one["log_prob"] for one in output["choices"]] == pytest.approx(sums, abs=1e-3)
            assert output["chosen"] == means.index(max(means))
            assert output["scores"] == {
                "choice": float(means.index(max(means)) == right),
                "choice_by_sum": float(sums.index(max(sums)) == right),
            }
        [output] = items["none"]["outputs"]
        assert output["scores"] == {"choice": None, "choice_by_sum": None}
        assert "not a list of 2 to 26 texts" in output["problems"]["choice"]
        assert run.result()["scores"]["choice"]["failed"] == 1

    def test_without_anything_to_measure_it_fails(
        self, make: Make, capfd: pytest.CaptureFixture[str]
    ):
        run = make(examples=[question("a", "1?", None)], method="perplexity", max_tokens=256)

        assert run.evaluate() == 11
        assert "no reference answer" in last_line_of(run, capfd)


class TestScoringAgain:
    @staticmethod
    def source(run: EvaluationRun) -> dict[str, str]:
        path = run.folder / "items.jsonl"
        return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def test_stored_outputs_are_scored_by_another_scorer_without_the_model(
        self, greedy: EvaluationRun, make: Make, tmp_path: Path
    ):
        run = make(
            outputs_from=self.source(greedy),
            model={"path": tmp_path / "gone"},
            scorers=[{"name": "contains", "parameters": {"text": "\x00"}}, NUMBER],
        )

        assert run.evaluate() == 0
        assert run.outputs() == greedy.outputs()
        first, again = greedy.result(), run.result()
        assert again["scores"]["regex"] == first["scores"]["regex"]
        assert "contains" in again["scores"]
        assert again["outputs_from"] == first["items_sha256"]
        assert again["missing"] == 0

    @pytest.fixture
    def score_by(self, greedy: EvaluationRun, make: Make, tmp_path: Path) -> Any:
        """Makes an evaluation of the stored outputs by a function of the operators."""

        def ask(source: str) -> tuple[EvaluationRun, Path]:
            file = tmp_path / "grade.py"
            file.write_text(source)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            parameters = {"function": "grade.py:score", "sha256": digest}
            run = make(
                "scored",
                outputs_from=self.source(greedy),
                scorers=[{"name": "python", "parameters": parameters}],
                scorer_files={"grade.py": str(file)},
            )
            return run, file

        return ask

    def test_a_function_of_the_operators_scores_them(self, score_by: Any):
        run, _ = score_by(
            "def score(*, output, reference, columns, tokens):\n"
            "    return 1 if int(reference) % 2 else float('nan')\n"
        )

        assert run.evaluate() == 0
        score = run.result()["scores"]["python"]
        odd = sum(int(item["reference"]) % 2 for item in run.items())
        assert 0 < odd < 12
        assert (score["mean"], score["scored"], score["failed"]) == (1.0, odd, 12 - odd)
        assert score["first_problem"] == "gave nan, not a number from 0 to 1"

    def test_a_function_that_always_raises_fails_the_run(
        self, score_by: Any, capfd: pytest.CaptureFixture[str]
    ):
        run, _ = score_by("def score(**item): raise KeyError('x')\n")

        assert run.evaluate() == 18
        assert "python failed for all 12 outputs: KeyError" in last_line_of(run, capfd)
        assert run.result()["scores"]["python"]["failed"] == 12

    def test_a_file_that_was_changed_after_the_submission_is_named(
        self, score_by: Any, capfd: pytest.CaptureFixture[str]
    ):
        run, file = score_by("def score(**item): return 0\n")
        file.write_text("def score(**item): return 1\n")

        assert run.evaluate() == 18
        assert "tunix: reward: python: grade.py was changed: " in last_line_of(run, capfd)
        assert not (run.folder / "items.jsonl").exists()

    def test_outputs_that_are_not_there_are_counted(
        self, greedy: EvaluationRun, make: Make, tmp_path: Path
    ):
        part = EvaluationRun(tmp_path / "part")
        part.folder.mkdir()
        lines = (greedy.folder / "items.jsonl").read_text().splitlines(keepends=True)
        (part.folder / "items.jsonl").write_text("".join(lines[:5]))
        run = make(outputs_from=self.source(part))

        assert run.evaluate() == 0
        result = run.result()
        assert (result["items"], result["missing"]) == (5, 7)

    def test_outputs_that_were_changed_are_refused(
        self, greedy: EvaluationRun, make: Make, capfd: pytest.CaptureFixture[str]
    ):
        run = make(outputs_from=self.source(greedy) | {"sha256": "0" * 64})

        assert run.evaluate() == 11
        assert "it was changed after its evaluation" in last_line_of(run, capfd)

    def test_outputs_of_another_set_are_refused(
        self, greedy: EvaluationRun, make: Make, capfd: pytest.CaptureFixture[str]
    ):
        run = make(examples=arithmetic(4, seed=9), outputs_from=self.source(greedy))

        assert run.evaluate() == 11
        assert "has no output of this set" in last_line_of(run, capfd)


class TestContinuing:
    def test_what_a_stop_leaves_is_continued(
        self,
        greedy: EvaluationRun,
        make: Make,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ):
        run = make(scorers=[{"name": "exact_match"}, NUMBER])
        append = ItemsFile.append

        def append_and_stop(self: ItemsFile, line: dict[str, Any]) -> None:
            append(self, line)
            (run.folder / "stop.json").write_text('{"reason": "cancel"}')

        with monkeypatch.context() as patch:
            patch.setattr(ItemsFile, "append", append_and_stop)
            assert run.evaluate() == 17
        there = run.items()
        assert 1 <= len(there) < 12
        assert f"after {len(there)} of 12 items" in last_line_of(run, capfd)
        assert not (run.folder / "result.json").exists()
        assert run.metrics()[-1]["step"] == len(there)

        with open(run.folder / "items.jsonl", "ab") as file:
            file.write(b'{"torn')
        (run.folder / "stop.json").unlink()
        assert run.evaluate() == 0
        assert run.outputs() == greedy.outputs()
        assert [item for item in run.items() if item["id"] in {one["id"] for one in there}] == there
        result = run.result()
        assert result["resumed_from_step"] == len(there)
        assert result["scores"] == greedy.result()["scores"]

    def test_items_of_other_settings_are_not_mixed(
        self, make: Make, llama: Path, capfd: pytest.CaptureFixture[str]
    ):
        run = make(limit=2)
        assert run.evaluate() == 0
        text = run.config.read_text()
        run.config.write_text(text.replace("max_tokens: 8", "max_tokens: 9"))

        assert run.evaluate() == 15
        assert "of another evaluation: settings_hash differs" in last_line_of(run, capfd)

    def test_a_stop_before_the_first_item_leaves_nothing(self, make: Make):
        run = make()
        (run.folder / "stop.json").write_text("{}")

        assert run.evaluate() == 17
        assert not (run.folder / "items.jsonl").exists()


class TestRefusing:
    @pytest.fixture(autouse=True)
    def _without_model(self, tmp_path: Path) -> Iterator[None]:
        """What is refused here is refused before a model is looked at."""
        yield
        assert not (tmp_path / "gone").exists()

    @pytest.mark.parametrize(
        ("settings", "code", "message"),
        [
            (
                {"scorers": [{"name": "regex", "parameters": {"pattern": "("}}]},
                18,
                "tunix: reward: regex: ",
            ),
            (
                {"examples": [question("a", "1?", None)]},
                18,
                "exact_match compares with reference answers",
            ),
            (
                {"examples": [question("a", "1?", "1")], "part": "held_out"},
                11,
                "has no held-out part",
            ),
            ({"samples": 5}, 10, "samples: must be 1 with temperature 0"),
        ],
    )
    def test_it_is_said_before_the_model_is_loaded(
        self,
        make: Make,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        settings: dict[str, Any],
        code: int,
        message: str,
    ):
        run = make(model={"path": tmp_path / "gone"}, **settings)

        assert run.evaluate() == code
        assert message in last_line_of(run, capfd)

    def test_prompts_that_are_all_too_long_are_refused(
        self, make: Make, capfd: pytest.CaptureFixture[str]
    ):
        run = make(max_prompt_tokens=3)

        assert run.evaluate() == 11
        assert "all 12 prompts are longer than 3 tokens" in last_line_of(run, capfd)

    def test_max_tokens_must_leave_room_for_a_prompt(
        self, make: Make, capfd: pytest.CaptureFixture[str]
    ):
        run = make(max_tokens=2048)  # as many as the model has positions

        assert run.evaluate() == 10
        assert "leaves no room for a prompt" in last_line_of(run, capfd)

    def test_a_scorer_that_fails_always_fails_the_run_and_leaves_the_result(self, make: Make):
        """By the real command, in a process of its own."""
        run = make(
            examples=[question("b", "2?", "not a number")],
            scorers=[{"name": "numeric"}, NUMBER],
        )

        code, out, err = run.finish("evaluate")

        assert code == 18
        assert err.splitlines()[-1].startswith("tunix: reward: numeric failed for all 1 outputs: ")
        assert "numeric: no score, 1 failed." in out
        score = run.result()["scores"]["numeric"]
        assert (score["mean"], score["scored"], score["failed"]) == (None, 0, 1)
        assert run.result()["scores"]["regex"]["scored"] == 1

    @pytest.mark.parametrize(("command", "other"), [("train", "evaluate"), ("evaluate", "train")])
    def test_each_command_has_its_kind(
        self,
        make: Make,
        make_run: Any,
        capfd: pytest.CaptureFixture[str],
        command: str,
        other: str,
    ):
        run = make() if command == "train" else make_run()

        assert launch.main([command, "--config", str(run.config)]) == 10
        assert f"`tunix {other}`" in last_line_of(run, capfd)


class TestValidating:
    def report(self, run: EvaluationRun, *arguments: str) -> dict[str, Any]:
        path = run.folder / "plan.json"
        command = ["validate", "--config", str(run.config), "--report", str(path), *arguments]
        assert launch.main(command) == 0
        report: dict[str, Any] = json.loads(path.read_text())
        return report

    def test_it_says_what_would_be_done(self, greedy: EvaluationRun, make: Make):
        report = self.report(make())

        assert (report["kind"], report["examples"], report["outputs"]) == ("evaluate", 12, 12)
        assert report["prompt_tokens"] == greedy.result()["prompt_tokens"]
        assert sum(count for _, _, count in report["length_histogram"]) == 12
        assert report["memory"]["total"] < report["memory_there"]
        assert report["sentences"][0] == "12 items, 12 outputs of at most 8 tokens."
        assert report["smoke"] is None

    def test_it_tries_generation_and_says_how_long_it_takes(self, make: Make):
        smoke = self.report(make(), "--smoke")["smoke"]

        assert smoke["tokens_per_second"] > 0
        assert smoke["seconds_at_most"] > 0

    def test_stored_outputs_need_no_model(self, greedy: EvaluationRun, make: Make, tmp_path: Path):
        run = make(outputs_from=TestScoringAgain.source(greedy), model={"path": tmp_path / "gone"})
        assert self.report(run)["missing"] == 0

    def test_it_refuses_what_the_evaluation_would_refuse(
        self, trained: Run, llama: Path, make: Make
    ):
        run = make(model={"path": llama, "checkpoints": trained.folder / "checkpoints", "step": 77})
        assert launch.main(["validate", "--config", str(run.config)]) == 15
