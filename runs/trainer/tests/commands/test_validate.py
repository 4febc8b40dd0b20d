"""What ``tunix validate`` says, against what the training then does."""

import json
import shutil

import pytest

from runs.trainer.commands import validate
from runs.trainer.launch import main
from runs.trainer.loop.memory import memory_estimate
from runs.trainer.tests.helpers import arithmetic, line, write_llama
from runs.trainer.tests.learnt_exactly import CASES, TEMPLATES


def report(run, capsys, *arguments):
    assert main(["validate", "--config", str(run.config), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_report_holds_what_the_training_does(make_run, capsys):
    long = [line(f"long-{i}", "q" * 200, "a") for i in range(3)]
    run = make_run(
        examples=[*arithmetic(40), *long, *arithmetic(8, held_out=8)], num_epochs=2, lora_rank=4
    )

    found = report(run, capsys)
    assert run.train() == 0

    plan = run.metrics()[0]["plan"]
    planned = plan.keys() - {"resumed_from_step", "extended_from_step"}
    assert {name: found[name] for name in planned} == {name: plan[name] for name in planned}
    assert (found["examples"], found["held_out"], found["dropped"], found["total_steps"]) == (
        43,
        8,
        3,
        10,
    )
    assert sum(count for _, _, count in found["length_histogram"]) == 51
    assert found["padding_waste"] == found["padding_waste_unpacked"]
    assert 0 <= found["padding_waste_packed"] < 1
    assert found["smoke"] is None
    # 1 layer: q 32→32, k and v 32→16, o 32→32, gate and up 32→64, down 64→32; rank 4
    assert found["trainable_parameters"] == 4 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
    assert found["memory"]["total"] == sum(
        size for name, size in found["memory"].items() if name != "total"
    )
    assert found["memory_there"] > 2**28


def test_smoke_runs_the_first_step_and_writes_nothing_but_the_tokenised_data(
    make_run, trained, capsys
):
    run = make_run(num_epochs=1)
    smoke = report(run, capsys, "--smoke")["smoke"]
    assert smoke["loss"] == pytest.approx(trained.losses()[1], rel=1e-6)
    assert smoke["grad_norm"] > 0
    assert smoke["memory_bytes"] > 0
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "cache",
        "dataset.jsonl",
        "manifest.yaml",
    ]


def test_text_for_people(make_run, capsys):
    run = make_run()
    assert main(["validate", "--config", str(run.config)]) == 0
    out = capsys.readouterr().out
    assert "40 examples to learn from" in out
    assert "Lengths in tokens:" in out
    assert "% with packing" in out
    assert "Memory: about" in out


def test_sentences_count_what_is_learnt_and_say_what_is_not(make_run, capsys):
    examples = [*arithmetic(1), line("long", "1+1=?", "2" * 500)]
    run = make_run(examples=examples, num_epochs=1, max_steps=7)
    assert main(["validate", "--config", str(run.config)]) == 0
    out = capsys.readouterr().out
    assert "1 example to learn from" in out
    assert "1 example is longer than max_seq_length and left out" in out
    assert "1 step: 1 epoch of 1" in out
    assert "max_steps 7 is not reached: num_epochs 1 ends the training before" in out


def test_the_report_is_written_beside_the_text(make_run, capsys):
    run = make_run()
    written = run.folder / "plan.json"
    assert main(["validate", "--config", str(run.config), "--report", str(written)]) == 0
    out = capsys.readouterr().out
    assert "40 examples to learn from" in out
    assert "{" not in out
    there, again = json.loads(written.read_text()), report(run, capsys)
    assert there.pop("memory_there") and again.pop("memory_there")
    assert there == again


def test_a_check_that_is_asked_to_stop_stops(make_run, capsys):
    run = make_run()
    (run.folder / "stop.json").write_text("{}")
    assert (
        main(["validate", "--config", str(run.config), "--report", str(run.folder / "plan.json")])
        == 17
    )
    assert (
        "interrupted: stopped by stop.json before the check was finished" in capsys.readouterr().err
    )
    assert not (run.folder / "plan.json").exists()


def test_a_stop_at_the_last_moment_is_obeyed(make_run, capsys, monkeypatch):
    run = make_run()

    def estimate(*arguments, **keywords):
        (run.folder / "stop.json").write_text("{}")
        return memory_estimate(*arguments, **keywords)

    monkeypatch.setattr(validate, "memory_estimate", estimate)
    assert main(["validate", "--config", str(run.config)]) == 17


def test_too_little_memory_is_a_warning(make_run, capsys):
    examples = [line("a", "q", "a" * 2_000)] * 600
    run = make_run(
        model="preset:tiny-llama",
        batch_size=512,
        max_seq_length=2048,
        packing=True,
        examples=examples,
    )
    found = report(run, capsys)
    assert any("lower batch_size" in warning for warning in found["warnings"])


def with_template(llama, folder, template):
    """The model with another chat template."""
    shutil.copytree(llama, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_the_number_of_texts_with_control_tokens_is_said(make_run, capsys):
    examples = [
        *arithmetic(20),
        line("a", "say <|end|>", "<|end|> ends it"),
        line("b", "<|user|>", "c"),
        line("c", "<|x|>", "d"),
    ]
    found = report(make_run(examples=examples), capsys)
    assert [warning for warning in found["warnings"] if "control tokens" in warning] == [
        "3 texts contain names of the tokenizer's control tokens, such as those that end a turn; "
        "they are read as text, not as control tokens."
    ]


def test_it_is_said_where_training_and_prompting_render_differently(
    make_run, llama, tmp_path, capsys
):
    template = CASES["generation prompt is no prefix of the whole (reasoning models)"]
    model = with_template(llama, tmp_path / "model", template)
    assert any(
        "prompt_style: conversation" in warning
        for warning in report(make_run(model=model), capsys)["warnings"]
    )
    generation = make_run("generation", model=model, prompt_style="generation")
    assert any(
        "prompt_style: generation" in warning for warning in report(generation, capsys)["warnings"]
    )
    assert not report(make_run("plain"), capsys)["warnings"]


@pytest.mark.parametrize(
    "template", ["leaves the answer out", "changes the text", "says the answer twice", "damaged"]
)
def test_templates_that_cannot_be_trained_with_end_a_run_with_the_models_code(
    make_run, llama, tmp_path, capsys, template
):
    source = TEMPLATES.get(template, "{% for m in messages %}{{ m.content }")
    run = make_run(model=with_template(llama, tmp_path / "model", source))
    assert main(["validate", "--config", str(run.config)]) == 12
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("tunix: model: the tokenizer in ")
    assert run.train() == 12
    assert capsys.readouterr().err.strip().splitlines()[-1] == said


@pytest.mark.parametrize(("rate", "warned"), [(0.5, True), (0.1, False)])
def test_a_learning_rate_that_is_seldom_meant_is_a_warning(make_run, capsys, rate, warned):
    found = report(make_run(learning_rate=rate), capsys)
    assert (
        any("learning_rate 0.5 is far above" in warning for warning in found["warnings"]) is warned
    )


def test_examples_beyond_the_positions_of_the_model_are_a_warning(make_run, tmp_path, capsys):
    write_llama(tmp_path / "short", max_position_embeddings=24)
    long = line("long", "q" * 40, "a")
    run = make_run(model=tmp_path / "short", examples=[*arithmetic(8), long])
    assert report(run, capsys)["warnings"] == [
        "1 of 9 examples have more tokens than the model has positions (24, max_position_embeddings"
        " in config.json); lower max_seq_length to 24."
    ]


@pytest.mark.parametrize(
    ("change", "code"),
    [(("batch_size: 8", "batch_size: none"), 10), (("dataset.jsonl", "missing.jsonl"), 11)],
)
def test_what_cannot_work_is_said_with_its_code(make_run, capsys, change, code):
    run = make_run()
    run.config.write_text(run.config.read_text().replace(*change))
    assert main(["validate", "--config", str(run.config)]) == code


def test_the_folder_of_a_model_is_checked_without_loading_it(make_run, llama, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in llama.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    run = make_run(model=broken)
    assert main(["validate", "--config", str(run.config)]) == 12
    assert "model.safetensors" in capsys.readouterr().err
