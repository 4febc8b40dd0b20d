"""Prompts for all sides, run by .venv's Python with -I: prints one JSON object.

    inputs.py MODEL DATA COUNT

MODEL: a Hugging Face folder or a hub id. DATA: a folder with GSM8K's train.jsonl, or a hub id.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.train.inputs import model_folder, problems


def main(model: str, data: str, count: str) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    folder = model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    prompts = []
    for problem in problems(data)[: int(count)]:
        messages = [{"role": "user", "content": problem["question"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    print(json.dumps({"model": str(folder), "prompts": prompts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
