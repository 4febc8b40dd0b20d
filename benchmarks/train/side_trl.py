"""trl's SFTTrainer with peft on PyTorch.

    .venv-bench/bin/python -I side_trl.py SETTINGS.json

As well as it can be set for this comparison: best-fit packing, loss on the answers only
(prompt-completion data), float32, scaled dot product attention (transformers builds the
block-diagonal mask from positions), PyTorch's fused AdamW, no gradient checkpointing unless asked
for (trl's own default has it), nothing saved or reported. Appends a JSON line a step to the file
``steps``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from datasets import Dataset


class Clock(TrainerCallback):
    """Notes when each step was done."""

    def __init__(self, file: Path):
        self.file = file
        self.tokens: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with self.file.open("a", encoding="ascii") as file:
            file.write(
                json.dumps({"time": time.time(), "tokens": self.tokens[state.global_step - 1]})
                + "\n"
            )


def main(path: str) -> None:
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = []
    with open(settings["dataset"], encoding="utf-8") as file:
        for text in file:
            messages = json.loads(text)["messages"]
            rows.append({"prompt": messages[:-1], "completion": messages[-1:]})
    clock = Clock(Path(settings["steps"]))
    trainer = SFTTrainer(
        model=settings["model"],
        args=SFTConfig(
            output_dir=settings["folder"],
            max_steps=settings["max_steps"],
            per_device_train_batch_size=settings["batch_size"],
            max_length=settings["max_seq_length"],
            packing=True,
            packing_strategy="bfd",
            completion_only_loss=True,
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="cosine",
            optim="adamw_torch_fused",
            gradient_checkpointing=settings["gradient_checkpointing"],
            bf16=False,
            use_cpu=True,
            model_init_kwargs={
                "dtype": "float32",
                "attn_implementation": settings["attention"],
                "trust_remote_code": False,
            },
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=settings["lora_rank"],
            lora_alpha=2 * settings["lora_rank"],
            target_modules=settings["lora_targets"],
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    collate = trainer.data_collator

    def counted(features: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(features)
        # rows are joined end to end: none of it is padding
        clock.tokens.append(batch["input_ids"].numel())
        return batch

    trainer.data_collator = counted
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
