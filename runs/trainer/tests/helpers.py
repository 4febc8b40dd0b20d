"""Run folders, tiny models and subprocesses for the tests."""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from runs.spec.architectures import read_architecture, tensors
from runs.spec.kinds import SFT
from runs.spec.manifest import build_evaluation_manifest, build_manifest, dump_manifest
from runs.trainer import launch
from runs.trainer.data.conversation import Conversation
from runs.trainer.data.tokenizer import Encoded

LAUNCH = Path(launch.__file__)
PATIENCE = 600.0  # seconds: nothing takes that long on the busiest machine, so what does is a hang

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 264,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}<|end|>\n{%"
    " endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Training settings of the tests, unless they say otherwise: short, and nothing by the clock.
TRAINING = {
    "learning_rate": 3e-3,
    "num_epochs": 2,
    "batch_size": 8,
    "max_seq_length": 128,
    "exact_match_examples": 0,
    "checkpoint_every_minutes": None,
}


def arithmetic(count: int, *, held_out: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of two-digit sums, the last ``held_out`` of them held out."""
    generator = random.Random(seed)
    lines = []
    for index in range(count):
        a, b = generator.randint(10, 99), generator.randint(10, 99)
        lines.append(
            line(
                f"sum-{index}",
                f"{a}+{b}=?",
                str(a + b),
                final_answer=str(a + b),
                held_out=index >= count - held_out,
            )
        )
    return lines


def question(name: str, text: str, answer: str | None, **meta: Any) -> dict[str, Any]:
    """A line of the kind prompt."""
    return {
        "id": name,
        "kind": "prompt",
        "messages": [{"role": "user", "content": text}],
        "final_answer": answer,
        "meta": meta,
    }


def line(
    name: str,
    question: str,
    answer: str,
    *,
    final_answer: str | None = None,
    held_out: bool = False,
) -> dict[str, Any]:
    return {
        "id": name,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        "final_answer": final_answer,
        "split": "held_out" if held_out else "train",
    }


def conversation_line(*messages: dict[str, Any], **line: Any) -> dict[str, Any]:
    """A line of the kind conversation."""
    return {"id": "c", "kind": "conversation", "messages": list(messages), **line}


def encode_trace(tokenizer: Any, messages: list[dict[str, Any]]) -> Encoded:
    """The only row of a conversation whose last message is learnt."""
    [[row]] = tokenizer.encode([Conversation.of_trace(messages)])
    return row


def byte_tokenizer(template: str | None = CHAT_TEMPLATE, **tokens: str) -> PreTrainedTokenizerFast:
    """A Hugging Face tokenizer of the 256 bytes and a few special tokens: ids 256 and up."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{"eos_token": "<|end|>", "pad_token": "<|end|>", **tokens}
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]}
    )
    tokenizer.chat_template = template
    return tokenizer


def write_llama(folder: Path, *, seed: int = 0, overflow: bool = False, **config: Any) -> None:
    """A Hugging Face folder: random weights (so large that the loss is no number, if ``overflow``)
    and the byte tokenizer."""
    settings = {**CONFIG, **config}
    generator = np.random.default_rng(seed)
    weights = {}
    for tensor in tensors(read_architecture(settings)):
        is_norm = len(tensor.shape) == 1
        weights[tensor.name] = (
            np.ones(tensor.shape, np.float32)
            if is_norm
            else generator.normal(0, 0.05, tensor.shape).astype(np.float32)
        )
    if overflow:
        weights["model.norm.weight"][:] = 3e38
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings))
    byte_tokenizer().save_pretrained(folder)


@dataclass
class Run:
    """A run folder."""

    folder: Path

    @classmethod
    def write(
        cls,
        folder: Path,
        *,
        examples: list[dict[str, Any]],
        model: Path | str,
        training: dict[str, Any],
        **manifest: Any,
    ) -> "Run":
        folder.mkdir(parents=True)
        (folder / "dataset.jsonl").write_text(
            "".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8"
        )
        section = (
            {"id": model, "path": None}
            if isinstance(model, str)
            else {"id": "./tiny", "path": str(model)}
        )
        manifest = build_manifest(
            run_id="test",
            kind=SFT,
            dataset={"key": "sums-v1", "path": "dataset.jsonl", "format": "tunix_sft"},
            model={**section, "revision": None},
            training={**TRAINING, **training},
            **manifest,
        )
        (folder / "manifest.yaml").write_text(dump_manifest(manifest), encoding="utf-8")
        return cls(folder)

    @property
    def config(self) -> Path:
        return self.folder / "manifest.yaml"

    def train(self) -> int:
        """Train in this process; the exit code."""
        return launch.main(["train", "--config", str(self.config)])

    def start(
        self, command: str = "train", *arguments: str, **environment: str
    ) -> subprocess.Popen[str]:
        """Start the real command in a process of its own, as the keeper does."""
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-u",
                str(LAUNCH),
                command,
                "--config",
                "manifest.yaml",
                *arguments,
            ],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(
        self, command: str = "train", *arguments: str, **environment: str
    ) -> tuple[int, str, str]:
        """Run the real command to its end: exit code, stdout, stderr."""
        process = self.start(command, *arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def metrics(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []

    def losses(self) -> dict[int, float]:
        """Loss by step; of a step that occurs twice, the later one."""
        return {
            m["step"]: m["values"]["loss"] for m in self.metrics() if "loss" in m.get("values", {})
        }

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    def checkpoints(self) -> list[int]:
        folder = self.folder / "checkpoints"
        return (
            sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
            if folder.exists()
            else []
        )


@dataclass
class EvaluationRun(Run):
    """The folder of an evaluation."""

    @classmethod
    def make(
        cls,
        folder: Path,
        *,
        examples: list[dict[str, Any]],
        model: dict[str, Any],
        outputs_from: dict[str, str] | None = None,
        scorer_files: dict[str, str] | None = None,
        **evaluation: Any,
    ) -> "EvaluationRun":
        """``model``: the section of the manifest; a path may be a ``Path``."""
        folder.mkdir(parents=True)
        (folder / "dataset.jsonl").write_text(
            "".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8"
        )
        format = "tunix_prompts" if examples[0].get("kind") == "prompt" else "tunix_sft"
        section = {
            name: str(value) if isinstance(value, Path) else value for name, value in model.items()
        }
        manifest = build_evaluation_manifest(
            run_id="test",
            dataset={"key": "sums-v1", "path": "dataset.jsonl", "format": format},
            model={"id": "./tiny"} | section,
            evaluation={"max_tokens": 8} | evaluation,
            outputs_from=outputs_from,
            scorer_files=scorer_files,
        )
        (folder / "manifest.yaml").write_text(dump_manifest(manifest), encoding="utf-8")
        return cls(folder)

    def evaluate(self) -> int:
        """Evaluate in this process; the exit code."""
        return launch.main(["evaluate", "--config", str(self.config)])

    def items(self) -> list[dict[str, Any]]:
        """The lines of items.jsonl in the order of the set."""
        text = (self.folder / "items.jsonl").read_text(encoding="ascii")
        return sorted(map(json.loads, text.splitlines()), key=lambda item: item["index"])

    def outputs(self) -> dict[str, list[str]]:
        """The texts of each example, by its id."""
        return {item["id"]: [one["text"] for one in item["outputs"]] for item in self.items()}
