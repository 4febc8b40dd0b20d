"""The pipeline that google-tunix's examples suggest.

    .venv/bin/python -I side_obvious.py SETTINGS.json

Its own Llama with its own loader, LoRA by qwix, ``PeftTrainer`` with its default loss, every
example padded, one example a step: the attention scores of one row already take gigabytes. Appends
a JSON line a step to the file ``steps``. (Upstream's Llama ignores the model's rope_theta, see
docs/models.md; that makes its numbers wrong, and not slower.)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from transformers import AutoTokenizer
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params
from tunix.sft import hooks, peft_trainer, utils


class Clock(hooks.TrainingHooks):
    """Notes when each step was done: reading its loss waits for it."""

    def __init__(self, file: Path):
        self.file = file

    def on_train_start(self, train_ctx: Any) -> None: ...
    def on_train_end(self, train_ctx: Any) -> None: ...
    def on_train_step_start(self, train_ctx: Any) -> None: ...
    def on_eval_step_start(self, train_ctx: Any) -> None: ...
    def on_eval_step_end(self, train_ctx: Any, eval_loss: float) -> None: ...

    def on_train_step_end(self, train_ctx: Any, train_step: int, train_loss: Any) -> None:
        loss = float(train_loss)
        with self.file.open("a", encoding="ascii") as file:
            file.write(json.dumps({"time": time.time(), "loss": loss}) + "\n")


def examples(settings: dict[str, Any]) -> Iterator[peft_trainer.TrainingInput]:
    """Yield tokens padded at their end, and a mask that is true on the answer."""
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], trust_remote_code=False)
    length = settings["max_seq_length"]

    def ids(messages: list[dict[str, str]], **options: Any) -> list[int]:
        return tokenizer(
            tokenizer.apply_chat_template(messages, tokenize=False, **options),
            add_special_tokens=False,
        )["input_ids"]

    with open(settings["dataset"], encoding="utf-8") as file:
        for text in file:
            messages = json.loads(text)["messages"]
            whole, prompt = ids(messages)[:length], ids(messages[:-1], add_generation_prompt=True)
            tokens = np.zeros((1, length), np.int32)
            answer = np.zeros((1, length), bool)
            tokens[0, : len(whole)] = whole
            answer[0, len(prompt) : len(whole)] = True
            yield peft_trainer.TrainingInput(input_tokens=tokens, input_mask=answer)


def model_input(batch: peft_trainer.TrainingInput) -> dict[str, Any]:
    real = jnp.asarray(batch.input_tokens) != 0
    return {
        "input_tokens": batch.input_tokens,
        "input_mask": batch.input_mask,
        "positions": utils.build_positions_from_mask(real),
        "attention_mask": utils.make_causal_attn_mask(real),
    }


def main(path: str) -> None:
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = json.loads((Path(settings["model"]) / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(-1, 1), ("fsdp", "tp"))
    with mesh:
        model = params.create_model_from_safe_tensors(
            settings["model"],
            llama.ModelConfig(
                num_layers=config["num_hidden_layers"],
                vocab_size=config["vocab_size"],
                embed_dim=config["hidden_size"],
                hidden_dim=config["intermediate_size"],
                num_heads=heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                num_kv_heads=config["num_key_value_heads"],
                rope_theta=int(config.get("rope_theta") or config["rope_parameters"]["rope_theta"]),
                norm_eps=config["rms_norm_eps"],
                weight_tying=config["tie_word_embeddings"],
            ),
            mesh,
            dtype=jnp.float32,
        )
        rank = settings["lora_rank"]
        provider = qwix.LoraProvider(
            module_path="|".join(f".*{name}" for name in settings["lora_targets"]),
            rank=rank,
            alpha=2.0 * rank,
        )
        model = qwix.apply_lora_to_model(
            model, provider, rngs=nnx.Rngs(0), **model.get_model_input()
        )
        trainer = peft_trainer.PeftTrainer(
            model,
            optax.adamw(settings["learning_rate"]),
            peft_trainer.TrainingConfig(eval_every_n_steps=10**9, max_steps=settings["max_steps"]),
        )
        trainer = trainer.with_gen_model_input_fn(model_input)
        trainer.with_training_hooks(Clock(Path(settings["steps"])))
        trainer.train(examples(settings))


if __name__ == "__main__":
    main(sys.argv[1])
