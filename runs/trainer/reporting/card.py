"""The README.md of an exported model: what it is, what it was trained on, how, and with what
result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from runs.trainer.modeling.loading import LoadedModel

_BYTE_TOKENIZER = """\
## Tokenizer

This model reads bytes: a text's token ids are its UTF-8 bytes (0–255). 256 is padding, \
257 begins a conversation, 258
ends an answer. A prompt is 257, then each message's bytes followed by 10 (a newline).
"""


def model_card(loaded: LoadedModel, card: Mapping[str, Any], *, adapter: bool) -> str:
    """Return Markdown with the front matter that model hubs read.

    ``card``: run_id, kind and method (of the training), dataset, model, training, result; any may
    be missing.
    """
    base = loaded.model_id if loaded.folder is None or loaded.revision else loaded.folder.name
    licence = base_licence(loaded)
    front: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
    }
    if loaded.revision:
        front["base_model"] = loaded.model_id
    if licence:
        front["license"] = licence
    kind, method = card.get("kind"), card.get("method")
    front["tags"] = ["google-tunix", *([kind] if kind else []), *(["lora"] if loaded.lora else [])]
    what = (
        "A LoRA adapter for"
        if adapter
        else "A fine-tuned version of"
        if loaded.folder
        else "A model trained from random weights:"
    )
    dataset, result = dict(card.get("dataset") or {}), dict(card.get("result") or {})
    unstated = (
        "none, the weights began as random numbers"
        if loaded.folder is None
        else "not stated in the model folder"
    )
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {what} {base}",
        "",
        _sentence(
            f"Trained{f' by {method}' if method else ''} with google-tunix",
            "run",
            card.get("run_id"),
        ),
        "",
        "## Base model",
        "",
        f"- Model: {base}" + (f" at revision {loaded.revision}" if loaded.revision else ""),
        f"- Licence: {licence or unstated}",
        "",
        "## Data",
        "",
    ]
    lines += [
        f"- {name}: {dataset[name]}"
        for name in ("key", "fingerprint", "examples", "held_out")
        if dataset.get(name) is not None
    ]
    lines += ["", "## Result", ""]
    lines += [
        f"- {name}: {value}"
        for name, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if loaded.folder is None:
        lines += ["", _BYTE_TOKENIZER.strip()]
    manifest = {
        key: card[key] for key in ("dataset", "model", "training") if card.get(key) is not None
    }
    lines += [
        "",
        "## Manifest",
        "",
        "```yaml",
        yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True).strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def base_licence(loaded: LoadedModel) -> str | None:
    """Return the licence of the base model as its folder states it: in its model card's front
    matter, else in its config.json."""
    if loaded.folder is None:
        return None
    try:
        text = (loaded.folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    if match:
        try:
            front = yaml.safe_load(match.group(1))
        except yaml.YAMLError:
            front = None
        if isinstance(front, dict):
            name = front.get("license_name") or front.get("license")
            if isinstance(name, str):
                return name
    stated = loaded.config.get("license")
    return stated if isinstance(stated, str) else None


def _sentence(text: str, word: str, value: Any) -> str:
    return f"{text} ({word} {value})." if value else f"{text}."
