"""Small files as people have them: each is imported right, or named and refused. Nothing is taken
for something else."""

from pathlib import Path

import pytest

from datasets.importers import BadLines, ImportRefused, import_file
from datasets.tests.factory import nothing_is_stored

pytestmark = pytest.mark.django_db
FILES = Path(__file__).parent / "formats"

# File → what it is called today. Who makes one of them importable moves it to a test of what comes
# out.
NAMED = {
    "alpaca.json": "The file is a JSON array.",
    "alpaca.jsonl": "1: is Alpaca (instruction, output), which cannot be imported yet",
    "alpaca.jsonl.gz": "The file is gzip.",
    "b1.jsonl": "2: is a number, not an object",
    "b2_pretty_one.json": "The file is one JSON document over several lines.",
    "b3a.csv": "The file looks like CSV with the columns first, second.",
    "b3b.csv": "The file looks like CSV with the columns prompt, completion.",
    "b3c.csv": "The file looks like CSV with the columns prompt, completion.",
    "b4.jsonl": "1: is an example with tools (tools), which cannot be imported yet",
    "data.csv": "The file looks like CSV with the columns prompt, completion.",
    "dev.jsonl": "1: is a chat with more than text (the role developer in message 1)",
    "dpo.jsonl": "1: is preference data (chosen, rejected), which cannot be imported yet",
    "hh.jsonl": (
        "1: is preference data of Anthropic HH (chosen, rejected), which cannot be imported yet"
    ),
    "openai.jsonl": "1: is a chat with more than text (weights in message 3)",
    "q.jsonl": "1: answer: has no line `#### <final answer>`",
    "r1.jsonl": "1: is worked mathematics (problem, solution), which cannot be imported yet",
    "reason.jsonl": (
        "1: is a chat with more than text (reasoning apart from the answer in message 2)"
    ),
    "sharegpt.jsonl": "1: is ShareGPT (conversations), which cannot be imported yet",
    "text.jsonl": "1: is plain text (text), which cannot be imported yet",
    "tools.jsonl": "1: is an example with tools (tools), which cannot be imported yet",
    "utf16.jsonl": "The file is UTF-16.",
}


def refusal_of(name: str) -> list[str]:
    with pytest.raises(ImportRefused) as caught, open(FILES / name, "rb") as file:
        import_file(file=file, file_name=name, name="case", version="v1", by=None)
    assert nothing_is_stored()
    if isinstance(caught.value, BadLines):
        return [f"{problem.line}: {problem.reason}" for problem in caught.value.problems]
    return [str(caught.value)]


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_a_file_as_people_have_it_is_named(name):
    assert refusal_of(name)[0].startswith(NAMED[name])


def test_lines_that_are_no_objects_are_each_named():
    assert refusal_of("b1.jsonl") == [
        "2: is a number, not an object",
        "3: is text, not an object",
        "4: is null, not an object",
        "5: is a list, not an object; write one object a line, without a list around them",
        "6: is true or false, not an object",
        "10: is no prompt_completion line: completion, prompt is missing",
        "11: is a number, not an object",
    ]


def test_tools_are_refused_on_every_line_that_has_them():
    assert [reason.partition(":")[0] for reason in refusal_of("b4.jsonl")] == ["1", "2"]
