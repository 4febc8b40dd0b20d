"""A line of every format that can be imported, as a model sees it: each token and what is learnt,
against expectations written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets.cleaning.items import Item, Work
from datasets.cleaning.operation import StepReport
from datasets.cleaning.rewriting import InlineReasoning
from datasets.examples.kinds import training_line
from datasets.formats.table import FORMATS, TEXT, recognise, to_example
from runs.tests.tokenizer_folder import make_tokenizer_folder
from runs.trainer.data import view
from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.tests.templates import QWEN, SMOLLM2, TOOL

ASKED = [{"role": "user", "content": "1+1?"}]
ANSWERED = [{"role": "assistant", "content": "2"}]
WRONG = [{"role": "assistant", "content": "3"}]
OURS = {"id": "x", "split": "train"}
CALL = {"name": "weather", "arguments": {"city": "Ulm"}}

# The turns of a row; what is between « and » is learnt. A question alone is a prompt.
ONE = "user: 1+1? | assistant: «2»"
PAIR = {"chosen": ONE, "rejected": "user: 1+1? | assistant: «3»"}
QUESTION = "user: 1+1? | assistant:"
WORKED = "user: 1+1? | assistant: «1 and 1\n2»"
LINES: list[tuple[str, dict[str, Any], str | None, str | dict[str, str]]] = [
    (
        "examples",
        {
            "kind": "trace",
            "prompt": "1+1?",
            "steps": [],
            "final_answer": "2",
            "meta": {},
            "split": "train",
        },
        None,
        ONE,
    ),
    ("tunix_sft", OURS | {"messages": ASKED + ANSWERED, "final_answer": None}, None, ONE),
    (
        "tunix_preference",
        OURS | {"kind": "preference", "prompt": ASKED, "chosen": ANSWERED, "rejected": WRONG},
        None,
        PAIR,
    ),
    (
        "tunix_prompts",
        OURS | {"kind": "prompt", "messages": ASKED, "final_answer": "2"},
        None,
        QUESTION,
    ),
    (
        "openai_preference",
        {
            "input": {"messages": ASKED},
            "preferred_output": ANSWERED,
            "non_preferred_output": WRONG,
        },
        None,
        PAIR,
    ),
    (
        "llama_factory_preference_chat",
        {
            "conversations": [{"from": "human", "value": "1+1?"}],
            "chosen": {"from": "gpt", "value": "2"},
            "rejected": {"from": "gpt", "value": "3"},
        },
        None,
        PAIR,
    ),
    (
        "llama_factory_preference",
        {"instruction": "1+1?", "chosen": "2", "rejected": "3"},
        None,
        PAIR,
    ),
    (
        "hh",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hi!\n\nHuman: 1+1?\n\nAssistant: 2",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hi!\n\nHuman: 1+1?\n\nAssistant: 3",
        },
        None,
        {side: f"user: Hi | assistant: Hi! | {turns}" for side, turns in PAIR.items()},
    ),
    ("preference", {"prompt": "1+1?", "chosen": "2", "rejected": "3"}, None, PAIR),
    (
        "vertex",
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "Add."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "1+1?"}]},
                {"role": "model", "parts": [{"text": "2"}]},
            ],
        },
        None,
        f"system: Add. | {ONE}",
    ),
    (
        "open_math",
        {"problem": "1+1?", "generated_solution": "1 and 1", "expected_answer": "2"},
        None,
        WORKED,
    ),
    (
        "open_r1",
        {"problem": "1+1?", "generations": ["3", "2"], "correctness_llama": [False, True]},
        None,
        ONE,
    ),
    (
        "worked",
        {"problem": "1+1?", "solution": "<think>1 and 1</think>\n2", "answer": "2"},
        None,
        WORKED,
    ),
    (
        "worked_question",
        {"question": "1+1?", "solution": "<think>1 and 1</think>\n2", "answer": "2"},
        None,
        WORKED,
    ),
    (
        "dolly",
        {"instruction": "1+1?", "context": "Add.", "response": "2"},
        None,
        "user: 1+1?\n\nAdd. | assistant: «2»",
    ),
    (
        "alpaca",
        {
            "instruction": "1+1?",
            "input": "",
            "output": "2",
            "system": "Add.",
            "history": [["0+0?", "0"]],
        },
        None,
        f"system: Add. | user: 0+0? | assistant: «0» | {ONE}",
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Add."},
                {"from": "human", "value": "0+0? <|end|>"},
                {"from": "gpt", "value": "0"},
                {"from": "human", "value": "1+1?"},
                {"from": "gpt", "value": "2"},
            ]
        },
        None,
        f"system: Add. | user: 0+0? <|end|> | assistant: «0» | {ONE}",
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "0+0?"}]},
                {"role": "assistant", "content": "1", "weight": 0},
                *ASKED,
                *ANSWERED,
            ]
        },
        None,
        f"user: 0+0? | assistant: 1 | {ONE}",
    ),
    (
        "messages",
        {"messages": [{"role": "developer", "content": "Add."}, *ASKED, *ANSWERED]},
        None,
        f"system: Add. | {ONE}",
    ),
    ("gsm8k", {"question": "1+1?", "answer": "1 and 1\n#### 2"}, None, WORKED),
    ("gsm8k", {"question": "1+1?", "answer": "1 and 1\n#### 2"}, "prompt", QUESTION),
    ("question_answer", {"question": "1+1?", "answer": "2"}, None, ONE),
    ("prompt_completion_chat", {"prompt": ASKED, "completion": ANSWERED}, None, ONE),
    ("prompt_completion", {"prompt": "1+1?", "completion": "2"}, None, ONE),
    (
        "trace",
        {
            "prompt": "1+1?",
            "steps": [{"i": 0, "type": "reasoning", "content": "1 and 1"}],
            "final_answer": "2",
        },
        None,
        WORKED,
    ),
    ("prompt", {"prompt": "1+1?", "ground_truth": "2"}, None, QUESTION),
    ("text", {"text": "The quick brown fox."}, TEXT, "assistant: «The quick brown fox.»"),
]
CALLED = (
    f"⟨<|turn|>⟩system\nTools:\n{json.dumps(TOOL)}⟨<|end|>⟩\n⟨<|turn|>⟩user\nRain?⟨<|end|>⟩\n"
    "⟨<|turn|>⟩assistant\n«⟨<tool_call>⟩\n"
    '{"name": "weather", "arguments": {"city": "Ulm"}}\n⟨</tool_call>⟩⟨<|end|>⟩»\n'
)
TOLD = (
    "⟨<|turn|>⟩user\n<tool_response>\nwet\n</tool_response>⟨<|end|>⟩\n"
    "⟨<|turn|>⟩assistant\n«Yes.⟨<|end|>⟩»\n"
)
WITH_TOOLS = [
    (
        "glaive",
        {
            "system": f"SYSTEM: The following functions -\n{json.dumps(TOOL['function'])}\n",
            "chat": "USER: Rain?\n\n\nASSISTANT: <functioncall> "
            """{"name": "weather", "arguments": '{"city": "Ulm"}'} <|endoftext|>\n\n\n"""
            "FUNCTION RESPONSE: wet\n\n\nASSISTANT: Yes. <|endoftext|>\n\n\n",
        },
        (CALLED + TOLD).replace("system\nTools", "system\nThe following functions\n\nTools"),
    ),
    (
        "xlam",
        {
            "query": "Rain?",
            "tools": json.dumps([TOOL["function"]]),
            "answers": json.dumps([CALL]),
        },
        CALLED,
    ),
    (
        "sharegpt",
        {
            "tools": json.dumps([TOOL]),
            "conversations": [
                {"from": "human", "value": "Rain?"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "wet"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
        CALLED + TOLD,
    ),
    (
        "messages",
        {
            "tools": [TOOL],
            "messages": [
                {"role": "user", "content": "Rain?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": CALL | {"arguments": json.dumps(CALL["arguments"])},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c", "content": "wet"},
                {"role": "assistant", "content": "Yes."},
            ],
        },
        CALLED + TOLD,
    ),
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder: Path = tmp_path_factory.mktemp("models")
    return {
        name: view.open_tokenizer(
            make_tokenizer_folder(folder / name, template), prompt_style="conversation"
        )
        for name, template in (("smollm2", SMOLLM2), ("qwen", QWEN))
    }


def seen(tokenizer: Tokenizer, name: str, line: dict[str, Any], kind: str | None) -> Any:
    assert recognise(line, kind) == name
    example, part = to_example(line, name, kind)
    return view.view_example(
        tokenizer,
        training_line("an-id", example, part or "train"),
        cut=view.Cut(2048, "drop"),
        row=0,
        start=0,
        count=10_000,
    )


def marked(found: dict[str, Any]) -> dict[str, str]:
    """The text of each side: «…» is learnt, and a control token is between ⟨ and ⟩."""
    assert found["problems"] == []
    blocks = {block["side"]: block["tokens"] for block in found["blocks"]}
    shared = blocks.pop("prompt", [])
    sides = {}
    for side, tokens in blocks.items():
        text, learnt = "", False
        for token in [*shared, *tokens]:
            if token["learnt"] != learnt:
                text += "«" if token["learnt"] else "»"
                learnt = token["learnt"]
            text += f"⟨{token['text']}⟩" if token["control"] else token["text"]
        sides[side] = text + ("»" if learnt else "")
    return sides


def as_turns(turns: str, *, system: str) -> str:
    """Turns as both templates write them; ``system``: the message where there is none."""
    text = "" if turns.startswith("system:") else system
    for turn in turns.split(" | "):
        role, _, content = turn.partition(":")
        text += f"⟨<|turn|>⟩{role}\n"
        if content:
            content = content[1:]
            learnt = content.startswith("«")
            text += f"{content[:-1]}⟨<|end|>⟩»\n" if learnt else f"{content}⟨<|end|>⟩\n"
    return text


@pytest.mark.parametrize(("name", "line", "kind", "expected"), LINES)
def test_a_line_as_both_templates_write_it(
    tokenizers: dict[str, Tokenizer],
    name: str,
    line: dict[str, Any],
    kind: str | None,
    expected: str | dict[str, str],
) -> None:
    of_sides = {"": expected} if isinstance(expected, str) else expected
    helpful = "⟨<|turn|>⟩system\nYou are helpful.⟨<|end|>⟩\n"
    for model, system in (("smollm2", helpful), ("qwen", "")):
        assert marked(seen(tokenizers[model], name, line, kind)) == {
            side: as_turns(turns, system=system) for side, turns in of_sides.items()
        }


@pytest.mark.parametrize(("name", "line", "expected"), WITH_TOOLS)
def test_tools_as_a_template_with_tools_writes_them_and_another_cannot(
    tokenizers: dict[str, Tokenizer], name: str, line: dict[str, Any], expected: str
) -> None:
    assert marked(seen(tokenizers["qwen"], name, line, None)) == {"": expected}
    (problem,) = seen(tokenizers["smollm2"], name, line, None)["problems"]
    assert "does not show" in problem["detail"] or "(role tool)" in problem["detail"]


THOUGHT = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "<think>1 and 1</think>2"}]
THOUGHT_OPENLY = (
    "⟨<|turn|>⟩user\n1+1?⟨<|end|>⟩\n⟨<|turn|>⟩assistant\n"
    "«⟨<think>⟩\n1 and 1\n⟨</think>⟩\n\n2⟨<|end|>⟩»\n"
)


def test_reasoning_as_a_template_with_reasoning_writes_it_and_another_cannot(
    tokenizers: dict[str, Tokenizer],
) -> None:
    line = {"conversations": THOUGHT}
    assert marked(seen(tokenizers["qwen"], "sharegpt", line, None)) == {"": THOUGHT_OPENLY}
    (problem,) = seen(tokenizers["smollm2"], "sharegpt", line, None)["problems"]
    assert "does not show the reasoning of message" in problem["detail"]
    assert "inline_reasoning" in problem["detail"]


def test_the_other_template_writes_reasoning_that_was_made_text(
    tokenizers: dict[str, Tokenizer],
) -> None:
    example, _ = to_example({"conversations": THOUGHT}, "sharegpt")
    work = Work(parents=[])
    (item,) = InlineReasoning(operation="inline_reasoning").apply(
        iter([Item(example, "train", 0, 0)]), work, StepReport("inline_reasoning", {}, ["a-v1"])
    )
    line = json.loads(training_line("an-id", item.example, "train"))
    helpful = "⟨<|turn|>⟩system\nYou are helpful.⟨<|end|>⟩\n"
    assert marked(seen(tokenizers["smollm2"], "tunix_sft", line, None)) == {
        "": helpful + THOUGHT_OPENLY
    }


def test_every_format_is_here() -> None:
    names = {name for name, *_ in LINES} | {name for name, *_ in WITH_TOOLS}
    # what several lines together become is of the kinds of the others
    assert names == {name for name, known in FORMATS.items() if not known.grouped}
