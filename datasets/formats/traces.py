"""From lines to traces and prompts: a question, how it is worked out, and a final answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets.examples import kinds
from datasets.examples.messages import InvalidMessages, reasoning_apart
from datasets.examples.schema import MAX_STEPS, ExampleData, parse_trace, trace_of
from datasets.formats.answers import (
    ANSWERS,
    apart,
    check_beside,
    check_same_answer,
    is_answer,
    take_answer,
    text_of_answer,
)
from datasets.formats.boxed import final_box, other_answer
from datasets.formats.lines import Line, LineError, plain_text
from datasets.formats.verdicts import VALIDITY, check_valid
from tunixrt.readable import is_blank


def from_trace(line: Line) -> ExampleData:
    return parse_trace(line)


def _pair(line: Line, question: str, answer: str) -> tuple[str, str]:
    """Take a question and its answer out of a line. Raise LineError."""
    asked, answered = plain_text(line, question, answer)
    check_beside(line, answer, answered)
    return asked, answered


def from_prompt_completion(line: Line) -> ExampleData:
    question, completion = _pair(line, "prompt", "completion")
    return _answered(question, completion, "completion", line)


def chat_of_prompt_completion(line: Line) -> ExampleData:
    question, completion = _pair(line, "prompt", "completion")
    return _chat(question, completion, line)


def _answered(question: str, answer: str, name: str, rest: Line) -> ExampleData:
    """Return a question and its answer as a trace without steps, or, where the answer begins with
    reasoning, as a conversation, which has room for it. ``name``: of the answer, for LineError."""
    reasoning, answer_alone = apart(answer, name)
    if reasoning:
        return _chat(question, answer, rest)
    return make_trace(question, [], answer_alone, rest)


def _chat(question: str, answer: str, rest: Line) -> ExampleData:
    return kinds.conversation(
        messages=[
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        meta=rest,
        tagged=True,
    )


# A calculator mark of GSM8K (https://github.com/openai/grade-school-math), as in `48/2 =
# <<48/2=24>>24 clips`.
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
MARKER = "####"


def is_gsm8k(line: Line) -> bool:
    return isinstance(line["answer"], str) and MARKER in line["answer"]


def from_gsm8k(line: Line) -> ExampleData:
    return make_trace(*_gsm8k(line), line)


def prompt_from_gsm8k(line: Line) -> ExampleData:
    question, _, final = _gsm8k(line)
    return _prompt(question, final, line)


def _gsm8k(line: Line) -> tuple[str, list[str], str]:
    question, answer = plain_text(line, "question", "answer")
    steps, marker, final = answer.partition(MARKER)
    if not marker:
        raise LineError(f"answer: has no line `{MARKER} <final answer>` as GSM8K has")
    if steps and not steps.endswith("\n"):
        raise LineError(f"answer: `{MARKER}` must stand at the start of a line")
    final = _THOUSANDS.sub("", final.strip())
    if not final:
        raise LineError(f"answer: nothing follows `{MARKER}`")
    if "\n" in final or MARKER in final:
        raise LineError(f"answer: the line `{MARKER} <final answer>` must be the last one")
    check_beside(line, "answer", final)
    parts = apart(_CALCULATION.sub("", steps), "answer")
    lines = [step.strip() for part in parts for step in part.split("\n")]
    return question, [step for step in lines if step], final


def from_question_answer(line: Line) -> ExampleData:
    question, answer = _pair(line, "question", "answer")
    return _answered(question, answer, "answer", line)


def chat_of_question_answer(line: Line) -> ExampleData:
    question, answer = _pair(line, "question", "answer")
    return _chat(question, answer, line)


def prompt_from_question_answer(line: Line) -> ExampleData:
    (question,) = plain_text(line, "question")
    name, answer = take_answer(line)
    if not name:
        raise LineError("answer: must not be blank")
    return _prompt(question, _reference(answer, name), line)


# What NuminaMath 1.5 has instead of the answers of proofs, and of those that were not found.
_NO_ANSWERS = ("proof", "notfound")


@dataclass(frozen=True, slots=True)
class Worked:
    """Worked mathematics: the names of the problem, of its solution, and of the answer."""

    problem: str
    solution: str
    answers: Sequence[str] = ANSWERS

    def to_trace(self, line: Line) -> ExampleData:
        """Return a trace whose steps are the solution, where there is an answer apart from it.
        Raise LineError also where a training would learn a solution and then another answer."""
        check_valid(line, *VALIDITY)
        problem, solution = self._take_texts(line)
        name, answer = self._take_answer(line)
        if not answer:
            return _answered(problem, solution, self.solution, line)
        reasoning, reply = apart(solution, self.solution)
        self._check(reply, name, answer)
        parts = [reasoning, reply.strip()] if reasoning else [reply]
        if parts[-1] == answer:
            parts.pop()
        return make_trace(
            problem, [step for part in parts for step in steps_of(part)], answer, line
        )

    def to_chat(self, line: Line) -> ExampleData:
        """Return a conversation in which the solution is learnt, its reasoning apart; the answer
        stays in ``meta``."""
        check_valid(line, *VALIDITY)
        problem, solution = self._take_texts(line)
        self._check(apart(solution, self.solution)[1], *self._take_answer(dict(line)))
        return _chat(problem, solution, line)

    def to_prompt(self, line: Line) -> ExampleData:
        """Return a prompt whose reference is the answer, or what the one box of the solution holds,
        or none."""
        check_valid(line, VALIDITY[0])
        problem, solution = self._take_texts(line)
        name, answer = self._take_answer(line)
        reference = _reference(answer, name) if answer else _boxed_answer(solution)
        return _prompt(problem, reference, line)

    def _take_texts(self, line: Line) -> tuple[str, str]:
        problem, solution = plain_text(line, self.problem, self.solution)
        if line.get("messages") == [
            {"role": "user", "content": problem},
            {"role": "assistant", "content": solution},
        ]:
            del line["messages"]  # NuminaMath says everything twice
        return problem, solution

    def _take_answer(self, line: Line) -> tuple[str, str]:
        says_so = VALIDITY[0] in line  # a line of NuminaMath 1.5
        names = [name for name in self.answers if not (says_so and line.get(name) in _NO_ANSWERS)]
        return take_answer(line, names)

    def _check(self, reply: str, name: str, answer: str) -> None:
        # in the reasoning, wrong answers may be tried
        if boxed := other_answer(reply, answer):
            raise LineError(
                f"{self.solution}: its answer is {boxed[:40]} (in \\boxed), but {name} is"
                f" {answer[:40]}"
            )


WORKED = Worked("problem", "solution")
WORKED_QUESTION = Worked("question", "solution")
OPEN_MATH = Worked(
    "problem",
    "generated_solution",
    ("expected_answer", *(name for name in ANSWERS if name != "expected_answer")),
)


def is_worked_question(line: Line) -> bool:
    """Return whether there is a solution beside the answer, and not all of it in the answer, as in
    GSM8K."""
    solution, answer = line["solution"], line.get("answer")
    return (
        isinstance(solution, str)
        and not is_blank(solution)
        and not (isinstance(answer, str) and MARKER in answer)
    )


def _boxed_answer(solution: str) -> str | None:
    try:
        _, reply = reasoning_apart(solution)
    except InvalidMessages:
        return None  # cut off before its answer
    return final_box(reply) or None


def steps_of(text: str) -> list[str]:
    """Return the lines of a text, or all of it where a split into lines would lose something."""
    lines = text.split("\n")
    if len(lines) <= MAX_STEPS and all(line.strip() for line in lines):
        return lines
    return [text] if text.strip() else []


# What a reward may compare an answer with.
REFERENCES = ("answer", "ground_truth", "final_answer", "expected_answer", "reference", "target")


def from_prompt(line: Line) -> ExampleData:
    question = line.pop("prompt")
    name, answer = take_answer(line, REFERENCES)
    rewarded = line.get("reward_model")
    if isinstance(rewarded, dict) and rewarded.get("ground_truth") not in (None, ""):
        nested, truth = "reward_model.ground_truth", rewarded["ground_truth"]
        if not name:
            name, answer = nested, text_of_answer(truth, nested)
        elif is_answer(truth):
            check_same_answer(name, answer, nested, text_of_answer(truth, nested))
    return _prompt(question, _reference(answer, name) if name else None, line)


def prompt_from_trace(line: Line) -> ExampleData:
    trace = parse_trace(line)
    return _prompt(trace.prompt, trace.final_answer, dict(trace.meta))


def _reference(answer: str, name: str) -> str:
    """Return the answer without the reasoning that it begins with. Raise LineError."""
    _, alone = apart(answer, name)
    if is_blank(alone):
        raise LineError(f"{name}: holds no answer")
    return alone


def _prompt(question: Any, reference: str | None, rest: Line) -> ExampleData:
    tools = rest.pop("tools", None)
    return kinds.prompt(
        messages=kinds.as_messages(question, "user"),
        tools=tools,
        final_answer=reference,
        meta=rest,
        tagged=True,
    )


def make_trace(question: str, steps: list[str], final_answer: str, rest: Line) -> ExampleData:
    """Return a trace whose steps are reasoning; ``rest`` is kept in ``meta``."""
    reasoning = [
        {"i": number, "type": "reasoning", "content": step} for number, step in enumerate(steps)
    ]
    return trace_of(question, reasoning, final_answer, rest)
