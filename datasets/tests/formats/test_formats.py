import json

import pytest

from datasets.examples.kinds import training_line
from datasets.formats.boxed import boxes
from datasets.formats.lines import REASON_MAX_CHARACTERS, LineError, parse_line
from datasets.formats.table import FORMATS, TEXT, recognise, to_example
from datasets.tests.factory import trace_body
from tunixrt.tests.cpu import run_within_cpu_seconds

USER = {"role": "user", "content": "1+1?"}
ASSISTANT = {"role": "assistant", "content": "2"}
WRONG = {"role": "assistant", "content": "3"}
SYSTEM = {"role": "system", "content": "s"}


def converted(line, kind=None):
    return to_example(line, recognise(line, kind), kind)[0]


def content_of(line, kind=None):
    return json.loads(converted(line, kind).content)


def reason_of(line, format_name, kind=None):
    with pytest.raises(LineError) as caught:
        to_example(line, format_name, kind)
    return str(caught.value)


PARTS = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"a": {"type": "string"}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "x"}}}
TURNS = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
KTO = {"prompt": "1+1?", "completion": "3", "label": False}
PAIR = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}
SIDES = {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [WRONG]}
CHAT = {"messages": [USER, ASSISTANT]}

# --- Every format that people have, and what becomes of it ----------------------------------------

CHATS = [
    (CHAT, "messages", CHAT),
    ({"messages": [SYSTEM, USER, ASSISTANT]}, "messages", {"messages": [SYSTEM, USER, ASSISTANT]}),
    (CHAT | {"system": "s"}, "messages", {"messages": [SYSTEM, USER, ASSISTANT]}),
    (CHAT | {"tools": [TOOL]}, "messages", CHAT | {"tools": [TOOL]}),
    (
        CHAT | {"functions": [TOOL["function"]], "parallel_tool_calls": False},
        "messages",
        CHAT | {"tools": [TOOL]},
    ),
    ({"messages": [USER | {"content": PARTS}, ASSISTANT]}, "messages", CHAT),
    (
        {"messages": [USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT | {"weight": 1}]},
        "messages",
        {"messages": [USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT]},
    ),
    (
        {"instruction": "Add.", "input": "1 and 1", "output": "2"},
        "alpaca",
        {"messages": [USER | {"content": "Add.\n1 and 1"}, ASSISTANT]},
    ),
    (
        {"instruction": "1+1?", "input": "", "output": "2", "system": "s", "history": [["a", "b"]]},
        "alpaca",
        {
            "messages": [
                SYSTEM,
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                USER,
                ASSISTANT,
            ]
        },
    ),
    (
        {"instruction": "Add.", "context": "1 and 1", "response": "2", "category": "closed_qa"},
        "dolly",
        {"messages": [USER | {"content": "Add.\n\n1 and 1"}, ASSISTANT]},
    ),
    ({"conversations": TURNS, "difficulty": 3, "source": "math"}, "sharegpt", CHAT),
    (
        {
            "conversations": [
                TURNS[0],
                {"from": "function_call", "value": '{"name": "f", "arguments": {"a": "x"}}'},
                {"from": "observation", "value": "2"},
                TURNS[1],
            ],
            "system": "s",
            "tools": json.dumps([TOOL["function"]]),
        },
        "sharegpt",
        {
            "messages": [
                SYSTEM,
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": CALL["function"]}],
                },
                {"role": "tool", "content": "2"},
                ASSISTANT,
            ],
            "tools": [TOOL],
        },
    ),
    (
        {
            "query": "1+1?",
            "answers": '[{"name": "f", "arguments": {"a": "x"}}]',
            "tools": json.dumps([TOOL["function"]]),
        },
        "xlam",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": CALL["function"]}],
                },
            ],
            "tools": [TOOL],
        },
    ),
    (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "1+"}, {"text": "1?"}]},
                {"role": "model", "parts": [{"text": "2"}]},
            ],
            "systemInstruction": {"parts": [{"text": "s"}]},
        },
        "vertex",
        {"messages": [SYSTEM, USER, ASSISTANT]},
    ),
    (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "1+1?", "functionCall": None}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"functionCall": {"name": "f", "args": {"a": "x"}, "id": "c"}},
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {"functionResponse": {"name": "f", "response": {"sum": 2}, "id": "c"}}
                    ],
                },
                {"role": "model", "parts": [{"text": ""}, {"text": "2"}]},
            ],
            "tools": [{"functionDeclarations": [TOOL["function"]]}],
        },
        "vertex",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning": "hm",
                    "tool_calls": [CALL],
                },
                {"role": "tool", "content": '{"sum":2}', "tool_call_id": "c", "name": "f"},
                ASSISTANT,
            ],
            "tools": [TOOL],
        },
    ),
    (
        {
            "problem": "1+1?",
            "generations": ["3", "<think>hm</think>2"],
            "correctness_math_verify": [False, True],
        },
        "open_r1",
        {"messages": [USER, ASSISTANT | {"reasoning": "hm"}]},
    ),
    (
        {
            "system": "SYSTEM: Be brief, with access to the following functions. Use them if"
            ' required -\n{"name": "f", "parameters": {"a": {"type": "string"}}}\n',
            "chat": "USER: 1+1?\n\n\nASSISTANT: <functioncall> "
            """{"name": "f", "arguments": '{"a": "x"}'} <|endoftext|>\n\n\n"""
            'FUNCTION RESPONSE: {"sum": 2}\n\n\nASSISTANT: 2 <|endoftext|>\n\n\n',
        },
        "glaive",
        {
            "messages": [
                {
                    "role": "system",
                    "content": "Be brief, with access to the following functions. Use them if"
                    " required",
                },
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": CALL["function"]}],
                },
                {"role": "tool", "content": '{"sum": 2}'},
                ASSISTANT,
            ],
            "tools": [TOOL],
        },
    ),
    (
        {"system": "SYSTEM: s\n", "chat": "USER: 1+1?\n\n\nASSISTANT: 2 <|endoftext|>"},
        "glaive",
        {"messages": [SYSTEM, USER, ASSISTANT]},
    ),
    ({"prompt": [USER], "completion": [ASSISTANT]}, "prompt_completion_chat", CHAT),
    ({"prompt": "1+1?", "completion": [ASSISTANT]}, "prompt_completion_chat", CHAT),
]


@pytest.mark.parametrize(("line", "name", "content"), CHATS)
def test_chats(line, name, content):
    assert recognise(line) == name
    assert converted(line).kind == "conversation"
    assert content_of(line) == content


@pytest.mark.parametrize(
    ("role", "parts", "reason"),
    [
        (
            "user",
            [{"inlineData": {"data": "x"}}],
            "contents: turn 1: has a part of inlineData; only",
        ),
        ("user", [{"text": "x", "fileData": {}}], "has a part of fileData, text; only"),
        ("user", ["x"], "has a part of text; only"),
        ("user", "x", "contents: turn 1: parts must be a list"),
        ("user", [{"text": "x"}, {"functionResponse": {"name": "f"}}], "beside something else"),
        ("model", [{"functionResponse": {"name": "f"}}], "beside something else"),
        ("model", [{"functionCall": {"args": {}}}], "tool_calls of message 1: name: must be text"),
        ("user", [{"functionCall": {"name": "f"}}], "(user) has the field 'tool_calls'"),
    ],
)
def test_turns_of_vertex_that_are_refused(role, parts, reason):
    assert reason in reason_of({"contents": [{"role": role, "parts": parts}]}, "vertex")


CALLS = "USER: 1+1?\n\n\nASSISTANT: <functioncall> "
FUNCTIONS = "SYSTEM: You have the following functions. Use them -\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"system": "s", "chat": f"{CALLS}f(x)"}, "chat: turn 2: the function call: no JSON"),
        ({"system": "s", "chat": CALLS + '{"name": "f"} x'}, "has text after its function call"),
        (
            {"system": "s", "chat": CALLS + """{"name": "f", "arguments": '{"a": '}"""},
            "arguments of f: is not JSON",
        ),
        (
            {"system": "s", "chat": CALLS + '{"name": "f", "name": "g"}'},
            "the function call: has the key 'name' twice",
        ),
        ({"system": FUNCTIONS + '{"name": ', "chat": CALLS}, "system: the functions: no JSON"),
        ({"system": "s", "chat": "USER: 1+1?"}, "the last message must be the assistant's"),
    ],
)
def test_calls_of_glaive_that_are_refused(line, reason):
    assert reason in reason_of(line, "glaive")


def test_no_dialogue_takes_quadratic_time():
    run_within_cpu_seconds(
        60,
        "import django\n"
        "django.setup()\n"
        "from datasets.formats.glaive import from_glaive\n"
        "from datasets.formats.lines import LineError\n"
        "from datasets.examples.messages import InvalidMessages\n"
        "from datasets.examples.schema import InvalidTrace\n"
        "n = 1_000_000\n"
        "call = 'USER: x\\n\\nASSISTANT: <functioncall> '\n"
        'quoted = call + \'{"name": "f", "arguments": \\\'\'\n'
        "for system, chat in (\n"
        "    ('s', 'USER: x' + '\\n' * n + 'y'),\n"
        "    ('following functions' * n, call),\n"
        "    ('following functions' + '{}' * n, call),\n"
        "    ('s', quoted + '\\'  ' * n),\n"
        "):\n"
        "    try:\n"
        "        from_glaive({'system': system, 'chat': chat})\n"
        "    except (LineError, InvalidMessages, InvalidTrace):\n"
        "        pass\n",
    )


def test_what_a_chat_says_beside_its_messages_is_kept():
    line = CHAT | {"id": 7, "source": {"page": 3}, "tool_choice": "auto"}
    assert converted(line).meta == {"id": 7, "source": {"page": 3}, "tool_choice": "auto"}
    assert converted({"conversations": TURNS, "source": "math"}).meta == {"source": "math"}


TAGGED = "<think>hm</think>2"
THOUGHT = ASSISTANT | {"reasoning": "hm"}
TAGGED_MESSAGE = ASSISTANT | {"content": TAGGED}


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [USER, TAGGED_MESSAGE]},
        {"messages": [USER, ASSISTANT | {"content": [{"type": "text", "text": TAGGED}]}]},
        {"conversations": [TURNS[0], {"from": "gpt", "value": TAGGED}]},
        {"instruction": "1+1?", "output": TAGGED},
        {"instruction": "1+1?", "response": TAGGED},
        {"prompt": [USER], "completion": TAGGED},
        {
            "contents": [
                {"role": "user", "parts": [{"text": "1+1?"}]},
                {"role": "model", "parts": [{"text": TAGGED}]},
            ]
        },
    ],
)
def test_reasoning_at_the_beginning_of_an_answer_is_kept_apart(line):
    assert content_of(line) == {"messages": [USER, THOUGHT]}


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "1+1?", "chosen": TAGGED, "rejected": "3"},
        {"chosen": [USER, TAGGED_MESSAGE], "rejected": [USER, WRONG]},
        {"instruction": "1+1?", "chosen": TAGGED, "rejected": "3"},
        {
            "input": {"messages": [USER]},
            "preferred_output": [TAGGED_MESSAGE],
            "non_preferred_output": [WRONG],
        },
        {
            "chosen": f"\n\nHuman: 1+1?\n\nAssistant: {TAGGED}",
            "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3",
        },
    ],
)
def test_so_is_that_of_the_answers_of_a_pair(line):
    assert content_of(line) == SIDES | {"chosen": [THOUGHT]}


ANSWERED = [
    ({"prompt": "1+1?"}, "completion"),
    ({"question": "1+1?"}, "answer"),
    ({"problem": "1+1?"}, "generated_solution"),
    ({"problem": "1+1?", "answer": None}, "solution"),
    ({"question": "1+1?", "answer": None}, "solution"),
]
MARKED = "<|begin_of_thought|>hm<|end_of_thought|>"
SOLUTION = "<|begin_of_solution|>2<|end_of_solution|>"


@pytest.mark.parametrize(("question", "name"), ANSWERED)
def test_a_question_whose_answer_begins_with_reasoning_becomes_a_conversation(question, name):
    for tagged in (TAGGED, f"{MARKED}\n{SOLUTION}"):
        line = question | {name: tagged}
        assert (converted(line).kind, content_of(line)) == (
            "conversation", {"messages": [USER, THOUGHT]},
        )  # fmt: skip
    assert content_of(question | {name: "2"}, kind="conversation") == CHAT
    for open_tag in ("<think>hm", "<|begin_of_thought|>hm", "<|begin_of_solution|>2"):
        line = question | {name: open_tag}
        assert reason_of(line, recognise(line)).startswith(f"{name}: begins with <")
    with pytest.raises(LineError, match="is a conversation, not a trace"):
        converted(question | {name: TAGGED}, kind="trace")


@pytest.mark.parametrize(("question", "name"), ANSWERED)
def test_the_tags_of_a_solution_are_no_part_of_it(question, name):
    assert converted(question | {name: SOLUTION}).final_answer == "2"


def test_what_stands_between_the_thoughts_and_the_solution_is_part_of_the_answer():
    line = {"instruction": "1+1?", "output": f"{MARKED} It is {SOLUTION}"}
    assert content_of(line) == {"messages": [USER, THOUGHT | {"content": "It is 2"}]}
    said = "What does <|begin_of_solution|> mean?"
    assert converted({"prompt": "p", "completion": said}).final_answer == said


def test_reasoning_is_no_step_of_gsm8k_and_no_part_of_a_reference():
    line = {"question": "q", "answer": "<think>1 and 1</think>\nAdd.\n#### 2"}
    assert [step["content"] for step in converted(line).steps] == ["1 and 1", "Add."]
    for question in ({"question": "q"}, {"prompt": "q"}):
        assert converted(question | {"answer": TAGGED}, "prompt").final_answer == "2"
        line = question | {"answer": "<think>hm"}
        assert "answer: begins with <think>" in reason_of(line, recognise(line), "prompt")


def test_so_is_that_of_earlier_answers_of_a_prompt():
    line = {"prompt": [USER, TAGGED_MESSAGE, USER | {"content": TAGGED}]}
    assert content_of(line)["messages"] == [USER, THOUGHT, USER | {"content": TAGGED}]


def test_worked_reasoning_that_is_cut_off_is_refused():
    line = {"problem": "p", "generated_solution": "<think>hm", "expected_answer": "2"}
    assert "generated_solution: begins with <think> and has no" in reason_of(line, "open_math")


def test_in_our_own_exports_tags_are_text():
    message = {"kind": "conversation", "messages": [USER, TAGGED_MESSAGE], "split": "train"}
    for line in (message | {"meta": {}}, message | {"id": "x", "final_answer": None}):
        assert content_of(line) == {"messages": [USER, TAGGED_MESSAGE]}


PAIRS = [
    (PAIR, "preference"),
    ({"chosen": [USER, ASSISTANT], "rejected": [USER, WRONG]}, "preference"),
    (SIDES, "preference"),
    (
        {"prompt": "1+1?", "chosen": [USER, ASSISTANT], "rejected": [USER, WRONG]},
        "preference",
    ),
    (
        {
            "input": {"messages": [USER]},
            "preferred_output": [ASSISTANT],
            "non_preferred_output": [WRONG],
        },
        "openai_preference",
    ),
    (
        {"instruction": "1+1?", "input": "", "chosen": "2", "rejected": "3"},
        "llama_factory_preference",
    ),
    (
        {
            "conversations": TURNS[:1],
            "chosen": TURNS[1],
            "rejected": {"from": "gpt", "value": "3"},
        },
        "llama_factory_preference_chat",
    ),
    (
        {
            "chosen": "\n\nHuman: 1+1?\n\nAssistant: 2",
            "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3",
        },
        "hh",
    ),
]


@pytest.mark.parametrize(("line", "name"), PAIRS)
def test_pairs(line, name):
    assert recognise(line) == name
    assert converted(line).kind == "preference"
    assert content_of(line) == SIDES


def test_a_pair_of_ultrafeedback():
    chosen = [USER, ASSISTANT]
    line = {
        "prompt": "1+1?",
        "prompt_id": "x",
        "chosen": chosen,
        "rejected": [USER, WRONG],
        "messages": chosen,
        "score_chosen": 8.0,
        "score_rejected": 2.0,
    }
    assert content_of(line) == SIDES | {"scores": {"chosen": 8.0, "rejected": 2.0}}
    assert converted(line).meta == {"prompt_id": "x"}


def test_a_dialogue_of_hh_with_several_turns():
    shared = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 1+1?"
    line = {"chosen": f"{shared}\n\nAssistant: 2", "rejected": f"{shared}\n\nAssistant: 3"}
    assert [message["content"] for message in content_of(line)["prompt"]] == ["Hi", "Hello", "1+1?"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (PAIR | {"rejected": "2"}, "chosen and rejected are the same"),
        ({"chosen": "2", "rejected": "3"}, "prompt: is missing"),
        (
            {"prompt": "2+2?", "chosen": [USER, ASSISTANT], "rejected": [USER, WRONG]},
            "prompt: is not the beginning of chosen and rejected",
        ),
        (PAIR | {"score_chosen": 1}, "give both or none"),
        (PAIR | {"score_chosen": 1, "score_rejected": 9}, "score_rejected is higher than"),
        ({"preferred_output": [ASSISTANT]}, "input: must be an object with messages"),
        ({"chosen": "\n\nHuman: Hi", "rejected": "Hi"}, "does not begin with Human:"),
        ({"chosen": "\n\nHuman: Hi", "rejected": 3}, "rejected: must be text, not a number"),
    ],
)
def test_pairs_that_are_refused(line, reason):
    with pytest.raises(LineError) as caught:
        converted(line)
    assert reason in str(caught.value)


TRACES = [
    ({"question": "q", "answer": "5"}, "question_answer", [], "5"),
    (
        {"problem": "q", "solution": "<think>3*3=9</think>\n9", "answer": "9"},
        "worked",
        ["3*3=9"],
        "9",
    ),
    (
        {"problem": "q", "solution": "3*3\n=9", "answer": "9", "uuid": "x", "generations": ["g"]},
        "worked",
        ["3*3", "=9"],
        "9",
    ),
    ({"problem": "q", "solution": "s", "level": "Level 1", "type": "Algebra"}, "worked", [], "s"),
    (
        {
            "problem": "q",
            "solution": "s",
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "s"}],
        },
        "worked",
        [],
        "s",
    ),
    (
        {
            "problem": "q",
            "generated_solution": "work",
            "expected_answer": "2",
            "pass_rate_72b_tir": "n/a",
        },
        "open_math",
        ["work"],
        "2",
    ),
]


@pytest.mark.parametrize(("line", "name", "steps", "final_answer"), TRACES)
def test_worked_answers(line, name, steps, final_answer):
    assert recognise(line) == name
    trace = converted(line)
    assert trace.kind == "trace"
    assert (trace.prompt, trace.final_answer) == ("q", final_answer)
    assert [step["content"] for step in trace.steps] == steps
    assert "messages" not in trace.meta


OPEN_MATH = {
    "problem": "q",
    "generated_solution": "3 + 2\nso \\boxed{5}",
    "expected_answer": "5",
    "pass_rate_72b_tir": "0.65625",
    "problem_type": "has_answer_extracted",
    "problem_source": "aops_c4_high_school_math",
    "generation_model": "DeepSeek-R1",
    "inference_mode": "cot",
    "used_in_kaggle": True,
}
WORKED = {"problem": "q", "solution": "so \\boxed{5}", "answer": "5"}


class TestContradictions:
    """What a line says twice must agree: a training would learn both."""

    def test_a_real_line_has_none(self):
        trace = converted(OPEN_MATH)
        assert recognise(OPEN_MATH) == "open_math"
        assert [step["content"] for step in trace.steps] == ["3 + 2", "so \\boxed{5}"]
        assert trace.final_answer == "5"
        beside = OPEN_MATH.keys() - {"problem", "generated_solution", "expected_answer"}
        assert trace.meta.keys() == beside

    @pytest.mark.parametrize(
        ("boxed", "answer"),
        [
            ("5", "6"),
            ("5", "-5"),
            ("\\frac{1}{2}", "1/3"),
            ("1,000", "100"),
            ("0.5", "0.6"),
            ("3.14", "3.16"),
            ("3.14", "3"),
            ("1000", "1001"),
            ("\\frac{1}{3}", "0.34"),
        ],
    )
    def test_a_number_in_the_box_that_is_not_the_answer_is_refused(self, boxed, answer):
        line = OPEN_MATH | {
            "generated_solution": f"so \\boxed{{{boxed}}}", "expected_answer": answer,
        }  # fmt: skip
        reason = reason_of(line, "open_math")
        assert reason == (
            f"generated_solution: its answer is {boxed} (in \\boxed), but expected_answer is"
            f" {answer}"
        )
        assert converted(line, "prompt").final_answer == answer  # the solution is not learnt

    @pytest.mark.parametrize(
        ("boxed", "answer"),
        [
            ("5", " 5 "),
            ("5", "$5$"),
            ("5", "5.0"),
            ("\\frac{1}{2}", "1/2"),
            ("\\dfrac{1}{2}", "0.5"),
            ("\\frac{1}{3}", "0.33"),
            ("3.14", "3.1416"),
            ("2.0", "2.04"),
            ("5", "5."),
            ("1{,}000", "1000"),
            ("50\\%", "0.5"),
            ("x = 5", "5"),
            ("\\text{(B)}", "5"),
            ("5", "x > 5"),
            ("\\sqrt{4}", "2"),
            ("1/0", "5"),
            ("", "5"),
            ("9" * 400, "5"),
        ],
    )
    def test_other_forms_of_the_same_answer_are_not_judged(self, boxed, answer):
        line = WORKED | {"solution": f"so \\boxed{{{boxed}}}", "answer": answer}
        assert converted(line).final_answer == answer

    def test_the_last_of_several_boxes_counts(self):
        several = "first \\boxed{4}, no: \\boxed{5}"
        assert converted(WORKED | {"solution": several}).final_answer == "5"
        for other in ("4", "6"):
            line = WORKED | {"solution": several, "answer": other}
            assert "its answer is 5" in reason_of(line, "worked")

    def test_a_box_may_hold_braces_in_braces(self):
        nested = "\\boxed{\\frac{\\sqrt{3}}{2}}, at last \\boxed{\\boxed{5}}"
        assert boxes(nested) == ["\\frac{\\sqrt{3}}{2}", "\\boxed{5}"]
        assert boxes("} \\boxed {5} \\boxed{\\{1\\} \\\\boxed{6} \\boxed{7") == ["5", "6"]

    def test_wrong_answers_may_be_tried_in_thoughts(self):
        line = WORKED | {"solution": "<think>\\boxed{4}? No.</think>It is 5."}
        assert [step["content"] for step in converted(line).steps] == [
            "\\boxed{4}? No.", "It is 5.",
        ]  # fmt: skip

    def test_a_solution_without_an_answer_beside_it_cannot_contradict(self):
        for missing in (None, "", " "):
            line = OPEN_MATH | {"expected_answer": missing}
            assert converted(line).final_answer == OPEN_MATH["generated_solution"]

    @pytest.mark.parametrize(
        "beside",
        [{"solution": "another one"}, {"answer": "5.0"}, {"messages": [USER, ASSISTANT]}],
    )
    def test_what_a_more_specific_format_does_not_read_is_kept(self, beside):
        trace = converted(OPEN_MATH | beside)
        assert trace.final_answer == "5"
        assert trace.meta.items() >= beside.items()

    @pytest.mark.parametrize("name", ["expected_answer", "final_answer", "ground_truth"])
    def test_an_answer_of_another_name_is_read(self, name):
        line = {"problem": "q", "solution": "so \\boxed{5}", name: 5}
        trace = converted(line)
        assert (trace.final_answer, trace.meta) == ("5", {})
        assert f"but {name} is 6" in reason_of(line | {name: "6"}, "worked")
        generated = {"problem": "q", "generated_solution": "so \\boxed{5}", "answer": "6"}
        assert "but answer is 6" in reason_of(generated, "open_math")

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (WORKED | {"expected_answer": "6"}, "answer is '5', but expected_answer is '6'"),
            (OPEN_MATH | {"answer": "x"}, "expected_answer is '5', but answer is 'x'"),
            (
                {"prompt": "p", "answer": "2", "ground_truth": 3},
                "answer is '2', but ground_truth is '3'",
            ),
            (
                {"prompt": "p", "answer": "2", "reward_model": {"ground_truth": "3"}},
                "answer is '2', but reward_model.ground_truth is '3'",
            ),
            ({"question": "q", "answer": "so \\boxed{5}", "ground_truth": 6}, "ground_truth, 6"),
            ({"question": "q", "answer": "Add.\n#### 5", "final_answer": "6"}, "final_answer, 6"),
            ({"prompt": "p", "completion": "5", "answer": "6"}, "answer, 6"),
            ({"instruction": "i", "output": "so \\boxed{5}", "answer": "6"}, "answer, 6"),
            ({"instruction": "i", "response": "5", "expected_answer": 6}, "expected_answer, 6"),
            (CHAT | {"answer": "3"}, "answer, 3"),
            ({"conversations": TURNS, "ground_truth": "3"}, "ground_truth, 3"),
        ],
    )
    def test_two_answers_that_differ_are_refused_by_their_names(self, line, reason):
        assert f"{reason}; leave one of them out" in reason_of(line, recognise(line))

    def test_so_are_those_of_a_question_that_is_asked_for(self):
        line = {"question": "q", "answer": "x", "ground_truth": "y"}
        assert "but ground_truth is 'y'" in reason_of(line, "question_answer", "prompt")
        assert converted(line).final_answer == "x"  # no numbers

    def test_answers_that_are_the_same_number_do_not_differ(self):
        line = {"prompt": "p", "answer": "1/2", "reward_model": {"ground_truth": 0.5}}
        assert converted(line).final_answer == "1/2"

    def test_a_solution_beside_a_question_and_its_answer_is_learnt(self):
        line = {"question": "q", "solution": "3 + 2\nso \\boxed{5}", "answer": "5"}
        trace = converted(line)
        assert [step["content"] for step in trace.steps] == ["3 + 2", "so \\boxed{5}"]
        assert (trace.prompt, trace.final_answer, trace.meta) == ("q", "5", {})
        assert converted(line, "prompt").final_answer == "5"
        reason = reason_of(line | {"answer": "6"}, "worked_question")
        assert reason == "solution: its answer is 5 (in \\boxed), but answer is 6"
        assert "is a worked_question line" in reason_of(line, "question_answer")
        empty = converted(line | {"solution": ""})
        assert (empty.steps, empty.final_answer) == ([], "5")
        ignoring, _ = to_example(line, recognise(line, None, ["solution"]), ignored=["solution"])
        assert (ignoring.steps, ignoring.meta) == ([], {"solution": line["solution"]})

    @pytest.mark.parametrize(
        "verdict", [{"is_correct": False}, {"correctness_math_verify": [False]}, {"score": 1}]
    )
    def test_a_verdict_on_the_solution_is_not_left_out(self, verdict):
        with pytest.raises(LineError, match=next(iter(verdict))):
            converted(OPEN_MATH | verdict)

    def test_looking_for_boxes_takes_linear_time(self):
        said = run_within_cpu_seconds(
            30,
            r"""
import os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django.setup()
from datasets.formats.boxed import boxes
box = "\\boxed{"
for text in (box * 120_000, box + "{}" * 400_000, (box + "{") * 100_000, (box + "{}" * 50) * 9_000):
    print(len(boxes(text)))
print(len(boxes(box * 100_000 + "}" * 100_000)), len(boxes("\\" * 900_000)))
""",
        )
        assert said == "0\n" * 4 + "1 0\n"


PROMPTS = [
    ({"prompt": "1+1?"}, ""),
    ({"prompt": [USER], "answer": "2"}, "2"),
    ({"prompt": "1+1?", "ground_truth": 2, "data_source": "gsm8k"}, "2"),
    ({"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "2"}}, "2"),
    ({"prompt": [USER], "final_answer": "2"}, "2"),
]


@pytest.mark.parametrize(("line", "reference"), PROMPTS)
def test_prompts(line, reference):
    assert recognise(line) == "prompt"
    prompt = converted(line)
    assert (prompt.kind, prompt.final_answer) == ("prompt", reference)
    assert content_of(line) == {"messages": [USER]}


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "1+1?", "final_answer": "2"},
        {"question": "1+1?", "answer": "2"},
        {"question": "1+1?", "answer": "Add.\n#### 2"},
        {"problem": "1+1?", "solution": "Add.", "answer": "2"},
        {"problem": "1+1?", "generated_solution": "Add.", "expected_answer": "2"},
    ],
)
def test_prompts_that_are_asked_for(line):
    prompt = converted(line, kind="prompt")
    assert (prompt.kind, prompt.final_answer) == ("prompt", "2")
    assert content_of(line, kind="prompt") == {"messages": [USER]}


@pytest.mark.parametrize(
    ("solution", "reference"),
    [
        ("Add.", ""),
        ("so \\boxed{\\frac12}", "\\frac12"),
        ("so \\boxed{\\frac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{3}}{2}"),
        ("\\boxed{2}, I repeat: \\boxed{ 2}", "2"),
        ("either \\boxed{2} or \\boxed{3}", ""),
        ("<think>\\boxed{3}?</think>So \\boxed{2}", "2"),
        ("<think>\\boxed{3}?", ""),
    ],
)
@pytest.mark.parametrize("name", ["solution", "generated_solution"])
def test_a_worked_solution_is_no_reference_but_its_one_box_is(name, solution, reference):
    for nothing in ({}, {"answer": None}, {"expected_answer": " "}):
        line = {"problem": "1+1?", name: solution} | nothing
        assert converted(line, kind="prompt").final_answer == reference
        assert content_of(line, kind="prompt") == {"messages": [USER]}


def test_columns_that_a_reward_needs_are_kept_with_a_prompt():
    line = {"prompt": "1+1?", "answer": "2", "level": 3}
    assert converted(line).meta == {"level": 3}
    assert "answer: must be text or a number, not a list" in reason_of(
        {"prompt": "p", "answer": [1]}, "prompt"
    )


def test_plain_text_is_learnt_where_that_is_asked_for():
    line = {"text": "The quick brown fox."}
    with pytest.raises(LineError, match=r"is plain text .*ask for kind=text"):
        recognise(line)
    assert content_of(line, TEXT) == {
        "messages": [{"role": "assistant", "content": "The quick brown fox."}]
    }


def test_a_format_says_what_becomes_of_it():
    assert (
        reason_of(CHAT, "messages", "preference")
        == "is a messages line, which becomes a conversation, not a preference"
    )
    assert "becomes a trace or prompt, not a text" in reason_of(trace_body(), "trace", TEXT)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (trace_body(), "trace"),
        (
            {"id": "x", "messages": [USER, ASSISTANT], "final_answer": None, "split": "train"},
            "tunix_sft",
        ),
        ({"question": "q", "answer": "#### 1"}, "gsm8k"),
        ({"prompt": "p", "completion": "c"}, "prompt_completion"),
        ({"prompt": "p", "completion": "c", "final_answer": "x"}, "prompt_completion"),
    ],
)
def test_formats_are_recognised_by_their_keys(line, name):
    assert recognise(line) == name


@pytest.mark.parametrize(
    "line",
    [{}, {"answer": "x"}, {"Prompt": "p"}, {"question": "q"}, {"text": None}, {"Messages": []}],
)
def test_unknown_formats_are_refused_with_the_keys_found(line):
    with pytest.raises(
        LineError, match="is of no known format: its keys are " + (", ".join(line) or "none")
    ):
        recognise(line)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].keys])
def test_a_line_of_another_format_says_what_is_missing(name):
    assert (
        reason_of({"other": 1}, name, TEXT if name == "text" else None)
        == f"is no {name} line: {', '.join(sorted(FORMATS[name].keys))} is missing"
    )


# --- What would be left out without a word is refused by its name ---------------------------------

HAZARDS = [
    (CHAT | {"images": ["a.png"]}, "images, audio or video (images)"),
    (CHAT | {"rejected": "3"}, "preference data (rejected)"),
    ({"prompt": "p", "completion": "c", "rejected": "r"}, "preference data (rejected)"),
    (KTO | {"label": 2}, "verdict (label)"),
    (KTO | {"label": "bad"}, "verdict (label)"),
    ({"prompt": "1+1?", "completion": "3", "Label": False}, "verdict (Label)"),
    ({"prompt": "1+1?", "completion": "3", "is-correct": "no"}, "an example with a verdict"),
    ({"prompt": "1+1?", "completion": "3", "labels": [True, False]}, "an example with a verdict"),
    ({"prompt": "p", "completion": "c", "desirable": False}, "verdict (desirable)"),
    (CHAT | {"is_correct": False}, "an example with a verdict (is_correct)"),
    (CHAT | {"label": False}, "an example with a verdict (label)"),
    ({"question": "q", "answer": "#### 1", "label": False}, "an example with a verdict (label)"),
    (CHAT | {"kto_tag": False}, "an example with a verdict (kto_tag)"),
    ({"instruction": "i", "output": "o", "label": "bad"}, "an example with a verdict (label)"),
    ({"conversations": TURNS, "is_good": 0}, "an example with a verdict (is_good)"),
    ({"prompt": "1+1?", "completion": "3", "reward": 0.1}, "an example with a rating (reward)"),
    (CHAT | {"score": 0}, "an example with a rating (score)"),
    (CHAT | {"ratings": ["1", "5"]}, "an example with a rating (ratings)"),
    (CHAT | {"Tools": ["f"]}, "an example with tools (Tools)"),
    ({"prompt": "p", "completion": "c", "tools": "[{}]"}, "an example with tools (tools)"),
    ({"prompt": "p", "completion": "c", "system": "s"}, "a system prompt of its own (system)"),
    ({"prompt": "p", "completion": "c", "input": "more"}, "further input (input)"),
    ({"question": "q", "answer": "#### 1", "context": "c"}, "further input (context)"),
    ({"prompt": "p", "completion": "c", "reasoning": "r"}, "apart from the answer (reasoning)"),
    ({"prompt": "p", "completion": "c", "solution": "s"}, "apart from the answer (solution)"),
    ({"question": "q", "answer": "a\n#### 1", "solution": "s"}, "the answer (solution)"),
    ({"instruction": "i", "output": "o", "explanation": "e"}, "the answer (explanation)"),
    ({"question": "q", "answer": "#### 1", "explanation": "e"}, "the answer (explanation)"),
    ({"prompt": "p", "completion": "c", "image": "a.png"}, "images, audio or video (image)"),
    ({"prompt": "p", "completion": "c", "weight": 0.5}, "an example with a weight"),
    # by the words in their names
    (CHAT | {"rejected_response": "4"}, "preference data (rejected_response)"),
    (CHAT | {"negative_messages": [USER]}, "preference data (negative_messages)"),
    (
        {"prompt": "p", "completion": "c", "completion_b": "d", "winner": "completion"},
        "preference data (completion_b)",
    ),
    (
        CHAT | {"response_a": "x", "response_b": "y"},
        "preference data (response_a, response_b)",
    ),
    (CHAT | {"model_1": "x", "model_2": "y"}, "preference data (model_1, model_2)"),
    (CHAT | {"winner": "a"}, "preference data (winner)"),
    (CHAT | {"is_chosen": False}, "preference data (is_chosen)"),
    (CHAT | {"score_chosen": 8.5, "score_rejected": 2}, "(score_chosen, score_rejected)"),
    (CHAT | {"isCorrect": False}, "an example with a verdict (isCorrect)"),
    (CHAT | {"IS_SOLVED": False}, "an example with a verdict (IS_SOLVED)"),
    (
        CHAT | {"correctness_math_verify": [False]},
        "an example with a verdict (correctness_math_verify)",
    ),
    (CHAT | {"is_wrong": True}, "an example with a verdict (is_wrong)"),
    (CHAT | {"feedback": "negative"}, "an example with a verdict (feedback)"),
    (CHAT | {"vote": "down"}, "an example with a verdict (vote)"),
    (CHAT | {"label": "👎"}, "an example with a verdict (label)"),
    (CHAT | {"label": {"value": False}}, "an example with a verdict (label.value)"),
    (CHAT | {"annotations": {"label": False}}, "an example with a verdict (annotations.label)"),
    (CHAT | {"response_quality": "poor"}, "an example with a verdict (response_quality)"),
    (CHAT | {"helpfulness": 1}, "an example with a verdict (helpfulness)"),
    (CHAT | {"quality": "3/10"}, "an example with a verdict (quality)"),
    (CHAT | {"metadata": {"rating": 1}}, "an example with a rating (metadata.rating)"),
    ({"prompt": "p", "completion": "c", "bad_completion": "x"}, "(bad_completion)"),
    (CHAT | {"annotations": [{"rating": 1}]}, "an example with a rating (annotations.rating)"),
    (CHAT | {"info": [{"label": False}]}, "an example with a verdict (info.label)"),
    (CHAT | {"ISCORRECT": False}, "an example with a verdict (ISCORRECT)"),
    (CHAT | {"ok": False}, "an example with a verdict (ok)"),
    (CHAT | {"thumbsdown": 1}, "an example with a verdict (thumbsdown)"),
    (CHAT | {"label": "not good at all"}, "an example with a verdict (label)"),
    (CHAT | {"user_feedback": "dissatisfied"}, "an example with a verdict (user_feedback)"),
    (CHAT | {"approved": False}, "an example with a verdict (approved)"),
    (CHAT | {"status": "rejected"}, "an example with a verdict (status)"),
    (CHAT | {"exclude": True}, "an example with a verdict (exclude)"),
    (CHAT | {"moderation": {"flagged": True}}, "an example with a verdict (moderation.flagged)"),
    (CHAT | {"👎": 1}, "an example with a verdict (👎)"),
    (CHAT | {"grade": "F"}, "an example with a rating (grade)"),
    ({"question": "q", "answer": "#### 1", "choices": ["x", "y"]}, "further input (choices)"),
    (CHAT | {"instruction": "Translate."}, "further input (instruction)"),
    (CHAT | {"train": False}, "an example with a verdict (train)"),
    (CHAT | {"overall_score": 1}, "an example with a rating (overall_score)"),
    (CHAT | {"gpt4_score": "2"}, "an example with a rating (gpt4_score)"),
    (CHAT | {"stars": 1}, "an example with a rating (stars)"),
    (CHAT | {"loss_weight": 0.0}, "an example with a weight (loss_weight)"),
    (CHAT | {"mask": True}, "an example with a weight (mask)"),
]


@pytest.mark.parametrize(("line", "name"), HAZARDS)
def test_what_would_be_left_out_is_refused_by_name(line, name):
    with pytest.raises(LineError) as caught:
        recognise(line)
    reason = str(caught.value)
    assert name in reason
    assert "which would be left out: " in reason
    assert len(reason) <= 300


@pytest.mark.parametrize(("line", "name"), HAZARDS)
def test_who_knows_that_a_field_says_nothing_names_it(line, name):
    fields = [field for field in line if field not in FORMATS[_plain_format(line)].fields]
    example, _ = to_example(line, _plain_format(line), ignored=fields)
    assert set(fields) <= example.meta.keys()


def _plain_format(line):
    names = ("messages", "prompt_completion", "alpaca", "sharegpt", "gsm8k")
    return next(name for name in names if FORMATS[name].keys <= line.keys())


@pytest.mark.parametrize(
    "beside",
    [
        {"source": "x", "difficulty": 3, "language": "en", "is_multi_turn": True, "turns": 2},
        {"label": "algebra", "feedback": "The second step is short.", "quality": None},
        {"conversation_id": "x", "model": "m", "model_name": "m", "response_time": 1},
        {"constraint": "x", "translation": "x", "trainer": "x", "result": 5, "status": "new"},
        {"label": "the correct use of commas in a long sentence", "steps_used": 3},
    ],
)
def test_fields_that_say_nothing_about_the_answer_are_kept(beside):
    assert converted(CHAT | beside).meta == beside


@pytest.mark.parametrize("format_name", ["messages", "prompt_completion", "trace", "gsm8k"])
def test_nor_is_it_imported_as_another_format_that_is_named(format_name):
    for line, name in HAZARDS:
        assert name in reason_of(line, format_name)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (CHAT | {"final_answer": "2"}, "both a trace and a chat"),
        (trace_body(messages=[USER, ASSISTANT]), "both a trace and a chat"),
    ],
)
def test_what_is_not_imported_as_it_is(line, name):
    with pytest.raises(LineError, match=rf"is {name} .*which is not imported as it is: "):
        recognise(line)


def test_a_line_of_a_more_specific_format_is_not_taken_for_the_one_that_is_named():
    line = {"id": "x", "messages": [USER, ASSISTANT], "final_answer": None, "split": "train"}
    assert reason_of(line, "messages") == "is a tunix_sft line, not a messages line"
    assert (
        reason_of(line | {"colour": 1}, "tunix_sft")
        == "colour: an export of this system has no such field"
    )
    assert (
        reason_of({"question": "q", "answer": "#### 1"}, "question_answer")
        == "is a gsm8k line, not a question_answer line"
    )
    assert reason_of(PAIR | {"completion": "2"}, "prompt_completion") == (
        "is a preference line, not a prompt_completion line"
    )


@pytest.mark.parametrize("empty", [None, [], "", {}, "[]"])
def test_empty_fields_of_a_table_change_nothing(empty):
    line = CHAT | {"tools": empty, "system": None, "images": empty, "chosen": None}
    assert recognise(line) == "messages"
    assert content_of(line) == CHAT


def test_a_document_around_the_examples_is_named():
    with pytest.raises(
        LineError,
        match="its keys are data, version; if the examples stand in 'data', write them one a line",
    ):
        recognise({"data": [{"prompt": "p", "completion": "c"}], "version": 1})


def test_reasons_do_not_grow_with_the_line():
    with pytest.raises(LineError) as caught:
        recognise({f"{number} {'x' * 1_000}": [{}] for number in range(100)})
    assert len(str(caught.value)) <= 300


def test_our_traces():
    trace = converted(trace_body(4))
    assert (trace.prompt, trace.final_answer, trace.meta) == ("4+1=?", "5", {"number": 4})
    assert reason_of(trace_body(4, note=1), "trace") == "note: Unknown field"


def test_prompt_and_completion():
    trace = converted({"prompt": "35+82=?", "completion": " 117"})
    assert (trace.prompt, trace.steps, trace.final_answer, trace.meta) == (
        "35+82=?",
        [],
        " 117",
        {},
    )


@pytest.mark.parametrize("field", ["prompt", "completion"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1, "must be text, not a number"),
        ("", "must not be blank"),
        ("\u200b", "must not be blank"),
        (None, "null"),
    ],
)
def test_prompts_and_completions_that_are_refused(field, value, reason):
    assert reason in reason_of(
        {"prompt": "p", "completion": "c"} | {field: value}, "prompt_completion"
    )


def test_gsm8k():
    line = {
        "question": "How many clips?",
        "answer": (
            "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n\n She sold 1,000 more.\n#### 1,024"
        ),
    }
    trace = converted(line)
    assert trace.prompt == "How many clips?"
    assert trace.steps == [
        {"i": 0, "type": "reasoning", "content": "Natalia sold 48/2 = 24 clips in May."},
        {"i": 1, "type": "reasoning", "content": "She sold 1,000 more."},
    ]
    assert trace.final_answer == "1024"
    assert (
        json.loads(training_line("x", trace, "train"))["messages"][-1]["content"]
        == "Natalia sold 48/2 = 24 clips in May.\nShe sold 1,000 more.\n1024"
    )


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("#### 5", "5"),
        ("a\n####5", "5"),
        ("a\r\n#### 5\r\n", "5"),
        ("a\n#### -1,234,567", "-1234567"),
        ("a\n#### 1,5", "1,5"),
        ("a\n#### $1,000.50", "$1000.50"),
        ("a\n#### yes, 3", "yes, 3"),
    ],
)
def test_final_answers_of_gsm8k(answer, final):
    assert converted({"question": "q", "answer": answer}).final_answer == final


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("24", "answer: has no line `#### <final answer>`"),
        ("a\n#### ", "answer: nothing follows `####`"),
        ("a #### 5", "answer: `####` must stand at the start of a line"),
        ("a\n#### 5\nmore", "must be the last one"),
        ("a\n#### 5\n#### 6", "must be the last one"),
        (5, "answer: must be text, not a number"),
    ],
)
def test_answers_of_gsm8k_that_are_refused(answer, reason):
    assert reason in reason_of({"question": "q", "answer": answer}, "gsm8k")


@pytest.mark.parametrize(
    "line",
    [
        trace_body(4),
        trace_body(
            4,
            steps=[
                {"i": 0, "type": "t", "content": "one\n\nstep"},
                {"i": 5, "type": "t", "content": "two"},
            ],
        ),
        trace_body(4, steps=[]),
        {"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]},
        {"question": "q", "answer": "a\nb\n#### 3"},
        {"prompt": "p", "completion": "several\nlines\n"},
    ],
)
def test_our_own_export_comes_back_as_it_was(line):
    exported = training_line("x", converted(line), "held_out")
    again, split = to_example(json.loads(exported), "tunix_sft")
    assert split == "held_out"
    assert training_line("x", again, "held_out") == exported


@pytest.mark.parametrize(
    ("final_answer", "reason"),
    [("3", "is not the end of"), (2, "must be text or null"), ("", "blank")],
)
def test_exports_that_do_not_fit_together(final_answer, reason):
    messages = [USER, {"role": "assistant", "content": "one\n2" if final_answer != "" else "one\n"}]
    line = {"id": "x", "messages": messages, "final_answer": final_answer, "split": "train"}
    assert reason in reason_of(line, "tunix_sft")


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_lines_may_name_their_part(split):
    for line in (trace_body(), {"messages": [USER, ASSISTANT]}, {"prompt": "p", "completion": "c"}):
        trace, named = to_example(line | {"split": split}, recognise(line))
        assert named == split
        assert "split" not in trace.meta


@pytest.mark.parametrize("split", ["test", "", None, 1, ["train"], {}])
def test_other_parts_are_refused(split):
    assert 'split: must be "train" or "held_out"' in reason_of(
        trace_body() | {"split": split}, "trace"
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "is not JSON: "),
        (b"{'a': 1}", "is not JSON: "),
        (b'{"a": 1,}', "is not JSON: "),
        (
            b'{"\xc3\xa9\xf0\x9f\x98\x80": NaN}',
            "is not JSON: NaN and Infinity are no JSON numbers (character 8)",
        ),
        (b'{"a": NaN}', "is not JSON: NaN and Infinity are no JSON numbers (character 7)"),
        (b'{"a": -Infinity}', "is not JSON: NaN and Infinity are no JSON numbers (character 8)"),
        (b'{"a": 1e999}', "holds a number too large for any reader (character 7)"),
        (b'{"a": "\\ud800"}', "holds half a character, a lone surrogate"),
        (b'{"a": "\\udc00\\ud800"}', "holds half a character, a lone surrogate"),
        (b'{"a": "\xff"}', "is not valid UTF-8 at byte 8 of the line"),
        (b'{"a": "\xed\xa0\x80"}', "is not valid UTF-8 at byte 8 of the line"),
        (b'{"a": "\x01"}', "is not JSON: "),
        (b"[1]", "is a list, not an object; write one object a line, without a list around them"),
        (b'"text"', "is text, not an object"),
        (b"null", "is null, not an object"),
        (b"1", "is a number, not an object"),
        (b"true", "is true or false, not an object"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b'{"m": [{"b": 1, "b": 1}]}', "has the key 'b' twice"),
        (b'{"a": 1}{"a": 2}', "is not JSON: "),
        (b"\xef\xbb\xbf{}", "is not JSON: "),
        (b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "is nested too deeply"),
        (b'{"a": ' + b"[" * 1_100 + b"]" * 1_100 + b"}", "is nested too deeply"),
    ],
)
def test_lines_that_are_no_objects(raw, reason):
    with pytest.raises(LineError) as caught:
        parse_line(raw)
    assert reason in str(caught.value)


def test_a_line_that_is_an_object():
    assert parse_line(b'\t{"a": ["\xc3\xa9", "\\u00e9", 1.5, null]} ') == {
        "a": ["é", "é", 1.5, None]
    }


def test_a_line_nested_as_deep_as_parsers_go_is_refused_all_the_same():
    raw = b'{"prompt": "p", "completion": "c", "a": ' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    with pytest.raises(LineError, match="nested"):
        to_example(parse_line(raw), "prompt_completion")


def test_a_line_of_many_keys_takes_linear_time_and_a_long_key_is_not_repeated_whole():
    reasons = run_within_cpu_seconds(
        30,
        """
import json, os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django.setup()
from datasets.formats.lines import LineError, parse_line
many = ",".join(f'"{number}": 1' for number in range(300_000))
for line in ('{%s, "299999": 2}' % many, '{"%s": 1, "%s": 2}' % ("k" * 900_000, "k" * 900_000)):
    try:
        parse_line(line.encode())
    except LineError as error:
        print(error)
""",
    )

    first, second = reasons.splitlines()
    assert first == "has the key '299999' twice"
    assert len(second) == REASON_MAX_CHARACTERS and second.endswith(" …")


def test_fields_beside_an_example_take_linear_time():
    reasons = run_within_cpu_seconds(
        30,
        """
import os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django.setup()
from datasets.formats.hazards import hazard_of
for beside in (
    {f"score_{number}": 1 for number in range(300_000)},
    {"a": [{f"score_{number}": 1 for number in range(300_000)}] * 20},
    {"label": "1" + " " * 4_000_000 + "x"},
    {"label": "bad " * 1_000_000},
    {"x" * 4_000_000: 1},
    {f"score_{number}": 1 for number in range(900)},
):
    print(hazard_of(beside, frozenset()))
""",
    )

    many, nested, number, remark, name, some = reasons.splitlines()
    assert many == nested == "has more than 1,000 fields beside the example; leave them out"
    assert number == remark == name == "None"
    assert some.startswith("is an example with a rating (score_0, score_1, ")


@pytest.mark.parametrize(
    "beside", [{"label": "algebra"}, {"label": None}, {"chosen": None, "rejected": None}]
)
def test_a_topic_or_an_empty_field_beside_an_example_is_no_judgement(beside):
    line = {"prompt": "1+1?", "completion": "2"} | beside
    assert converted(line).final_answer == "2"
