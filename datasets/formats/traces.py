"""From lines to traces and prompts: a question, how it is worked out, and a final answer."""

import re
from typing import Any

import orjson

from datasets import examples
from datasets.formats.boxed import other_answer
from datasets.formats.lines import Line, LineError, plain_text, take_text
from datasets.formats.verdicts import is_true
from datasets.messages import InvalidMessages, reasoning_apart
from datasets.schema import MAX_STEPS, ExampleData, json_kind, parse_trace, trace_of


def from_trace(line: Line) -> ExampleData:
    return parse_trace(line)


def from_prompt_completion(line: Line) -> ExampleData:
    question, completion = plain_text(line, "prompt", "completion")
    return make_trace(question, [], completion, line)


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
    lines = [step.strip() for step in _CALCULATION.sub("", steps).split("\n")]
    return question, [step for step in lines if step], final


def from_question_answer(line: Line) -> ExampleData:
    question, answer = plain_text(line, "question", "answer")
    return make_trace(question, [], answer, line)


def prompt_from_question_answer(line: Line) -> ExampleData:
    question, answer = plain_text(line, "question", "answer")
    return _prompt(question, answer, line)


# Whether NuminaMath 1.5 takes a problem and its solution for valid: Yes, or what is wrong.
VALIDITY = ("problem_is_valid", "solution_is_valid")
# What it has instead of the answers of proofs, and of those that were not found.
_NO_ANSWERS = ("proof", "notfound")


def from_worked(line: Line) -> ExampleData:
    """Worked mathematics: the solution is the steps, where there is an answer apart from it."""
    _check_valid(line, *VALIDITY)
    return _trace_of(line, "solution", "answer")


def _check_valid(line: Line, *names: str) -> None:
    """Raise LineError for what the dataset itself takes for wrong."""
    for name in names:
        value = line.get(name)
        if value not in (None, "", "Yes") and not is_true(value):
            raise LineError(f"{name}: is {str(value)[:60]!r}, not 'Yes'; leave the line out")


def from_open_math(line: Line) -> ExampleData:
    return _trace_of(line, "generated_solution", "expected_answer")


def prompt_from_worked(line: Line) -> ExampleData:
    _check_valid(line, VALIDITY[0])
    question, _, final = _worked(line, "solution", "answer")
    return _prompt(question, final, line)


def prompt_from_open_math(line: Line) -> ExampleData:
    question, _, final = _worked(line, "generated_solution", "expected_answer")
    return _prompt(question, final, line)


def _trace_of(line: Line, solution_field: str, answer_field: str) -> ExampleData:
    """Raises LineError also where a training would learn a solution and then another answer."""
    solution = line.get(solution_field, "")
    question, steps, answer = _worked(line, solution_field, answer_field)
    # in the reasoning, wrong answers may be tried
    if steps and (boxed := other_answer(reasoning_apart(solution)[1], answer)):
        raise LineError(
            f"{solution_field}: its answer is {boxed[:40]} (in \\boxed), but {answer_field} is"
            f" {answer[:40]}"
        )
    return make_trace(question, steps, answer, line)


def _worked(line: Line, solution_field: str, answer_field: str) -> tuple[str, list[str], str]:
    question, solution = plain_text(line, "problem", solution_field)
    answer = "" if _is_without_answer(line) else take_text(line, answer_field)
    if line.get("messages") == [
        {"role": "user", "content": question},
        {"role": "assistant", "content": solution},
    ]:
        del line["messages"]  # NuminaMath says everything twice
    if not answer:
        return question, [], solution
    parts = _reasoning_and_rest(solution, solution_field)
    if parts[-1] == answer:
        parts.pop()
    return question, [step for part in parts for step in steps_of(part)], answer


def _reasoning_and_rest(solution: str, name: str) -> list[str]:
    try:
        reasoning, rest = reasoning_apart(solution)
    except InvalidMessages as error:
        raise LineError(f"{name}: {error}") from error
    return [reasoning, rest.strip()] if reasoning else [rest]


def _is_without_answer(line: Line) -> bool:
    """Whether a line of NuminaMath 1.5 says so in its answer."""
    return VALIDITY[0] in line and line.get("answer") in _NO_ANSWERS


def steps_of(text: str) -> list[str]:
    """The lines of a text, or all of it where lines would lose something."""
    lines = text.split("\n")
    if len(lines) <= MAX_STEPS and all(line.strip() for line in lines):
        return lines
    return [text] if text.strip() else []


# What a reward may compare an answer with; the first that is there counts.
REFERENCES = ("answer", "ground_truth", "final_answer", "expected_answer", "reference", "target")


def from_prompt(line: Line) -> ExampleData:
    question = line.pop("prompt")
    reference = None
    for name in REFERENCES:
        if line.get(name) not in (None, "", []):
            reference = _reference(line.pop(name), name)
            break
    else:
        rewarded = line.get("reward_model")
        if isinstance(rewarded, dict) and rewarded.get("ground_truth") not in (None, ""):
            reference = _reference(rewarded["ground_truth"], "reward_model.ground_truth")
    return _prompt(question, reference, line)


def prompt_from_trace(line: Line) -> ExampleData:
    trace = parse_trace(line)
    return _prompt(trace.prompt, trace.final_answer, dict(trace.meta))


def _reference(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return orjson.dumps(value).decode()
    raise LineError(f"{name}: must be text or a number, not {json_kind(value)}")


def _prompt(question: Any, reference: str | None, rest: Line) -> ExampleData:
    tools = rest.pop("tools", None)
    return examples.prompt(
        messages=examples.as_messages(question, "user"),
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
