"""Several answers to one problem, each with a verdict, of which one is learnt."""

from typing import Any

from datasets.examples.messages import reasoning_apart
from datasets.examples.schema import ExampleData
from datasets.formats.answers import take_answer
from datasets.formats.boxed import other_answer
from datasets.formats.chats import conversation
from datasets.formats.lines import Line, LineError, plain_text
from datasets.formats.verdicts import VALIDITY, check_valid, is_true, verdict_of

# Who found an answer correct, the most reliable first.
VERDICTS = ("correctness_math_verify", "correctness_llama")
_COMPLETE = "is_reasoning_complete"


def from_open_r1(line: Line) -> ExampleData:
    """Return the example of a line of OpenR1-Math, with the first answer that is complete and that
    Math Verify, or else the judge Llama, found correct. The others stay in ``meta``."""
    (problem,) = plain_text(line, "problem")
    check_valid(line, VALIDITY[0])
    chosen = _verified(line)
    name, answer = take_answer(dict(line))  # it stays in meta
    # in the reasoning, wrong answers may be tried
    if boxed := other_answer(reasoning_apart(chosen)[1], answer):
        raise LineError(
            f"generations: the answer of the verified one is {boxed[:40]} (in \\boxed), but {name}"
            f" is {answer[:40]}"
        )
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": chosen}]
    if line.get("messages") == messages:
        del line["messages"]  # it says its choice twice
    return conversation(messages, line)


def _verified(line: Line) -> str:
    """Return the answer to learn. Raise LineError."""
    answers = line["generations"]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise LineError("generations: must be a list of texts")
    complete = _flags(line, _COMPLETE, len(answers)) or [True] * len(answers)
    for name in VERDICTS:
        correct = _flags(line, name, len(answers))
        for answer, *flags in zip(answers, correct, complete, strict=bool(correct)):
            if all(flags):
                return answer
    raise LineError(
        f"generations: none is complete and correct by {' or '.join(VERDICTS)}; leave the line out,"
        " or learn its solution with kind=trace"
    )


def _flags(line: Line, name: str, count: int) -> list[bool]:
    """Return what a field says of each of the answers; empty if it says nothing. Raise
    LineError."""
    values: Any = line.get(name) or []
    if not isinstance(values, list) or any(
        value is not None and verdict_of(value) is None for value in values
    ):
        raise LineError(f"{name}: must be a list of true and false")
    if len(values) not in (0, count):
        raise LineError(f"{name}: has {len(values):,} values for {count:,} generations")
    return [is_true(value) for value in values]
