"""The tokenised dataset: memory-mapped files, made once and found again by what they depend on.

``pieces.bin`` holds one record a trainable sequence (``PIECE``), ``tokens.bin`` all their ids one
after another, ``learnt.bin`` whether each of them is learnt, ``answers.bin`` the byte offsets of
held-out lines with a final answer, ``meta.json`` the counts. A million examples cost some twenty
megabytes of records, mapped, not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from runs.trainer.data.dataset import Example, read_examples
from runs.trainer.data.tokenizer import Encoded, Tokenizer
from runs.trainer.data.windows import TOO_LONG, windows
from runs.trainer.errors import DataError, ModelError

# Examples tokenised at once, which the Hugging Face tokenizer spreads over the cores: so many, or
# so many bytes of lines.
CHUNK_EXAMPLES, CHUNK_BYTES = 1024, 2**21

# start: index into tokens.bin and learnt.bin; length: tokens; offset: byte offset of the example's
# line in dataset.jsonl.
PIECE = np.dtype([("start", "<i8"), ("offset", "<i8"), ("length", "<i4"), ("held_out", "?")])


# The rows of token ids of some examples, in their order. May raise DataError, for one bad example.
Encode = Callable[[Tokenizer, list[Example]], list[list[Encoded]]]


@dataclass(frozen=True)
class TokenisedData:
    """``pieces`` [n] of PIECE, ``tokens`` [sum of lengths] int32 and ``learnt`` bool, ``answers``
    [k] int64; ``counts`` for the reports."""

    pieces: np.ndarray
    tokens: np.ndarray
    learnt: np.ndarray
    answers: np.ndarray
    counts: dict[str, Any]
    key: str  # what the content depends on, hashed

    def check_vocabulary(self, size: int) -> None:
        """Raise ModelError if the tokenizer gives ids that the model has no embedding for."""
        largest = self.counts["largest_id"]
        if largest >= size:
            raise ModelError(
                f"the tokenizer gives id {largest}, but the model's vocabulary ends at {size - 1}; "
                "tokenizer and model do not belong together"
            )

    def select(self, *, held_out: bool) -> np.ndarray:
        """Return the indices of the pieces of one split, in file order."""
        return np.flatnonzero(self.pieces["held_out"] == held_out)


def tokenised_data(
    dataset: Path,
    *,
    tokenizer: Tokenizer,
    encode: Encode,
    encoding: str,
    max_length: int,
    too_long: str,
    cache_root: Path,
    check_stop: Callable[[], None] = lambda: None,
) -> TokenisedData:
    """Tokenise ``dataset``, or find it tokenised below ``cache_root``.

    Args:
        encode: makes token ids, and which of them are learnt, of some examples.
        encoding: part of the cache's key; names what ``encode`` does, and in which version.
        max_length: tokens of the longest sequence.
        too_long: what happens to longer ones, see the parameter of this name.
        check_stop: called between chunks of examples; may raise.

    Raises:
        DataError: bad lines, or no example of the training part can be learnt from.
    """
    folder = cache_root / _key(dataset, encoding, tokenizer.fingerprint, max_length, too_long)
    if not (folder / "meta.json").is_file():
        _build(dataset, folder, partial(encode, tokenizer), max_length, too_long, check_stop)
    try:
        data = _open(folder)
    except FileNotFoundError:  # removed in the meantime, as an erasure does
        shutil.rmtree(folder, ignore_errors=True)
        _build(dataset, folder, partial(encode, tokenizer), max_length, too_long, check_stop)
        data = _open(folder)
    _check_not_empty(data.counts, max_length, too_long)
    return data


def _key(dataset: Path, encoding: str, tokenizer: str, max_length: int, too_long: str) -> str:
    try:
        with open(dataset, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {dataset}: {error.strerror or error}") from error
    parts = "\0".join((encoding, content, tokenizer, str(max_length), too_long))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _build(
    dataset: Path,
    folder: Path,
    encode: Callable[[list[Example]], list[list[Encoded]]],
    max_length: int,
    too_long: str,
    check_stop: Callable[[], None],
) -> None:
    """Write the files under a temporary name, then rename: a folder that is there is whole."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with (
            open(temporary / "tokens.bin", "wb") as tokens,
            open(temporary / "learnt.bin", "wb") as learnt,
            open(temporary / "pieces.bin", "wb") as pieces,
            open(temporary / "answers.bin", "wb") as answers,
        ):
            counts = _Counts()
            for chunk in _chunks(read_examples(dataset)):
                check_stop()
                encoded = _encode(encode, chunk)
                _write_chunk(
                    chunk, encoded, counts, max_length, too_long, (tokens, learnt, pieces, answers)
                )
        (temporary / "meta.json").write_text(json.dumps(counts.as_dict()))
        try:
            os.rename(temporary, folder)
        except OSError:
            # else another run was faster, with the same content
            if not (folder / "meta.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _encode(
    encode: Callable[[list[Example]], list[list[Encoded]]], chunk: list[Example]
) -> list[list[Encoded]]:
    try:
        return encode(chunk)
    except DataError:
        for example in chunk:  # one by one, to name the line
            try:
                encode([example])
            except DataError as error:
                raise DataError(f"line {example.line} ({example.id}): {error}") from error
        raise


class _Counts:
    """What is counted while tokenising; each split apart."""

    def __init__(self) -> None:
        self.splits = {
            name: {
                "examples": 0,
                "pieces": 0,
                "tokens": 0,
                "answer_tokens": 0,
                "dropped": 0,
                "truncated": 0,
                "split": 0,
                "no_answer": 0,
            }
            for name in ("train", "held_out")
        }
        self.control_texts = 0
        self.systems_moved = 0
        self.developers_moved = 0
        self.ends_with_text = 0
        self.position = 0
        self.largest_id = 0
        self.lengths: dict[int, int] = {}  # histogram of whole examples, in steps of 16 tokens

    def as_dict(self) -> dict[str, Any]:
        histogram = [[length, count] for length, count in sorted(self.lengths.items())]
        return {
            **self.splits,
            "control_texts": self.control_texts,
            "systems_moved": self.systems_moved,
            "developers_moved": self.developers_moved,
            "ends_with_text": self.ends_with_text,
            "largest_id": self.largest_id,
            "length_histogram": histogram,
        }


def _write_chunk(
    chunk: list[Example],
    encoded: list[list[Encoded]],
    counts: _Counts,
    max_length: int,
    too_long: str,
    files: tuple[BinaryIO, BinaryIO, BinaryIO, BinaryIO],
) -> None:
    tokens, learnt, pieces, answers = files
    all_ids: list[np.ndarray] = []
    ids_out: list[np.ndarray] = []
    learnt_out: list[np.ndarray] = []
    records: list[tuple[int, int, int, bool]] = []
    for example, rows in zip(chunk, encoded, strict=True):
        arrays = []
        longest = control_texts = 0
        system_moved = developer_moved = end_has_text = False
        for row in rows:
            ids, mask = _arrays(row)
            arrays.append((ids, mask))
            longest = max(longest, len(ids))
            control_texts = max(control_texts, row.control_texts)
            system_moved |= row.system_moved
            developer_moved |= row.developer_moved
            end_has_text |= row.end_has_text
            all_ids.append(ids)
        counts.control_texts += control_texts
        counts.systems_moved += system_moved
        counts.developers_moved += developer_moved
        counts.ends_with_text += end_has_text
        count = counts.splits["held_out" if example.held_out else "train"]
        count["examples"] += 1
        bucket = longest // 16 * 16
        counts.lengths[bucket] = counts.lengths.get(bucket, 0) + 1
        if example.held_out and example.final_answer is not None:
            answers.write(np.int64(example.offset).tobytes())
        if longest > max_length:
            count[TOO_LONG[too_long]] += 1
            if too_long == "drop":
                continue
        cut = [piece for ids, mask in arrays for piece in _cut(ids, mask, max_length, too_long)]
        if not cut:
            count["no_answer"] += 1
        for piece, piece_mask in cut:
            records.append((counts.position, example.offset, len(piece), example.held_out))
            ids_out.append(piece)
            learnt_out.append(piece_mask)
            counts.position += len(piece)
            count["pieces"] += 1
            count["tokens"] += len(piece)
            count["answer_tokens"] += int(np.count_nonzero(piece_mask))
    counts.largest_id = max(counts.largest_id, int(np.concatenate(all_ids).max()))
    if records:
        tokens.write(np.concatenate(ids_out).tobytes())
        learnt.write(np.concatenate(learnt_out).tobytes())
        pieces.write(np.array(records, dtype=PIECE).tobytes())


def _arrays(row: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return ids, and whether each is learnt."""
    mask = np.zeros(len(row.ids), dtype=bool)
    for start, end in row.counted:
        mask[start:end] = True
    return np.asarray(row.ids, dtype="<i4"), mask


def _cut(
    ids: np.ndarray, mask: np.ndarray, max_length: int, too_long: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the sequences that a row becomes (windows.py), each with which of its tokens are
    learnt. Leave out a sequence without a learnt token."""
    for start, end, learnt_from in windows(len(ids), max_length, too_long):
        learnt = mask[start:end].copy()
        learnt[: learnt_from - start] = False
        if learnt.any():
            yield ids[start:end], learnt


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    size = 0
    for example in examples:
        chunk.append(example)
        # each answer may become a row, with all that stands before it
        size += example.size * len(example.conversation.learnt)
        if len(chunk) >= CHUNK_EXAMPLES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _open(folder: Path) -> TokenisedData:
    counts = json.loads((folder / "meta.json").read_text())

    def mapped(name: str, dtype: Any) -> np.ndarray:
        path = folder / name
        return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)

    return TokenisedData(
        pieces=mapped("pieces.bin", PIECE),
        tokens=mapped("tokens.bin", "<i4"),
        learnt=mapped("learnt.bin", "?"),
        answers=mapped("answers.bin", "<i8"),
        counts=counts,
        key=folder.name,
    )


def _check_not_empty(counts: dict[str, Any], max_length: int, too_long: str) -> None:
    train = counts["train"]
    if train["pieces"]:
        return
    if not train["examples"]:
        raise DataError(
            "the dataset has no training part: every example is held out; change the share held out"
        )
    if train["dropped"] == train["examples"]:
        raise DataError(
            f"every example is longer than max_seq_length {max_length}; raise it, or set too_long"
            " to truncate or split"
        )
    raise DataError(
        f"nothing is left to learn: within max_seq_length {max_length} (too_long: {too_long}) no"
        " example has a token of its answer; raise max_seq_length"
    )
