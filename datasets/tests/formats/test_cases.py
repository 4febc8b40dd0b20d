"""Small files as people have them: each is imported right, or named and refused. Nothing is taken
for something else."""

import json
from pathlib import Path

import pytest

from datasets.files.reading import ImportRefused
from datasets.imports.importers import BadLines
from datasets.models import Kind
from datasets.services.exports import export_lines
from datasets.tests.factory import import_upload, nothing_is_stored

pytestmark = pytest.mark.django_db
FILES = Path(__file__).parent / "files"

ALPACA = (
    Kind.CONVERSATION,
    [["user: Add the numbers\n2 and 3", "5"], ["user: Name a color", "Red"]],
)
# File → kind of its examples, and of each the messages before the last answer, and that answer.
IMPORTED = {
    "alpaca.json": ALPACA,
    "alpaca.jsonl": ALPACA,
    "alpaca.jsonl.gz": ALPACA,
    "b2_pretty_one.json": (Kind.TRACE, [["user: What is 1+1?", "It is 2."]]),
    "b3b.csv": (Kind.TRACE, [["user: a\nb", "c"]]),
    "b3c.csv": (Kind.TRACE, [["user: “curly”", "x"]]),
    "b4.jsonl": (Kind.CONVERSATION, [["user: do", "done"], ["user: do", "done"]]),
    "data.csv": (Kind.TRACE, [["user: 2+2?", "4"], ["user: 3+3?", "6"]]),
    "dev.jsonl": (Kind.CONVERSATION, [["developer: Be brief", "user: 3*3?", "9"]]),
    "openai.jsonl": (
        Kind.CONVERSATION,
        [
            [
                *("system: You are terse.", "user: Hi", "assistant (not learnt): Hello"),
                *("user: 2+2?", "4"),
            ],
            ["user: What is this?", "A test"],
        ],
    ),
    "q.jsonl": (Kind.TRACE, [["user: What is 2+3?", "5"]]),
    "r1.jsonl": (Kind.TRACE, [["user: What is 3*3?", "3*3=9\n9"]]),
    "reason.jsonl": (Kind.CONVERSATION, [["user: 3*3?", "9"]]),
    "sharegpt.jsonl": (
        Kind.CONVERSATION,
        [
            ["user: What is 2+2?", "4"],
            [
                *("system: Be brief.", "user: Capital of France?", "assistant: Paris"),
                *("user: And Italy?", "Rome"),
            ],
        ],
    ),
    "tools.jsonl": (
        Kind.CONVERSATION,
        [["user: weather in SF?", "assistant: ", "tool: sunny", "It is sunny."]],
    ),
}
REFUSED = {
    "b3a.csv": "2: has 1 columns where the header has 2",
    "text.jsonl": "1: is plain text (text), which is not imported as it is: to learn all of it",
    "utf16.jsonl": "The file is UTF-16.",
}


def imported(name, **more):
    with open(FILES / name, "rb") as file:
        return import_upload(file=file, file_name=name, name="case", version="v1", by=None, **more)


def lines_of(dataset):
    return [json.loads(line) for line in export_lines(dataset)]


def refusal_of(name: str) -> list[str]:
    with pytest.raises(ImportRefused) as caught:
        imported(name)
    assert nothing_is_stored()
    if isinstance(caught.value, BadLines):
        return [f"{problem.line}: {problem.reason}" for problem in caught.value.problems]
    return [str(caught.value)]


def shown(message):
    learnt = " (not learnt)" if message.get("weight") == 0 else ""
    return f"{message['role']}{learnt}: {message['content']}"


def test_every_file_is_spoken_of():
    assert {path.name for path in FILES.iterdir()} == {
        *(*IMPORTED, *REFUSED, "b1.jsonl", "dpo.jsonl", "hh.jsonl"),
    }


@pytest.mark.parametrize("name", IMPORTED)
def test_a_file_as_people_have_it_is_imported(name):
    kind, expected = IMPORTED[name]
    dataset = imported(name)
    assert dataset.kind == kind
    assert [
        [*map(shown, line["messages"][:-1]), line["messages"][-1]["content"]]
        for line in lines_of(dataset)
    ] == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_imported_as_it_is_is_named(name):
    assert refusal_of(name)[0].startswith(REFUSED[name])


@pytest.mark.parametrize(
    ("name", "prompt", "chosen", "rejected"),
    [("dpo.jsonl", "2+2?", "4", "5"), ("hh.jsonl", "Hi", "Hello!", "Go away.")],
)
def test_pairs(name, prompt, chosen, rejected):
    dataset = imported(name)
    assert dataset.kind == Kind.PREFERENCE
    (line,) = lines_of(dataset)
    assert (line["prompt"], line["chosen"], line["rejected"]) == (
        [{"role": "user", "content": prompt}],
        [{"role": "assistant", "content": chosen}],
        [{"role": "assistant", "content": rejected}],
    )


def test_plain_text_is_imported_where_that_is_asked_for():
    (line,) = lines_of(imported("text.jsonl", kind="text"))
    assert line["messages"] == [{"role": "assistant", "content": "The quick brown fox."}]


def test_tools_reasoning_and_calls_are_kept():
    first, second = lines_of(imported("b4.jsonl"))
    properties = [
        line["tools"][0]["function"]["parameters"]["properties"] for line in (first, second)
    ]
    # keys of one line do not leak into another
    assert properties == [{"a": {"type": "string"}}, {"b": {"type": "integer"}}]
    assert [line["meta"] for line in (first, second)] == [
        {"arguments": {"t": "x"}},
        {"arguments": {"t": 1}},
    ]


def test_calls_of_tools_are_stored_with_their_arguments_as_an_object():
    (line,) = lines_of(imported("tools.jsonl"))
    (call,) = line["messages"][1]["tool_calls"]
    assert call == {
        "id": "c1",
        "type": "function",
        "function": {"name": "w", "arguments": {"city": "SF"}},
    }
    assert line["messages"][2]["tool_call_id"] == "c1"


def test_reasoning_is_kept_apart_from_the_answer():
    (line,) = lines_of(imported("reason.jsonl"))
    assert line["messages"][-1] == {"role": "assistant", "content": "9", "reasoning": "3*3=9"}


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
