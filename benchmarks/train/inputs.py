"""Examples for all sides, and what is known of them: run by .venv's Python with -I, prints one JSON
object.

    inputs.py MODEL DATA COUNT OUT

MODEL: a Hugging Face folder or a hub id. DATA: a folder with GSM8K's train.jsonl, or a hub id.
Writes the first COUNT examples to OUT/dataset.jsonl in the form that our trainer reads
(docs/manifest.md).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def model_folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model).resolve()
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only hub ids need it

    return Path(
        snapshot_download(
            model,
            allow_patterns=["*.json", "*.safetensors", "tokenizer.model", "merges.txt", "*.jinja"],
        )
    )


def problems(data: str) -> list[dict[str, str]]:
    if Path(data).is_dir():
        with (Path(data) / "train.jsonl").open(encoding="utf-8") as file:
            return [json.loads(text) for text in file]
    import datasets  # noqa: PLC0415 - Hugging Face's, and only hub ids need it

    return list(datasets.load_dataset(data, "main", split="train"))


def main(model: str, data: str, count: str, out: str) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    folder = model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    lengths: list[int] = []
    answers = 0
    with (Path(out) / "dataset.jsonl").open("w", encoding="utf-8") as file:
        for index, problem in enumerate(problems(data)[: int(count)]):
            solution, _, final = problem["answer"].partition("\n#### ")
            messages = [
                {"role": "user", "content": problem["question"]},
                {"role": "assistant", "content": f"{solution}\n{final}"},
            ]
            line = {"id": str(index), "messages": messages, "final_answer": None, "split": "train"}
            file.write(json.dumps(line) + "\n")
            whole = len(_ids(tokenizer, messages))
            lengths.append(whole)
            answers += whole - len(_ids(tokenizer, messages[:-1], add_generation_prompt=True))
    print(json.dumps({"model": str(folder), "lengths": lengths, "answer_tokens": answers}))


def _ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    return tokenizer(
        tokenizer.apply_chat_template(messages, tokenize=False, **options), add_special_tokens=False
    )["input_ids"]


if __name__ == "__main__":
    main(*sys.argv[1:])
