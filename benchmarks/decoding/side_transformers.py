"""``transformers.generate`` on PyTorch, left padding, the merged model: run by the Python of
.venv-parity with -I.

    side_transformers.py SETTINGS.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import torch
import transformers

from benchmarks.decoding.clock import report, timed


def main(path: str) -> None:
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
    ).eval()
    model.generation_config.eos_token_id = None  # no output ends early, as on the other sides
    prompts, rows = settings["prompts"], settings["rows"]

    def run(new: int = settings["new"]) -> list[list[int]]:
        outputs: list[list[int]] = []
        for start in range(0, len(prompts), rows):
            batch = prompts[start : start + rows]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            answer = model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new,
                pad_token_id=0,
            )
            outputs += answer[:, width:].tolist()
        return outputs

    _, warm = timed(lambda: run(2))
    report(*timed(run), warm)


if __name__ == "__main__":
    main(sys.argv[1])
