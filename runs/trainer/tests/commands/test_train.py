"""A training from its manifest to its result."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from runs.spec.kinds import SFT
from runs.trainer.tests.conversations import calls, conversation, load, result, says, user
from runs.trainer.tests.helpers import Run, arithmetic, conversation_line, line, write_llama
from runs.trainer.tests.templates import QWEN

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"properties": {"a": {}, "b": {}}}},
}


def test_a_training_learns_and_writes_everything_down(make_run, capsys):
    run = make_run(
        num_epochs=6, checkpoint_every_steps=10, keep_last_checkpoints=2, keep_best_checkpoints=1
    )

    assert run.train() == 0

    first, *lines = run.metrics()
    assert first["plan"]["total_steps"] == 30
    assert first["plan"]["steps_per_epoch"] == 5
    assert (first["plan"]["examples"], first["plan"]["held_out"]) == (40, 8)
    steps = [entry for entry in lines if "loss" in entry["values"]]
    assert [entry["step"] for entry in steps] == list(range(1, 31))
    assert steps[-1]["epoch"] == 6.0
    assert set(steps[0]["values"]) == {
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "memory_bytes",
    }
    assert all(isinstance(entry["time"], float) for entry in lines)
    held_out = [entry["values"] for entry in lines if "eval_loss" in entry["values"]]
    assert len(held_out) == 7  # before, and after each epoch
    assert held_out[0]["eval_perplexity"] == pytest.approx(np.exp(held_out[0]["eval_loss"]))

    measured = {name for entry in lines for name in entry["values"]}
    assert measured == set(SFT.metrics) - {"exact_match"}  # by default the tests decode nothing

    result = run.result()
    assert set(SFT.results) <= set(result)
    assert result["loss_last"] < 0.6 * result["loss_first"]
    assert result["eval_loss_after"] < 0.6 * result["eval_loss_before"]
    assert result["steps"] == 30
    assert result["tokens"] == 6 * first["plan"]["tokens"] == steps[-1]["values"]["tokens"]
    assert result["resumed_from_step"] is None
    assert (run.folder / result["checkpoint"]).is_dir()
    assert (run.folder / result["model"] / "model.safetensors").is_file()
    assert run.checkpoints() == [25, 30]  # the last two; the best is the last

    seen = json.loads((run.folder / "seen.json").read_text())["examples"]
    assert len(seen) == 3
    with open(run.folder / "dataset.jsonl") as file:
        question, answer = (
            message["content"] for message in json.loads(file.readline())["messages"]
        )
    border = seen[0]["learnt_from"]
    assert "".join(seen[0]["tokens"][:border]) == f"<|user|>{question}<|end|>\n<|assistant|>"
    assert "".join(seen[0]["tokens"][border:]) == f"{answer}<|end|>\n"
    [[start, end]] = seen[0]["learnt"]
    assert start == border
    # nothing but the answer and its end
    assert "".join(seen[0]["tokens"][start:end]) == f"{answer}<|end|>"
    assert seen[0]["length"] == len(seen[0]["tokens"])

    out = capsys.readouterr().out
    assert "step 30/30 epoch 6.00 loss " in out
    assert "Held-out loss" in out


def test_exact_match_before_and_after(make_run):
    examples = [
        line(f"x{i}", f"question {i}", "it is\n42", final_answer="42", held_out=i >= 40)
        for i in range(48)
    ]
    run = make_run(
        examples=examples,
        num_epochs=6,
        learning_rate=2e-2,
        exact_match_examples=6,
        exact_match_max_tokens=16,
    )

    assert run.train() == 0

    result = run.result()
    assert result["exact_match_before"] == 0.0
    assert result["exact_match_after"] == 1.0
    assert len(result["samples"]) == 5
    assert result["samples"][0] == {
        "prompt": "question 40",
        "expected": "it is\n42",
        "before": result["samples"][0]["before"],
        "after": "it is\n42",
    }
    assert [
        entry["values"]["exact_match"]
        for entry in run.metrics()
        if "exact_match" in entry.get("values", {})
    ] == [0.0, 1.0]


def test_lora_trains_nothing_but_its_matrices(make_run, llama):
    run = make_run(lora_rank=4, num_epochs=4, learning_rate=2e-2, export_merged=True)

    assert run.train() == 0

    assert run.result()["loss_last"] < run.result()["loss_first"]
    adapter = load_file(next((run.folder / "model").rglob("adapter_model.safetensors")))
    assert {name.rsplit(".", 2)[-2] for name in adapter} == {"lora_A", "lora_B"}
    base = load_file(llama / "model.safetensors")
    merged = load_file(next((run.folder / "model").rglob("model.safetensors")))
    changed = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert changed == {name for name in base if "_proj" in name}


def test_a_run_without_held_out_part_has_nulls_in_its_result(make_run):
    run = make_run(examples=arithmetic(16), num_epochs=1)

    assert run.train() == 0

    result = run.result()
    assert result["eval_loss_before"] is result["eval_loss_after"] is None
    assert result["exact_match_before"] is result["exact_match_after"] is None
    assert result["samples"] == []


def test_max_steps_ends_a_training_early(make_run):
    run = make_run(num_epochs=100, max_steps=3)

    assert run.train() == 0

    assert run.result()["steps"] == 3
    assert run.checkpoints() == [3]


def test_metrics_every_few_steps(make_run, trained):
    some = make_run(num_epochs=1, log_every_steps=2)
    assert some.train() == 0

    assert list(some.losses()) == [2, 4, 5]
    assert some.metrics()[-2]["values"]["tokens"] == trained.metrics()[-2]["values"]["tokens"]


def test_not_a_number_names_the_step_and_the_examples(make_run, tmp_path, capsys):
    write_llama(tmp_path / "loud", overflow=True)
    run = make_run(model=tmp_path / "loud", examples=arithmetic(16))

    assert run.train() == 14

    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(
        "tunix: nan: the loss is nan at step 1, whose batch holds the examples sum-"
    )
    assert "learning_rate" not in last, "nothing has been learnt yet"
    assert run.checkpoints() == []
    assert not (run.folder / "model").exists()
    assert not (run.folder / "result.json").exists()
    assert run.metrics()[-1]["values"]["loss"] == "NaN"
    assert "NaN" not in (run.folder / "metrics.jsonl").read_text().replace('"NaN"', "")


def test_the_same_training_twice_gives_the_same_numbers(make_run, trained):
    again = make_run(num_epochs=1)
    assert again.train() == 0
    assert again.losses() == trained.losses()


def test_another_seed_gives_another_order(make_run, trained):
    other = make_run(num_epochs=1, seed=7)
    assert other.train() == 0
    assert other.losses()[1] != trained.losses()[1]


def test_a_batch_larger_than_the_dataset_is_said(make_run, capsys):
    run = make_run(examples=arithmetic(5), batch_size=64, num_epochs=2)

    assert run.train() == 0

    assert run.result()["steps"] == 2
    assert (
        "The batch (64 rows) is larger than the training part (5 rows)" in capsys.readouterr().out
    )


def test_foundis_strict_json(trained):
    def refuse(name):
        raise AssertionError(name)

    json.loads((trained.folder / "result.json").read_text(), parse_constant=refuse)


def test_a_training_on_conversations_with_tools(tmp_path):
    """Calls, results and answers, some with reasoning: the loss falls, and the last answers of the
    held-out ones are asked for after their tools' results."""
    model = tmp_path / "model"
    write_llama(model, vocab_size=288)
    tokenizer = load(model, QWEN)
    examples = []
    for number in range(24):
        total = str(number + 7)
        asks = calls("add", a=number, b=7)
        if number % 3 == 0:
            asks["reasoning"] = "a sum"
        messages = [user(f"{number}+7?"), asks, result(total), says(total), user("Thanks.")]
        held = {"split": "held_out"} if number >= 20 else {}
        examples.append(conversation_line(*messages, tools=[ADD], final_answer=total, **held))
    run = Run.write(
        tmp_path / "run",
        examples=examples,
        model=model,
        training={
            "num_epochs": 8,
            "learning_rate": 1e-2,
            "max_seq_length": 384,
            "packing": True,
            "exact_match_examples": 2,
            "exact_match_max_tokens": 4,
        },
    )

    assert run.train() == 0

    found = run.result()
    assert found["loss_last"] < 0.7 * found["loss_first"]
    assert found["eval_loss_after"] < 0.7 * found["eval_loss_before"]
    assert found["exact_match_after"] >= 0
    assert [sample["prompt"] for sample in found["samples"]] == ["27", "28"]
    assert [sample["expected"] for sample in found["samples"]] == ["27", "28"]
    first = json.loads((run.folder / "seen.json").read_text())["examples"][0]
    learnt = ["".join(first["tokens"][start:end]) for start, end in first["learnt"]]
    assert learnt == [
        '<think>\na sum\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 0, "b": 7}}\n'
        "</tool_call><|end|>",
        "7<|end|>",
    ]
    plan = run.metrics()[0]["plan"]
    rows = tokenizer.encode([conversation(*e["messages"], tools=[ADD]) for e in examples[:20]])
    answers = sum(end - start for [row] in rows for start, end in row.learnt)
    assert (plan["examples"], plan["held_out"], plan["answer_tokens"]) == (20, 4, answers)
