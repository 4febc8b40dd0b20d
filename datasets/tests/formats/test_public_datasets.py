"""Rows with the columns that well-known public datasets really have: accepted, kept, and the same
when the dataset is exported and imported again."""

import io
import json
from typing import Any

import pytest

from datasets.formats.lines import LineError
from datasets.formats.table import recognise, to_example
from datasets.services.exports import export_lines
from datasets.tests.factory import import_upload, jsonl_file

USER = {"role": "user", "content": "1+1?"}
ASSISTANT = {"role": "assistant", "content": "2"}
WRONG = {"role": "assistant", "content": "3"}
CHAT = [USER, ASSISTANT]
THOUGHT = "<think>\n1 and 1\n</think>\n\nIt is \\boxed{2}."
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}

OPEN_R1 = {
    "problem": "1+1?",
    "solution": "Add.\n2",
    "answer": "2",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "uuid": "u",
    "is_reasoning_complete": [False, True, True],
    "generations": ["<think>\n1 and", "<think>\nhm\n</think>\n\n3", THOUGHT],
    "correctness_math_verify": [True, False, True],
    "correctness_llama": None,
    "finish_reasons": ["length", "stop", "stop"],
    "correctness_count": 1,
    "messages": [USER, {"role": "assistant", "content": THOUGHT}],
}
NUMINA = {
    "problem": "1+1?",
    "solution": "Add.\n2",
    "answer": "2",
    "problem_type": "Number Theory",
    "question_type": "math-word-problem",
    "problem_is_valid": "Yes",
    "solution_is_valid": "Yes",
    "source": "cn_k12",
    "synthetic": False,
}
OPEN_MATH = {
    "expected_answer": "2",
    "problem_type": "has_answer_extracted",
    "problem_source": "aops_c6_high_school_olympiads",
    "generation_model": "DeepSeek-R1",
    "pass_rate_72b_tir": "0.96875",
    "problem": "1+1?",
    "generated_solution": THOUGHT,
    "inference_mode": "cot",
    "used_in_kaggle": True,
}
TURNS = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
PAIR = {"prompt": "1+1?", "chosen": CHAT, "rejected": [USER, WRONG]}

# Dataset → a row of it, its format, the kind, and what is taken out of the columns. All the others
# stay in meta.
ROWS: dict[str, tuple[dict[str, Any], str, str, set[str]]] = {
    "nvidia/OpenMathReasoning": (
        OPEN_MATH,
        "open_math",
        "trace",
        {"problem", "generated_solution", "expected_answer"},
    ),
    "open-r1/OpenR1-Math-220k": (OPEN_R1, "open_r1", "conversation", {"problem", "messages"}),
    "AI-MO/NuminaMath-1.5": (NUMINA, "worked", "trace", {"problem", "solution", "answer"}),
    "AI-MO/NuminaMath-CoT": (
        {
            "source": "cn_k12",
            "problem": "1+1?",
            "solution": "2",
            "messages": CHAT,
        },
        "worked",
        "trace",
        {"problem", "solution", "messages"},
    ),
    "MATH": (
        {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": "2"},
        "worked",
        "trace",
        {"problem", "solution"},
    ),
    "MATH-500": (
        {
            "problem": "1+1?",
            "solution": "Add.",
            "answer": "2",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "test/algebra/1.json",
        },
        "worked",
        "trace",
        {"problem", "solution", "answer"},
    ),
    "GAIR/LIMO": (
        {"question": "1+1?", "solution": "Add. \\boxed{2}", "answer": "2"},
        "worked_question",
        "trace",
        {"question", "solution", "answer"},
    ),
    "openai/gsm8k": (
        {"question": "1+1?", "answer": "Add <<1+1=2>>2.\n#### 2"},
        "gsm8k",
        "trace",
        {"question", "answer"},
    ),
    "open-thoughts/OpenThoughts-114k": (
        {
            "system": "Think first.",
            "conversations": [
                {"from": "user", "value": "1+1?"},
                {
                    "from": "assistant",
                    "value": "<|begin_of_thought|>\n\n1 and 1\n\n<|end_of_thought|>\n\n"
                    "<|begin_of_solution|>\n\n2\n\n<|end_of_solution|>",
                },
            ],
        },
        "sharegpt",
        "conversation",
        {"system", "conversations"},
    ),
    "open-thoughts/OpenThoughts2-1M": (
        {"conversations": TURNS, "question": "1+1?", "source": "math", "id": 1},
        "sharegpt",
        "conversation",
        {"conversations"},
    ),
    "open-thoughts/OpenThoughts3-1.2M": (
        {"difficulty": 7, "source": "ai2-adapt", "domain": "math", "conversations": TURNS},
        "sharegpt",
        "conversation",
        {"conversations"},
    ),
    "BytedTsinghua-SIA/DAPO-Math-17k": (
        {
            "data_source": "math_dapo",
            "prompt": [USER],
            "ability": "MATH",
            "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
        },
        "prompt",
        "prompt",
        {"prompt"},
    ),
    "GSM8K as verl writes it": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [USER],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {
                "split": "train",
                "index": 0,
                "answer": "Add.\n#### 2",
                "question": "1+1?",
            },
        },
        "prompt",
        "prompt",
        {"prompt"},
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        PAIR | {"prompt_id": "x", "messages": CHAT, "score_chosen": 8.5, "score_rejected": 5.0},
        "preference",
        "preference",
        {*PAIR, "messages", "score_chosen", "score_rejected"},
    ),
    "argilla/ultrafeedback-binarized-preferences-cleaned": (
        PAIR
        | {
            "source": "evol_instruct",
            "chosen-rating": 5.0,
            "chosen-model": "a",
            "rejected-rating": 3.75,
            "rejected-model": "b",
        },
        "preference",
        "preference",
        {*PAIR, "chosen-rating", "rejected-rating"},
    ),
    "allenai/llama-3.1-tulu-3-8b-preference-mixture": (
        PAIR
        | {
            "id": "x",
            "source": "wildchat",
            "chosen_rating": 5.0,
            "rejected_rating": 2.0,
            "chosen_model": "a",
            "rejected_model": "b",
        },
        "preference",
        "preference",
        {*PAIR, "chosen_rating", "rejected_rating"},
    ),
    "Anthropic/hh-rlhf": (
        {
            "chosen": "\n\nHuman: 1+1?\n\nAssistant: 2",
            "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3",
        },
        "hh",
        "preference",
        {"chosen", "rejected"},
    ),
    "Open-Orca/SlimOrca": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief.", "weight": None},
                {"from": "human", "value": "1+1?", "weight": 0.0},
                {"from": "gpt", "value": "2", "weight": 1.0},
            ]
        },
        "sharegpt",
        "conversation",
        {"conversations"},
    ),
    "teknium/OpenHermes-2.5": (
        {
            "custom_instruction": False,
            "topic": None,
            "model_name": None,
            "model": "gpt-4",
            "skip_prompt_formatting": True,
            "category": "general",
            "conversations": [{"from": "system", "value": "Be brief."}, *TURNS],
            "views": 5,
            "language": "English",
            "id": "x",
            "title": "Sums",
            "idx": 7,
            "hash": 8,
            "avatarUrl": None,
            "system_prompt": "Be brief.",
            "source": "airoboros2.2",
        },
        "sharegpt",
        "conversation",
        {"conversations", "system_prompt"},
    ),
    "allenai/tulu-3-sft-mixture": (
        {"id": "x", "messages": CHAT, "source": "ai2-adapt-dev/oasst1_converted"},
        "messages",
        "conversation",
        {"messages"},
    ),
    "Salesforce/xlam-function-calling-60k": (
        {
            "id": 0,
            "query": "1+1?",
            "answers": '[{"name": "add", "arguments": {"a": 1}}]',
            "tools": json.dumps([{"name": "add", "description": "Add.", "parameters": SCHEMA}]),
        },
        "xlam",
        "conversation",
        {"query", "answers", "tools"},
    ),
    "glaiveai/glaive-function-calling-v2": (
        {
            "system": "SYSTEM: Be brief, with access to the following functions. Use them if"
            ' required -\n{"name": "f", "parameters": {"a": {"type": "string"}}}\n',
            "chat": "USER: 1+1?\n\n\nASSISTANT: <functioncall> "
            """{"name": "f", "arguments": '{"a": "x"}'} <|endoftext|>\n\n\n"""
            'FUNCTION RESPONSE: {"sum": 2}\n\n\nASSISTANT: 2 <|endoftext|>\n\n\n',
        },
        "glaive",
        "conversation",
        {"system", "chat"},
    ),
    "hiyouga/glaive-function-calling-v2-sharegpt": (
        {
            "conversations": [
                TURNS[0],
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": '{"sum": 2}'},
                TURNS[1],
            ],
            "tools": json.dumps([{"name": "add", "description": "Add.", "parameters": SCHEMA}]),
        },
        "sharegpt",
        "conversation",
        {"conversations", "tools"},
    ),
    "databricks/databricks-dolly-15k": (
        {"instruction": "1+1?", "context": "", "response": "2", "category": "open_qa"},
        "dolly",
        "conversation",
        {"instruction", "context", "response"},
    ),
    "tatsu-lab/alpaca": (
        {
            "instruction": "1+1?",
            "input": "",
            "output": "2",
            "text": "### Instruction:\n1+1?\n\n### Response:\n2",
        },
        "alpaca",
        "conversation",
        {"instruction", "input", "output"},
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", ROWS)
def test_a_public_dataset_is_accepted_as_it_is(name: str):
    row, format_name, kind, taken = ROWS[name]
    dataset = import_upload(file=jsonl_file(row), name="public", version="v1")
    assert (dataset.provenance["format"], dataset.kind) == (format_name, kind)
    (item,) = dataset.items.select_related("trace")
    assert item.trace.meta == {key: row[key] for key in row if key not in taken}
    for in_full in (True, False) if kind != "trace" else (True,):
        content = b"".join(export_lines(dataset, in_full=in_full))
        again = import_upload(file=io.BytesIO(content), name="again", version=f"v{in_full}")
        assert again.fingerprint == dataset.fingerprint


@pytest.mark.django_db
def test_the_trees_of_oasst_are_accepted_as_they_are():
    shared = {
        "user_id": "u",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.0004, "insult": 0.0002},
        "message_tree_id": "1",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [2]},
        "labels": {"name": ["quality", "toxicity"], "value": [0.7, 0.0], "count": [3, 3]},
    }
    rows = [
        shared
        | {"message_id": "1", "parent_id": None, "text": "1+1?", "role": "prompter", "rank": None},
        shared | {"message_id": "2", "parent_id": "1", "text": "2", "role": "assistant", "rank": 0},
    ]
    dataset = import_upload(file=jsonl_file(*rows), name="public", version="v1")
    assert (dataset.provenance["format"], dataset.kind) == ("oasst", "conversation")


def answer_of(line: dict[str, Any], kind: str | None = None) -> Any:
    example, _ = to_example(line, recognise(line, kind), kind)
    if example.kind == "trace":
        return [step["content"] for step in example.steps], example.final_answer
    if example.kind == "prompt":
        return example.final_answer
    return json.loads(example.content)["messages"][-1]


VERIFIED = {
    "role": "assistant",
    "content": "It is \\boxed{2}.",
    "reasoning": "1 and 1",
}


def test_of_several_answers_the_one_that_is_complete_and_verified_is_learnt():
    assert answer_of(OPEN_R1) == VERIFIED


def test_the_judge_counts_where_math_verify_accepts_no_answer():
    verdicts = {"correctness_math_verify": [False] * 3, "correctness_llama": [None, False, True]}
    assert answer_of(OPEN_R1 | verdicts) == VERIFIED
    assert answer_of(OPEN_R1 | verdicts | {"correctness_math_verify": None}) == VERIFIED


def test_the_solution_or_the_answer_alone_can_be_asked_for():
    assert answer_of(OPEN_R1, kind="trace") == (["Add.", "2"], "2")
    assert answer_of(OPEN_R1, kind="prompt") == "2"
    row = {name: value for name, value in OPEN_R1.items() if name != "solution"}
    with pytest.raises(LineError, match="solution: is missing"):
        answer_of(row, kind="trace")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"correctness_math_verify": [False] * 3}, "generations: none is complete and correct by"),
        ({"is_reasoning_complete": [True, True, False], "correctness_math_verify": [0, 0, 1]},
         "generations: none is complete and correct by"),
        ({"correctness_math_verify": [True]}, "has 1 values for 3 generations"),
        ({"is_reasoning_complete": [True] * 4}, "has 4 values for 3 generations"),
        ({"correctness_math_verify": "yes"}, "must be a list of true and false"),
        ({"correctness_math_verify": ["maybe"] * 3}, "must be a list of true and false"),
        ({"generations": "2"}, "generations: must be a list of texts"),
        ({"generations": []}, "has 3 values for 0 generations"),
        # said to be complete, and yet cut off
        ({"is_reasoning_complete": None}, "begins with <think> and has no </think>"),
        ({"answer": "3"}, "the verified one is 2 (in \\boxed), but answer is 3"),
        ({"answer": 3}, "the verified one is 2 (in \\boxed), but answer is 3"),
        ({"answer": "", "expected_answer": "3"}, "(in \\boxed), but expected_answer is 3"),
        ({"problem_is_valid": "Not correct"}, "problem_is_valid: is 'Not correct', not 'Yes'"),
    ],
)  # fmt: skip
def test_answers_that_contradict_their_verdicts_are_refused(changes: Any, reason: str):
    with pytest.raises(LineError) as caught:
        answer_of(OPEN_R1 | changes)
    assert reason in str(caught.value)


def test_what_numina_takes_for_wrong_is_refused_by_name():
    for name in ("problem_is_valid", "solution_is_valid"):
        with pytest.raises(LineError, match=rf"{name}: is 'Incomplete', not 'Yes'"):
            answer_of(NUMINA | {name: "Incomplete"})
    wrong = NUMINA | {"solution_is_valid": "No"}
    assert answer_of(wrong, kind="prompt") == "2"
    with pytest.raises(LineError, match="problem_is_valid: is 'No'"):
        answer_of(NUMINA | {"problem_is_valid": "No"}, kind="prompt")


@pytest.mark.parametrize("answer", ["proof", "notfound"])
def test_what_numina_says_instead_of_an_answer_is_not_learnt(answer: str):
    assert answer_of(NUMINA | {"answer": answer}) == ([], "Add.\n2")
    assert answer_of({"problem": "p", "solution": "s", "answer": answer}) == (["s"], answer)

    row = NUMINA | {"answer": answer}
    assert answer_of(row, kind="prompt") == ""
    assert answer_of(row | {"solution": "x=2. $\\boxed{2}$"}, kind="prompt") == "2"


def test_the_reference_of_a_problem_without_an_answer_is_its_boxed_number():
    assert answer_of(OPEN_MATH | {"expected_answer": None}, kind="prompt") == "2"
    boxed = OPEN_R1 | {"answer": None, "solution": "Add.\n\\boxed{2}"}
    assert answer_of(boxed, kind="prompt") == "2"
    assert answer_of(OPEN_R1 | {"answer": None}, kind="prompt") == ""
    row = {"problem": "p", "level": "Level 5", "type": "Algebra", "solution": "\\boxed{\\frac12}"}
    assert answer_of(row, kind="prompt") == "\\frac12"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        # the guard stays where a column is not one of a known dataset
        (OPEN_MATH | {"is_correct": False}, "an example with a verdict (is_correct)"),
        (NUMINA | {"rating": 1}, "an example with a rating (rating)"),
        (ROWS["teknium/OpenHermes-2.5"][0] | {"custom_instruction": "Rhyme."}, "further input"),
        (ROWS["allenai/tulu-3-sft-mixture"][0] | {"pass_rate_72b_tir": "0.1"}, "with a verdict"),
        ({"conversations": TURNS, "correctness_math_verify": [True]}, "with a verdict"),
        (PAIR | {"chosen_rating": 1.0, "rejected_rating": 2.0}, "rejected_rating is higher than"),
        (PAIR | {"chosen_rating": 1.0, "score_chosen": 2.0}, "give one of them"),
        (PAIR | {"chosen_rating": 1.0}, "give both or none"),
    ],
)
def test_what_is_not_known_of_a_dataset_is_still_refused(row: dict[str, Any], reason: str):
    with pytest.raises(LineError) as caught:
        answer_of(row)
    assert reason in str(caught.value)
