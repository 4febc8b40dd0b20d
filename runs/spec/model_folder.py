"""Is a folder a model that can be trained? Answered from file headers alone, in milliseconds.

Standard library only: the web process asks it for dry runs without the training runtime, and the
training program before it loads anything, so that both refuse the same things in the same words.
What only the weights themselves can tell, the training program adds
(runs/trainer/modeling/model_files.py).
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from runs.spec.architectures import (
    Architecture,
    UnsupportedModel,
    read_architecture,
    remarks,
    tensors,
)

INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

# Bytes of one element, https://huggingface.co/docs/safetensors
_ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
WEIGHT_DTYPES = ("F32", "F16", "BF16", "F64")

# The format allows headers up to this size; a config or an index is never larger either.
_MAX_HEADER = _MAX_JSON = 100_000_000

# Files any of which makes a tokenizer that transformers can load.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")

# What a folder may hold beside its weights; transformers reads these where they are.
_COMPANIONS = (
    *_TOKENIZER_FILES,
    *(
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
    ),
    *("chat_template.jinja", "chat_template.json", "merges.txt"),
)

# Tensors that carry nothing the language model computes with.
_IGNORED = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|vision_tower\..*|multi_modal_projector\..*|vision_model\..*)$"
)

# Weights in other formats, and how people get them into ours.
_OTHER_FORMATS = (
    ("*.bin", "PyTorch's format", True),
    ("*.pt", "PyTorch's format", True),
    ("*.pth", "PyTorch's format", True),
    ("*.gguf", "the format of llama.cpp (GGUF)", False),
    ("*.msgpack", "the format of Flax", False),
    ("*.h5", "the format of TensorFlow", False),
)
_CONVERT = (
    "where PyTorch is installed,"
    " AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder) of transformers"
    " writes them as safetensors; copy the tokenizer's files along"
)

_ADAPTER = (
    "the folder holds a LoRA adapter: merge it into its base model first (merge_and_unload of"
    " peft), or train the base model"
)


class FolderProblem(ValueError):
    """A file of a model folder that cannot be used; the message is one sentence that names the
    file."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: ``dtype`` as the format names it, ``start`` and ``end`` in bytes from
    the file's beginning."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose headers fit together.

    ``entries`` has every tensor of the architecture under its name there, and HEAD where a head
    lies beside tied embeddings: it must equal them. ``warnings``: a sentence each.
    """

    config: dict[str, Any]
    architecture: Architecture
    entries: dict[str, TensorEntry]
    warnings: list[str]


def check_model_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Check a Hugging Face model folder; return ``(problems, warnings)``, a sentence each. Reads
    headers, never weights.

    With problems the folder cannot be trained. Never raise for what a folder holds.
    """
    problems, opened, warnings = _look_over(folder)
    if opened is not None and opened.architecture.tied and HEAD in opened.entries:
        warnings = [
            *warnings,
            f"{HEAD} beside tied embeddings must equal them; the training program compares them",
        ]
    if problems and not folder_is_there(folder):
        return problems, []
    try:
        check_tokenizer(folder)
    except FolderProblem as error:
        return [*problems, str(error)], warnings
    return problems, [*warnings, *tokenizer_remarks(folder)]


def open_model_folder(folder: Path) -> ModelFolder:
    """Return what is needed to load the model; its tokenizer is ``check_tokenizer``'s. Raise
    FolderProblem with all there is."""
    problems, opened, _ = _look_over(folder)
    if opened is None:
        raise FolderProblem("; ".join(problems))
    return opened


def _look_over(folder: Path) -> tuple[list[str], ModelFolder | None, list[str]]:
    """Return problems of config.json and weights, the folder if there are none, warnings."""
    try:
        config = read_config(folder)
    except FolderProblem as error:
        return [str(error)], None, []
    problems: list[str] = []
    warnings = remarks(config)
    architecture: Architecture | None = None
    entries: dict[str, TensorEntry] = {}
    try:
        architecture = read_architecture(config)
    except UnsupportedModel as error:
        problems.append(str(error))
    try:
        found = read_entries(folder)
        if architecture is not None:
            entries, mismatches = match_tensors(architecture, found)
            problems += mismatches
    except FolderProblem as error:
        problems.append(str(error))
    if problems or architecture is None:
        return problems, None, warnings
    return [], ModelFolder(config, architecture, entries, warnings), warnings


def folder_is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except (OSError, ValueError):  # a NUL byte in a path is a ValueError
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of ``config.json``. Raise FolderProblem, also when the folder is
    missing."""
    if not folder_is_there(folder):
        raise FolderProblem(f"there is no model folder {_shown(str(folder))}")
    adapter = _exists(folder / "adapter_config.json")
    return _read_object(
        folder / "config.json", _ADAPTER if adapter else "a Hugging Face model folder has one"
    )


def read_end_ids(folder: Path) -> list[int]:
    """Return the ids that end an answer according to ``generation_config.json``; none without that
    file. Raise FolderProblem."""
    path = folder / "generation_config.json"
    if not _exists(path):
        return []
    value = _read_object(path).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not _are_sizes(ids, most=2**31, length=1000):
        raise FolderProblem(
            f"{path.name}: eos_token_id is {_shown(repr(value))}; it must be the number of a token,"
            " a list of them, or null"
        )
    return ids


def read_entries(folder: Path) -> dict[str, TensorEntry]:
    """Return every tensor of the folder's safetensors files by its name there.

    Raise FolderProblem: no weights, a shard of the index missing, a damaged header, a file whose
    length is not what its header says.
    """
    entries: dict[str, TensorEntry] = {}
    for file in _shards(folder):
        for name, entry in _read_header(file).items():
            if name in entries:
                raise FolderProblem(
                    f"the tensor {_shown(name)} is in {entries[name].file.name} and in {file.name}"
                )
            entries[name] = entry
    return entries


def match_tensors(
    architecture: Architecture, entries: dict[str, TensorEntry]
) -> tuple[dict[str, TensorEntry], list[str]]:
    """Hold the files against what the architecture needs: ``(entries by the architecture's tensor
    name, problems)``.

    Names are understood as transformers does: of a bare decoder they lack ``model.``, in multimodal
    checkpoints they have a prefix more, and of a tied pair one is enough. However many tensors are
    wrong, there are at most three sentences.
    """
    table = {tensor.name: tensor.shape for tensor in tensors(architecture)}
    present: dict[str, TensorEntry] = {}
    problems: list[str] = []
    for name, entry in entries.items():
        if _IGNORED.search(name):
            continue
        canonical = _canonical(name, table)
        if canonical in present:
            return {}, [f"the tensor {_shown(canonical)} is there twice, as {_shown(name)} as well"]
        present[canonical] = entry
    if architecture.tied and EMBEDDING not in present and HEAD in present:
        present[EMBEDDING] = present.pop(HEAD)
    missing = [name for name in table if name not in present]
    # A head beside tied embeddings is compared with them when the weights are read.
    unknown = [name for name in present if name not in table and name != HEAD]
    if missing and unknown:
        problems.append(
            f"{_several(missing, 'tensor')} missing from the safetensors files, and"
            f" {_several(unknown, 'tensor')} not part of a {architecture.family} model as"
            " config.json describes it"
        )
    elif missing:
        problems.append(f"{_several(missing, 'tensor')} missing from the safetensors files")
    elif unknown:
        problems.append(
            f"{_several(unknown, 'tensor')} not part of a {architecture.family} model as"
            " config.json describes it"
        )
    known = {name: present[name] for name in dict.fromkeys((*table, HEAD)) if name in present}
    odd = [name for name, entry in known.items() if entry.dtype not in WEIGHT_DTYPES]
    if odd:
        kinds = ", ".join(sorted({_shown(known[name].dtype) for name in odd})[:3])
        verb = "has" if len(odd) == 1 else "have"
        problems.append(
            f"{_several(odd, 'tensor', verb=verb)} the number type {kinds}; supported are"
            f" {', '.join(WEIGHT_DTYPES)}: convert the weights to bfloat16, or use the checkpoint"
            " they were made from"
        )
    shapes = table if HEAD in table else {**table, HEAD: table[EMBEDDING]}
    wrong = [
        name for name, entry in known.items() if entry.shape != shapes[name] and name not in odd
    ]
    if wrong:
        first = known[wrong[0]]
        others = (
            f"; {len(wrong) - 1} more tensors have other shapes as well" if len(wrong) > 1 else ""
        )
        problems.append(
            f"the tensor {wrong[0]} has the shape {_shown(str(list(first.shape)))} in"
            f" {first.file.name}, but config.json makes it {list(shapes[wrong[0]])}{others}"
        )
    return known, problems


def _canonical(name: str, table: dict[str, Any]) -> str:
    """Return the architecture's name of a tensor."""
    # Multimodal Gemma 3 checkpoints put the language model under a prefix, an older and a newer
    # one.
    if name.startswith("language_model."):
        name = name.removeprefix("language_model.")
    elif name.startswith("model.language_model."):
        name = "model." + name.removeprefix("model.language_model.")
    return f"model.{name}" if name not in table and f"model.{name}" in table else name


def _several(names: list[str], noun: str, *, verb: str | None = None) -> str:
    """Return ``the tensor a is``, or ``3 tensors (a, b …) are``."""
    if len(names) == 1:
        return f"the {noun} {_shown(names[0])} {verb or 'is'}"
    shown = ", ".join(_shown(name) for name in names[:2]) + (" …" if len(names) > 2 else "")
    return f"{len(names)} {noun}s ({shown}) {verb or 'are'}"


def _shown(text: str) -> str:
    """Return text from a file as it may stand in a sentence: printable and short."""
    printable = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return printable if len(printable) <= 200 else printable[:197] + "..."


def _exists(path: Path) -> bool:
    """Return whether there is anything of that name, even a link to nothing."""
    return os.path.lexists(path)


def _read_text(path: Path, why: str = "") -> str:
    """Return the text of a file that transformers reads as UTF-8. Raise FolderProblem, which names
    the file."""
    try:
        _require_regular(path)
        if path.stat().st_size > _MAX_JSON:
            raise FolderProblem(
                f"{path.name} is larger than {_MAX_JSON} bytes; that is no {path.name}"
            )
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        reason = f"; {why}" if why else ""
        raise FolderProblem(
            f"{path.name} is missing from {_shown(str(path.parent))}{reason}"
        ) from None
    except OSError as error:
        raise FolderProblem(f"{path.name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FolderProblem(f"{path.name} is not UTF-8 (byte {error.start})") from error


def _read_object(path: Path, why: str = "") -> dict[str, Any]:
    """Return a JSON object from a file. Raise FolderProblem, which names the file."""
    content = _parse(_read_text(path, why), f"{path.name} is not valid JSON")
    if not isinstance(content, dict):
        raise FolderProblem(f"{path.name} must hold a JSON object")
    return content


def _parse(text: str, complaint: str) -> Any:
    """Return JSON in which no object has a key twice: readers differ on which of the two counts."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # not JSON, numbers or nesting without end
        raise FolderProblem(f"{complaint}: {_shown(str(error))}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it says {twice!r} twice")
    return content


def _require_regular(path: Path) -> None:
    """Raise FolderProblem if a path is not a regular file: opening a named pipe would wait for
    ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise FolderProblem(f"{path.name} is not a regular file")


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if _exists(index):
        weights = _read_object(index).get("weight_map")
        if (
            not isinstance(weights, dict)
            or not weights
            or not all(isinstance(name, str) for name in weights.values())
        ):
            raise FolderProblem(f"{INDEX} has no weight_map of tensor names and file names")
        files = []
        for name in sorted(set(weights.values())):
            if os.path.basename(name) != name or "\0" in name or not name.endswith(".safetensors"):
                raise FolderProblem(
                    f"{INDEX} names {_shown(name)}, which is not a safetensors file of this folder"
                )
            if not _exists(folder / name):
                raise FolderProblem(f"{INDEX} names {_shown(name)}, which is missing")
            files.append(folder / name)
        return files
    single = folder / "model.safetensors"
    if _exists(single):
        return [single]
    files = sorted(
        path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")
    )
    if not files:
        raise FolderProblem(
            f"there is no safetensors file in {_shown(str(folder))}{_instead(folder)}"
        )
    return files


def _instead(folder: Path) -> str:
    """Return what a folder without safetensors contains, and how to fix it."""
    if _exists(folder / "adapter_config.json"):
        return f"; {_ADAPTER}"
    for pattern, words, convertible in _OTHER_FORMATS:
        if any(
            not path.name.startswith(("training_args", "optimizer", "scheduler"))
            for path in folder.glob(pattern)
        ):
            way_out = (
                _CONVERT
                if convertible
                else "use the checkpoint in safetensors from which they were made"
            )
            return f"; it has weights in {words} only: {way_out}"
    return ""


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """Return the header of one safetensors file, checked against the length of the file."""
    try:
        _require_regular(file)
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise FolderProblem(
                    f"{file.name} is truncated or not a safetensors file ({size} bytes)"
                )
            text = stream.read(length).decode("utf-8")
    except OSError as error:
        raise FolderProblem(f"{file.name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FolderProblem(f"{file.name} is damaged: its header is not UTF-8") from error
    header = _parse(text, f"{file.name} is damaged: its header is not valid JSON")
    if not isinstance(header, dict):
        raise FolderProblem(f"{file.name} is damaged: its header is not a JSON object")
    entries: dict[str, TensorEntry] = {}
    for name, value in header.items():
        if name != "__metadata__":
            entries[name] = _entry(file, name, value, 8 + length)
    position = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != position:
            raise FolderProblem(f"{file.name} is damaged: its tensors overlap or leave a gap")
        position = entry.end
    if position > size:
        raise FolderProblem(
            f"{file.name} is truncated: {size} bytes, but its header describes {position}"
        )
    if position < size:
        raise FolderProblem(
            f"{file.name} is damaged: {size} bytes, but its header describes {position}"
        )
    return entries


def _entry(file: Path, name: str, value: Any, offset: int) -> TensorEntry:
    damaged = FolderProblem(
        f"{file.name} is damaged: the entry of the tensor {_shown(name)} is not valid"
    )
    if not isinstance(value, dict):
        raise damaged
    dtype, shape, span = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if (
        not isinstance(dtype, str)
        or not _are_sizes(shape)
        or not _are_sizes(span)
        or len(span) != 2
        or span[0] > span[1]
    ):
        raise damaged
    bytes_each = _ITEM_BYTES.get(dtype)
    if bytes_each is not None and span[1] - span[0] != math.prod(shape) * bytes_each:
        raise damaged
    return TensorEntry(file, dtype, tuple(shape), offset + span[0], offset + span[1])


def _are_sizes(value: Any, *, most: int = 2**48, length: int = 16) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= length
        and all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item < most
            for item in value
        )
    )


# Tokenizer: the form of its files. What they mean only the library can tell that reads them, in the
# training program.


def has_tokenizer(folder: Path) -> bool:
    """Return whether the folder has any file of a tokenizer."""
    return any(_exists(folder / name) for name in _TOKENIZER_FILES)


def check_tokenizer(folder: Path) -> None:
    """Raise FolderProblem if there is no tokenizer, or a file of one, or of its generation
    settings, has a form that is not that of one."""
    if not has_tokenizer(folder):
        raise FolderProblem(
            f"there is no tokenizer in {_shown(str(folder))}: none of {', '.join(_TOKENIZER_FILES)}"
        )
    for name in _COMPANIONS:
        if _exists(folder / name):
            try:
                _require_regular(folder / name)
            except OSError as error:
                raise FolderProblem(f"{name} cannot be read: {error.strerror or error}") from error
    for name, check in _FORMS.items():
        if _exists(folder / name):
            check(name, _read_object(folder / name))
    if _exists(folder / "chat_template.jinja"):
        _read_text(folder / "chat_template.jinja")
    read_end_ids(folder)


def _check_vocabulary(name: str, content: dict[str, Any]) -> None:
    """Check added_tokens.json and vocab.json: texts and their ids."""
    for token, id in content.items():
        if not _are_sizes([id], most=2**31):
            raise FolderProblem(
                f"{name}: the id of {_shown(repr(token))} is {_shown(repr(id))}; it must be a whole"
                " number from 0"
            )


def _check_settings(name: str, content: dict[str, Any]) -> None:
    """Check tokenizer_config.json and special_tokens_map.json."""
    for key, value in content.items():
        if key.endswith("_token") and key[:-6] in (
            "bos",
            "eos",
            "pad",
            "unk",
            "sep",
            "cls",
            "mask",
        ):
            text = value.get("content") if isinstance(value, dict) else value
            if value is not None and not isinstance(text, str):
                raise FolderProblem(
                    f"{name}: {key} is {_shown(repr(value))}; it must be a text, an object with"
                    " content, or null"
                )
    template = content.get("chat_template")
    if isinstance(template, list):
        fine = all(
            isinstance(t, dict)
            and isinstance(t.get("name"), str)
            and isinstance(t.get("template"), str)
            for t in template
        )
    else:
        fine = template is None or isinstance(template, str)
    if not fine:
        raise FolderProblem(
            f"{name}: chat_template is {_shown(repr(template))}; it must be a text, or names and"
            " templates"
        )
    longest = content.get("model_max_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float)):
        raise FolderProblem(
            f"{name}: model_max_length is {_shown(repr(longest))}; it must be a number"
        )
    inputs = content.get("model_input_names")
    if inputs is not None and not (
        isinstance(inputs, list) and all(isinstance(one, str) for one in inputs)
    ):
        raise FolderProblem(
            f"{name}: model_input_names is {_shown(repr(inputs))}; it must be a list of texts"
        )
    added = content.get("added_tokens_decoder", {})
    if not isinstance(added, dict) or not all(
        id.isascii()
        and id.isdigit()
        and len(id) < 10
        and isinstance(token, dict)
        and isinstance(token.get("content"), str)
        for id, token in added.items()
    ):
        raise FolderProblem(
            f"{name}: added_tokens_decoder must be an object of token numbers and objects with"
            " content"
        )


def _check_template(name: str, content: dict[str, Any]) -> None:
    if not isinstance(content.get("chat_template"), str):
        raise FolderProblem(
            f"{name}: chat_template is {_shown(repr(content.get('chat_template')))}; it must be a"
            " text"
        )


_FORMS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "tokenizer.json": lambda name, content: None,
    "tokenizer_config.json": _check_settings,
    "special_tokens_map.json": _check_settings,
    "added_tokens.json": _check_vocabulary,
    "vocab.json": _check_vocabulary,
    "chat_template.json": _check_template,
}


def tokenizer_remarks(folder: Path) -> list[str]:
    """Return what is worth knowing about a tokenizer whose files are in order: a sentence each."""
    settings = folder / "tokenizer_config.json"
    if (
        _exists(folder / "chat_template.jinja")
        or _exists(folder / "chat_template.json")
        or (_exists(settings) and _read_object(settings).get("chat_template"))
    ):
        return []
    return [
        "the tokenizer has no chat template; prompts and answers get the plain one for base models"
    ]
