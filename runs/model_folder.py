"""Is a folder a model that can be trained? Answered from file headers alone, in milliseconds.

Standard library only: the web process asks it for dry runs without the training runtime, and the training program before
it loads anything, so that both refuse the same things in the same words.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from runs.architectures import Architecture, Tensor, UnsupportedModel, read_architecture, remarks, tensors

INDEX = "model.safetensors.index.json"

# Bits of one element, https://huggingface.co/docs/safetensors
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
WEIGHT_DTYPES = ("F32", "F16", "BF16", "F64")

# The format allows headers up to this size; a config or an index is never larger either.
_MAX_HEADER = _MAX_JSON = 100_000_000

# Files any of which makes a tokenizer that transformers can load.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")

# Tensors that carry nothing the language model computes with.
_IGNORED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|vision_tower\..*|multi_modal_projector\..*|vision_model\..*)$")


class FolderProblem(ValueError):
    """A file of a model folder that cannot be used; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``dtype`` as the format names it, ``start`` and ``end`` in bytes from the file's beginning."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def check_model_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Look a Hugging Face model folder over: ``(problems, warnings)``, a sentence each. Reads headers, never weights.

    With problems the folder cannot be trained. Never raises for what a folder holds.
    """
    try:
        config = read_config(folder)
    except FolderProblem as error:
        return [str(error)], []
    problems: list[str] = []
    warnings: list[str] = []
    architecture: Architecture | None = None
    try:
        architecture = read_architecture(config)
    except UnsupportedModel as error:
        problems.append(str(error))
    warnings += remarks(config)
    try:
        entries = read_entries(folder)
        if architecture is not None:
            problems += match_tensors(architecture, entries)[1]
    except FolderProblem as error:
        problems.append(str(error))
    problem, notes = _check_tokenizer(folder)
    problems += [problem] if problem else []
    warnings += notes
    return problems, warnings


def read_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``. Raises FolderProblem, also when the folder is missing."""
    try:
        is_folder = folder.is_dir()
    except (OSError, ValueError):  # a NUL byte in a path is a ValueError
        is_folder = False
    if not is_folder:
        raise FolderProblem(f"there is no model folder {_shown(str(folder))}")
    return _read_object(folder / "config.json", "a Hugging Face model folder has one")


def read_entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files by its name there.

    Raises FolderProblem: no weights, a shard of the index missing, a damaged header, a file whose length is not what its
    header says.
    """
    entries: dict[str, Entry] = {}
    for file in _shards(folder):
        for name, entry in _read_header(file).items():
            if name in entries:
                raise FolderProblem(f"the tensor {_shown(name)} is in {entries[name].file.name} and in {file.name}")
            entries[name] = entry
    return entries


def match_tensors(architecture: Architecture, entries: dict[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
    """Hold the files against what the architecture needs: ``(entries by the architecture's tensor name, problems)``."""
    problems: list[str] = []
    present = {_canonical(name): entry for name, entry in entries.items() if not _IGNORED.search(name)}
    table: dict[str, Tensor] = {tensor.name: tensor for tensor in tensors(architecture)}
    missing = [name for name in table if name not in present]
    if missing:
        problems.append(f"{_several(missing, 'tensor')} missing from the safetensors files")
    for name, tensor in table.items():
        entry = present.get(name)
        if entry is None:
            continue
        if entry.shape != tensor.shape:
            problems.append(
                f"the tensor {name} has the shape {list(entry.shape)} in {entry.file.name}, "
                f"but config.json makes it {list(tensor.shape)}"
            )
        elif entry.dtype not in WEIGHT_DTYPES:
            problems.append(f"the tensor {name} has the type {entry.dtype}; supported are {', '.join(WEIGHT_DTYPES)}")
        if len(problems) > 3:
            break
    # A head beside tied embeddings is compared with them when the weights are loaded.
    unknown = [name for name in present if name not in table and name != "lm_head.weight"]
    if unknown:
        problems.append(f"{_several(unknown, 'tensor')} not part of a {architecture.family} model as config.json describes it")
    return {name: entry for name, entry in present.items() if name in table or name == "lm_head.weight"}, problems


def _canonical(name: str) -> str:
    """Multimodal Gemma 3 checkpoints put the language model under a prefix, an older and a newer one."""
    if name.startswith("language_model."):
        return name.removeprefix("language_model.")
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name


def _several(names: list[str], noun: str) -> str:
    """``the tensor a is``, or ``3 tensors (a, b …) are``."""
    if len(names) == 1:
        return f"the {noun} {_shown(names[0])} is"
    shown = ", ".join(_shown(name) for name in names[:2]) + (" …" if len(names) > 2 else "")
    return f"{len(names)} {noun}s ({shown}) are"


def _shown(text: str) -> str:
    """Text from a file as it may stand in a sentence: printable and short."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return printable if len(printable) <= 200 else printable[:197] + "..."


def _read_object(path: Path, why: str) -> dict[str, Any]:
    """A JSON object from a file; FolderProblem names the file."""
    try:
        _require_regular(path)
        if path.stat().st_size > _MAX_JSON:
            raise FolderProblem(f"{path.name} is larger than {_MAX_JSON} bytes; that is no {path.name}")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FolderProblem(f"{path.name} is missing from {_shown(str(path.parent))}; {why}") from None
    except OSError as error:
        raise FolderProblem(f"{path.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers or nesting without end
        raise FolderProblem(f"{path.name} is not valid JSON: {_shown(str(error))}") from error
    if not isinstance(content, dict):
        raise FolderProblem(f"{path.name} must hold a JSON object")
    return content


def _require_regular(path: Path) -> None:
    """Opening a named pipe would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise FolderProblem(f"{path.name} is not a regular file")


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        weights = _read_object(index, "").get("weight_map")
        if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
            raise FolderProblem(f"{INDEX} has no weight_map of tensor names and file names")
        files = []
        for name in sorted(set(weights.values())):
            if os.path.basename(name) != name or "\0" in name or not name.endswith(".safetensors"):
                raise FolderProblem(f"{INDEX} names {_shown(name)}, which is not a safetensors file of this folder")
            if not (folder / name).is_file():
                raise FolderProblem(f"{INDEX} names {_shown(name)}, which is missing")
            files.append(folder / name)
        return files
    single = folder / "model.safetensors"
    files = [single] if single.exists() else sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_"))
    if not files:
        others = "; it has weights in PyTorch's format only" if any(folder.glob("*.bin")) else ""
        raise FolderProblem(f"there is no safetensors file in {_shown(str(folder))}{others}")
    return files


def _read_header(file: Path) -> dict[str, Entry]:
    """The header of one safetensors file, held against the length of the file."""
    try:
        _require_regular(file)
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise FolderProblem(f"{file.name} is truncated or not a safetensors file ({size} bytes)")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise FolderProblem(f"{file.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, FolderProblem):
            raise
        raise FolderProblem(f"{file.name} is damaged: its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise FolderProblem(f"{file.name} is damaged: its header is not a JSON object")
    entries: dict[str, Entry] = {}
    for name, value in header.items():
        if name != "__metadata__":
            entries[name] = _entry(file, name, value, 8 + length)
    position = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != position:
            raise FolderProblem(f"{file.name} is damaged: its tensors overlap or leave a gap")
        position = entry.end
    if position > size:
        raise FolderProblem(f"{file.name} is truncated: {size} bytes, but its header describes {position}")
    if position < size:
        raise FolderProblem(f"{file.name} is damaged: {size} bytes, but its header describes {position}")
    return entries


def _entry(file: Path, name: str, value: Any, offset: int) -> Entry:
    damaged = FolderProblem(f"{file.name} is damaged: the entry of the tensor {_shown(name)} is not valid")
    if not isinstance(value, dict):
        raise damaged
    dtype, shape, span = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2 or span[0] > span[1]:
        raise damaged
    bytes_each = _ITEM_BYTES.get(dtype)
    if bytes_each is not None and span[1] - span[0] != math.prod(shape) * bytes_each:
        raise damaged
    return Entry(file, dtype, tuple(shape), offset + span[0], offset + span[1])


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**48 for item in value)
    )


def _check_tokenizer(folder: Path) -> tuple[str | None, list[str]]:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return f"there is no tokenizer in {_shown(str(folder))}: none of {', '.join(_TOKENIZER_FILES)}", []
    if (folder / "tokenizer.json").is_file():
        try:
            _read_object(folder / "tokenizer.json", "")
        except FolderProblem as error:
            return str(error), []
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return None, []
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        try:
            settings = _read_object(folder / "tokenizer_config.json", "")
        except FolderProblem as error:
            return str(error), []
    if settings.get("chat_template"):
        return None, []
    return None, ["the tokenizer has no chat template; prompts and answers get the plain one for base models"]
