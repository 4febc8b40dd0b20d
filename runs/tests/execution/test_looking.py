"""Examples as the model will see them, in a process with limits: masks token by token, and what
other people's templates may do."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from datasets.examples.kinds import parse_example, training_line
from runs.execution import looking
from runs.execution.lengths import in_classes
from runs.execution.looking import CannotLook, TooManyLooks, count_lengths, view_example
from runs.tests.tokenizer_folder import make_tokenizer_folder
from runs.trainer.tests.templates import QWEN, SMOLLM2, TOOL

HOW = {"prompt_style": "conversation", "max_seq_length": 2048}
TRACE = {"prompt": "Say <|end|>", "steps": [], "final_answer": "Fine </think>"}


def line(example: dict[str, Any], kind: str | None = None) -> bytes:
    return training_line("an-id", parse_example(example, kind), "train")


@pytest.fixture(autouse=True)
def _places_of_its_own(settings: LazySettings, tmp_path: Path) -> None:
    """Other tests take the places of this host."""
    settings.TUNIXRT_VAR_DIR = tmp_path
    settings.TUNIX_MODEL_ROOTS = [tmp_path]


@pytest.fixture
def smollm2(tmp_path: Path) -> str:
    return str(make_tokenizer_folder(tmp_path / "smollm2", SMOLLM2))


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    return str(make_tokenizer_folder(tmp_path / "qwen", QWEN))


def look(model_id: str, example: bytes, **how: Any) -> dict[str, Any]:
    return view_example(model_id=model_id, line=example, **{"too_long": "drop"} | HOW | how)


def marked(tokens: list[dict[str, Any]]) -> str:
    """The text of tokens: «…» is learnt, and a control token is between ⟨ and ⟩."""
    text, learnt = "", False
    for token in tokens:
        if token["learnt"] != learnt:
            text += "«" if token["learnt"] else "»"
            learnt = token["learnt"]
        text += f"⟨{token['text']}⟩" if token["control"] else token["text"]
    return text + ("»" if learnt else "")


# --- masks ----------------------------------------------------------------------------------------


def test_a_trace_as_smollm2_sees_it(smollm2: str) -> None:
    """Names of control tokens in texts are text."""
    seen = look(smollm2, line(TRACE))
    assert [marked(block["tokens"]) for block in seen["blocks"]] == [
        "⟨<|turn|>⟩system\nYou are helpful.⟨<|end|>⟩\n⟨<|turn|>⟩user\nSay <|end|>⟨<|end|>⟩\n"
        "⟨<|turn|>⟩assistant\n«Fine ⟨</think>⟩⟨<|end|>⟩»\n"
    ]
    assert seen["problems"] == [] and "read as text" in seen["notes"][0]


def test_a_conversation_with_tools_as_qwen_sees_it(qwen: str) -> None:
    """Calls are learnt; tools, their results, and answers of weight 0 are not."""
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
    seen = look(
        qwen,
        line(
            {
                "tools": [TOOL],
                "messages": [
                    {"role": "user", "content": "Rain?"},
                    {"role": "assistant", "content": "", "reasoning": "ask", "tool_calls": [call]},
                    {"role": "tool", "content": "wet <|end|>"},
                    {"role": "assistant", "content": "Hm.", "weight": 0},
                    {"role": "assistant", "content": "Yes."},
                ],
            }
        ),
    )
    assert [marked(block["tokens"]) for block in seen["blocks"]] == [
        f"⟨<|turn|>⟩system\nTools:\n{json.dumps(TOOL)}⟨<|end|>⟩\n"
        "⟨<|turn|>⟩user\nRain?⟨<|end|>⟩\n"
        "⟨<|turn|>⟩assistant\n«⟨<think>⟩\nask\n⟨</think>⟩\n\n⟨<tool_call>⟩\n"
        '{"name": "weather", "arguments": {"city": "Köln"}}\n⟨</tool_call>⟩⟨<|end|>⟩»\n'
        "⟨<|turn|>⟩user\n<tool_response>\nwet <|end|>\n</tool_response>⟨<|end|>⟩\n"
        "⟨<|turn|>⟩assistant\nHm.⟨<|end|>⟩\n⟨<|turn|>⟩assistant\n«Yes.⟨<|end|>⟩»\n"
    ]


def test_a_pair_and_a_prompt(qwen: str) -> None:
    pair = look(qwen, line({"prompt": "2+2?", "chosen": "4", "rejected": "5"}))
    assert {block["side"]: marked(block["tokens"]) for block in pair["blocks"]} == {
        "prompt": "⟨<|turn|>⟩user\n2+2?⟨<|end|>⟩\n⟨<|turn|>⟩assistant\n",
        "chosen": "«4⟨<|end|>⟩»\n",
        "rejected": "«5⟨<|end|>⟩»\n",
    }
    prompt = look(qwen, line({"prompt": "2+2?", "final_answer": "4"}, kind="prompt"))
    assert [marked(block["tokens"]) for block in prompt["blocks"]] == [
        "⟨<|turn|>⟩user\n2+2?⟨<|end|>⟩\n⟨<|turn|>⟩assistant\n"
    ]


def test_a_preset_reads_bytes() -> None:
    seen = look("preset:tiny-llama", line(TRACE))
    assert marked(seen["blocks"][0]["tokens"]) == ("⟨<begin>⟩Say <|end|>\n«Fine </think>⟨<end>⟩»")


def test_what_lies_beyond_the_longest_sequence(qwen: str) -> None:
    example = line(TRACE | {"prompt": "q" * 100, "final_answer": "a" * 100})
    for too_long, kept in (("drop", 0), ("truncate", 150)):
        seen = look(qwen, example, max_seq_length=150, too_long=too_long)
        (row,) = seen["rows"]
        assert row["kept"] == sum(token["kept"] for token in seen["blocks"][0]["tokens"]) == kept
        assert row["learnt"] == 101 and row["kept_learnt"] < 101


# --- templates of other people --------------------------------------------------------------------

REFUSED = {
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}": "no loader",
    "{{ messages.__class__.__mro__ }}": "unsafe",
    "{{ messages.append(1) }}": "unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{{ raise_exception('never') }}": "never",
    "{{ 1 // 0 }}": "division",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "recursion",
    "{% for a in range(99999) %}{{ 'a' * 100000 }}{% endfor %}": "writes more than",
    "{% for a in range(10 ** 10) %}{% endfor %}": "Range too big",
    "{% for %}": "damaged",
    "{{ messages[0].content }}": "leaves",
    "nothing": "leaves",
    "{{ 'a' * 10 ** 11 }}": "MiB of memory",
}


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_does_what_it_must_not_is_refused_in_words(
    tmp_path: Path, template: str
) -> None:
    folder = make_tokenizer_folder(tmp_path / "bad", template)
    with pytest.raises(CannotLook) as refused:
        look(str(folder), line(TRACE))
    assert REFUSED[template] in str(refused.value)
    assert len(str(refused.value)) < 1000


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_loops_for_ever_is_ended_by_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "CPU_SECONDS", 1)
    folder = make_tokenizer_folder(tmp_path / "endless", ENDLESS)
    for do in (lambda: look(str(folder), line(TRACE)), lambda: lengths(str(folder), [line(TRACE)])):
        with pytest.raises(CannotLook, match="did not finish within 1 seconds"):
            do()


def test_the_process_that_renders_ends_by_itself_where_its_parent_has_gone(tmp_path: Path) -> None:
    """The limits are its own, so that no process is left after a web worker was killed."""
    folder = make_tokenizer_folder(tmp_path / "endless", ENDLESS)
    task = {"do": "view", "folder": str(folder), "prompt_style": "conversation"}
    process = subprocess.run(
        [sys.executable, "-I", str(looking.LOOK), "1", "600", str(looking.MEMORY_BYTES)],
        input=json.dumps(task).encode() + b"\n" + line(TRACE),
        capture_output=True,
    )
    assert process.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    qwen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "OUTPUT_BYTES", 1000)
    with pytest.raises(CannotLook, match="more than 1,000 bytes"):
        look(qwen, line(TRACE))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer.json", "not JSON", "not valid JSON"),
        ("tokenizer_config.json", '{"eos_token": 3}', "eos_token"),
        ("tokenizer_config.json", "[]", "JSON object"),
        ("tokenizer_config.json", "{}", "neither a chat template nor an end token"),
    ],
)
def test_a_damaged_tokenizer_is_named(qwen: str, name: str, content: str, reason: str) -> None:
    if reason.startswith("neither"):
        (Path(qwen) / "chat_template.jinja").unlink()
    (Path(qwen) / name).write_text(content)
    with pytest.raises(CannotLook) as refused:
        look(qwen, line(TRACE))
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(qwen: str, name: str) -> None:
    (Path(qwen) / name).unlink()
    os.mkfifo(Path(qwen) / name)
    with pytest.raises(CannotLook, match="not a regular file"):
        look(qwen, line(TRACE))


@pytest.mark.parametrize(
    ("model_id", "reason"),
    [
        ("preset:none", "no preset"),
        ("/etc", "TUNIX_MODEL_ROOTS"),
        ("../qwen", "preset:<name>"),
        ("google/gemma-2b-it", "nothing is fetched"),
        ("", "1 to 256 characters"),
        ("a\x00b", "control characters"),
    ],
)
def test_models_whose_tokenizer_is_not_here(model_id: str, reason: str) -> None:
    with pytest.raises(CannotLook) as refused:
        look(model_id, line(TRACE))
    assert reason in refused.value.messages["model_id"][0]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CannotLook, match="no model folder"):
        look(str(tmp_path / "gone"), line(TRACE))


# --- how many at a time ---------------------------------------------------------------------------


def test_no_more_render_at_a_time_than_said(
    qwen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "WAIT_SECONDS", 0)
    look(qwen, line(TRACE))  # makes the places
    files = [os.open(path, os.O_RDWR) for path in sorted((tmp_path / "look").iterdir())]
    assert len(files) == looking.AT_ONCE
    for file in files:
        fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(TooManyLooks):
        look(qwen, line(TRACE))
    os.close(files.pop())
    assert look(qwen, line(TRACE))["blocks"]
    os.close(files.pop())


def test_a_place_is_free_again_after_every_end(
    qwen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "AT_ONCE", 1)
    monkeypatch.setattr(looking, "WAIT_SECONDS", 0)
    bad = str(make_tokenizer_folder(tmp_path / "bad", "{{ 1 // 0 }}"))
    for _ in range(2):
        with pytest.raises(CannotLook):
            look(bad, line(TRACE))
        assert look(qwen, line(TRACE))["blocks"]


def test_nothing_of_the_server_reaches_the_process(
    qwen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    popen = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> Any:
        given.update(options)
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    monkeypatch.setenv("SECRET_KEY", "a secret")
    look(qwen, line(TRACE))
    assert given["env"] == looking.ENVIRONMENT and len(given["pass_fds"]) == 1


def test_the_web_process_never_loads_what_renders() -> None:
    """Neither at its start nor for a page: only the process with limits has the libraries."""
    code = (
        "import sys, django; django.setup(); import tunixrt.urls\n"
        "print(sorted({'tokenizers', 'jinja2', 'transformers'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tunixrt.settings"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout == "[]\n", process.stderr


# --- lengths --------------------------------------------------------------------------------------


def lengths(model_id: str, lines: list[bytes], **how: Any) -> dict[str, Any]:
    return count_lengths(model_id=model_id, lines=lines, **HOW | how)


def test_lengths_of_many_examples(smollm2: str) -> None:
    lines = [line(TRACE | {"prompt": "q" * length}) for length in (1, 10, 200)]
    single = [look(smollm2, one)["rows"][0]["tokens"] for one in lines]
    counted = lengths(smollm2, lines, max_seq_length=200)
    assert (counted["examples"], counted["longest"]) == (3, max(single))
    assert (counted["tokens"], counted["longer"]) == (sum(single), 1)


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        ([], []),
        ([(0, 2), (32, 1)], [[0, 15, 2], [16, 31, 0], [32, 47, 1]]),
        ([(16 * 23, 1)], [[place * 16, place * 16 + 15, place == 23] for place in range(24)]),
        ([(0, 1), (16 * 24, 1)], [[p * 32, p * 32 + 31, p in (0, 12)] for p in range(13)]),
    ],
)
def test_classes_of_lengths(given: list[tuple[int, int]], classes: list[list[int]]) -> None:
    assert in_classes(given, 16) == classes
