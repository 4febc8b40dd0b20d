"""Formats whose examples are spread over several lines: answers with a verdict (KTO), and messages
of trees (OASST).

The lines wait in an SQLite file of their own until all are there, so that memory does not grow with
their number. Then they become lines of formats that have one example a line.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from datasets.examples.messages import MAX_MESSAGES
from datasets.examples.schema import MAX_TRACE_BYTES, json_kind
from datasets.formats.lines import Line, LineError
from datasets.formats.verdicts import is_true, verdict_of
from datasets.models import Kind
from tunixrt.readable import is_blank

_PRAGMAS = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16000;
"""
# Of a KTO line beside its prompt, what the two answers of a pair must share.
_SURROUNDINGS = ("system", "system_prompt", "systemInstruction", "tools", "functions")


@dataclass(frozen=True, slots=True)
class Grouped:
    """What lines become together.

    Attributes:
        number, where: of the first of them, and the beginning of what is said about it.
        content: what is kept of them when they are left out.
        result: a line with one example, or why there is none.
        split: the part that the lines name.
    """

    number: int
    where: str
    content: Any
    result: Line | LineError
    split: str | None = None


class Grouping:
    """Lines that wait for others.

    Attributes:
        left_out: what is not used, and how often, without being wrong.
    """

    SCHEMA = ""

    def __init__(self, path: Path):
        path.unlink(missing_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.executescript(_PRAGMAS + self.SCHEMA)
        self._file.execute("BEGIN")
        self.left_out: dict[str, int] = {}

    def add(self, number: int, where: str, line: Line, split: str | None) -> None:
        """Add a line. Raise LineError."""
        raise NotImplementedError

    def examples(self, kind: str | None) -> Iterator[Grouped]:
        """Yield what the lines become, all of which have been added."""
        raise NotImplementedError

    def close(self) -> None:
        self._file.close()

    def _leave_out(self, what: str, count: int) -> None:
        if count:
            self.left_out[what] = self.left_out.get(what, 0) + count


# --- KTO ------------------------------------------------------------------------------------------


class Verdicts(Grouping):
    """Answers, each with a verdict. Good and bad answers to the same prompt become pairs: as many
    as there are of the more frequent ones. A bad answer is never learnt otherwise."""

    SCHEMA = """
    CREATE TABLE answers (
        place INTEGER PRIMARY KEY, number INTEGER NOT NULL, file TEXT NOT NULL,
        prompt BLOB NOT NULL, good INTEGER NOT NULL, split TEXT, line TEXT NOT NULL
    );
    """

    def add(self, number: int, where: str, line: Line, split: str | None) -> None:
        good = verdict_of(line["label"])
        if good is None:
            raise LineError(f"label: must be true or false, not {json_kind(line['label'])}")
        key = [line["prompt"], *(line.get(name) for name in _SURROUNDINGS)]
        self._file.execute(
            "INSERT INTO answers (number, file, prompt, good, split, line)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (number, where, _digest(key), good, split, _text(line)),
        )

    def examples(self, kind: str | None) -> Iterator[Grouped]:
        self._file.execute("CREATE INDEX by_prompt ON answers (prompt, good, place)")
        if kind in (None, Kind.PREFERENCE):
            yield from self._pairs()
            return
        (bad,) = self._file.execute("SELECT count(*) FROM answers WHERE NOT good").fetchone()
        self._leave_out("answers whose label is false", bad)
        for number, where, split, text in self._file.execute(
            "SELECT number, file, split, line FROM answers WHERE good ORDER BY place"
        ):
            line = orjson.loads(text)
            rest = {name: value for name, value in line.items() if name != "label"}
            yield Grouped(number, where, line, rest, split)

    def _pairs(self) -> Iterator[Grouped]:
        for prompt, good, bad in self._file.execute(
            "SELECT prompt, sum(good), sum(NOT good) FROM answers"
            " GROUP BY prompt ORDER BY min(place)"
        ):
            if good and bad:
                pairs = zip(self._again(prompt, True), self._again(prompt, False), strict=True)
                yield from (_pair(*pair) for pair in islice(pairs, max(good, bad)))
                continue
            reason = (
                "has no answer with the label false to the same prompt: there is no pair;"
                " kind=trace learns the answers whose label is true"
                if good
                else "has no answer with the label true to the same prompt: there is no pair, and"
                " what is wrong is not learnt alone"
            )
            for number, where, _, text in self._side(prompt, bool(good)):
                yield Grouped(number, where, orjson.loads(text), LineError(reason))

    def _side(self, prompt: bytes, good: bool) -> Iterator[Any]:
        return self._file.execute(
            "SELECT number, file, split, line FROM answers WHERE prompt = ? AND good = ?"
            " ORDER BY place",
            (prompt, good),
        )

    def _again(self, prompt: bytes, good: bool) -> Iterator[Any]:
        """Yield the answers of one side, repeating from the first when they end."""
        while True:
            yield from self._side(prompt, good)


def _pair(good: Any, bad: Any) -> Grouped:
    """Return a pair of a line with both answers. Keep the fields in which they agree."""
    (number, where, split, text), (_, _, other_split, other_text) = good, bad
    chosen, rejected = orjson.loads(text), orjson.loads(other_text)
    content = [chosen, rejected]
    if split != other_split:
        reason = f"is in the part {split}, the other answer of the pair in {other_split}"
        return Grouped(number, where, content, LineError(reason))
    line = {
        "prompt": chosen["prompt"],
        "chosen": chosen["completion"],
        "rejected": rejected["completion"],
    }
    sides = {"chosen": chosen, "rejected": rejected}
    for name in dict.fromkeys((*chosen, *rejected)):
        if name in ("prompt", "completion", "label"):
            continue
        if name in chosen and name in rejected and chosen[name] == rejected[name]:
            line[name] = chosen[name]
        else:
            line[name] = {side: said[name] for side, said in sides.items() if name in said}
    return Grouped(number, where, content, line, split)


# --- OASST ----------------------------------------------------------------------------------------

_ROLES = {"prompter": "user", "user": "user", "assistant": "assistant"}
_KEPT = ("message_tree_id", "lang")  # of a tree


class Trees(Grouping):
    """Messages that name the one they reply to. Of each tree the path of the replies with the best
    rank becomes a conversation, or the best reply with each one of a lower rank a pair."""

    SCHEMA = """
    CREATE TABLE messages (
        place INTEGER PRIMARY KEY, number INTEGER NOT NULL, file TEXT NOT NULL,
        id TEXT NOT NULL UNIQUE, parent TEXT, role TEXT NOT NULL, text TEXT NOT NULL, rank REAL,
        kept TEXT NOT NULL, split TEXT, depth INTEGER
    );
    """

    def add(self, number: int, where: str, line: Line, split: str | None) -> None:
        name, parent = line["message_id"], line["parent_id"]
        if not isinstance(name, str) or not name:
            raise LineError(f"message_id: must be text, not {json_kind(name)}")
        if parent is not None and not isinstance(parent, str):
            raise LineError(f"parent_id: must be text or null, not {json_kind(parent)}")
        role, text = line.get("role"), line["text"]
        if not isinstance(role, str) or role not in _ROLES:
            raise LineError(f"role: must be prompter or assistant, not {str(role)[:40]!r}")
        if not isinstance(text, str) or is_blank(text):
            raise LineError("text: must be text, and not blank")
        if is_true(line.get("deleted")):
            raise LineError(f"the message {name[:60]} was deleted")
        if verdict_of(line.get("review_result")) is False:
            raise LineError(f"the message {name[:60]} was refused by its reviewers")
        kept = {name: line[name] for name in _KEPT if line.get(name) is not None}
        try:
            self._file.execute(
                "INSERT INTO messages (number, file, id, parent, role, text, rank, kept, split)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(number, where, name, parent or None, _ROLES[role], text),
                    *(_rank(line.get("rank")), _text(kept), split),
                ),
            )
        except sqlite3.IntegrityError as error:
            raise LineError(f"the message_id {name[:60]} stands twice") from error

    def examples(self, kind: str | None) -> Iterator[Grouped]:
        self._file.execute("CREATE INDEX by_parent ON messages (parent, rank, place)")
        self._measure_depths()
        yield from self._lost()
        if kind == Kind.PREFERENCE:
            yield from self._pairs()
        else:
            yield from self._conversations()

    def _measure_depths(self) -> None:
        """Record how far each message is from its root; a message that no root leads to has no
        depth. No message is reached twice, since each has one parent."""
        self._file.execute(
            "WITH RECURSIVE found (place, id, depth) AS ("
            " SELECT place, id, 1 FROM messages WHERE parent IS NULL UNION ALL"
            " SELECT messages.place, messages.id, found.depth + 1"
            " FROM found JOIN messages ON messages.parent = found.id)"
            " UPDATE messages SET depth = found.depth FROM found"
            " WHERE messages.place = found.place"
        )

    def _lost(self) -> Iterator[Grouped]:
        """Yield the lines that belong to no tree."""
        self._file.execute(
            "CREATE TEMPORARY TABLE orphans AS WITH RECURSIVE found (place, id, itself) AS ("
            " SELECT place, id, 1 FROM messages WHERE depth IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM messages AS parents WHERE parents.id = messages.parent) UNION ALL"
            " SELECT messages.place, messages.id, 0"
            " FROM found JOIN messages ON messages.parent = found.id)"
            " SELECT place AS orphan, itself FROM found"
        )
        self._file.execute("CREATE INDEX by_orphan ON orphans (orphan)")
        for number, where, name, parent, text, itself in self._file.execute(
            "SELECT number, file, id, parent, text, itself FROM messages"
            " LEFT JOIN orphans ON orphan = place WHERE depth IS NULL ORDER BY place"
        ):
            if itself is None:
                reason = f"the message {name[:60]} is among its own parents, or follows such a one"
            elif itself:
                reason = f"the parent_id {parent[:60]} is not among the messages that are valid"
            else:
                reason = f"the message {name[:60]} follows one whose parent_id is not valid"
            content = {"message_id": name, "parent_id": parent, "text": text}
            yield Grouped(number, where, content, LineError(reason))

    def _conversations(self) -> Iterator[Grouped]:
        used = 0
        for number, where, name, split, kept in self._file.execute(
            "SELECT number, file, id, split, kept FROM messages WHERE parent IS NULL ORDER BY place"
        ):
            about = {"message_id": name}
            try:
                messages, splits = _taken(self._best_path(name))
                while messages and messages[-1]["role"] == "user":
                    messages.pop()
                used += len(messages)
                if not messages:
                    continue
                if splits != {split}:
                    raise LineError("the messages of the conversation are in several parts")
            except LineError as error:
                yield Grouped(number, where, about, error)
                continue
            line = {"messages": messages} | orjson.loads(kept)
            yield Grouped(number, where, about, line, split)
        (count,) = self._file.execute(
            "SELECT count(*) FROM messages WHERE depth IS NOT NULL"
        ).fetchone()
        self._leave_out("messages beside the best path of their tree", count - used)

    def _best_path(self, root: str) -> Iterator[Any]:
        found = self._file.execute(
            "SELECT id, role, text, split FROM messages WHERE id = ?", (root,)
        ).fetchone()
        while found:
            yield found
            found = self._file.execute(
                "SELECT id, role, text, split FROM messages WHERE parent = ?"
                " ORDER BY rank IS NULL, rank, place LIMIT 1",
                (found[0],),
            ).fetchone()

    def _pairs(self) -> Iterator[Grouped]:
        used = 0
        for (parent,) in self._file.execute(
            "SELECT parent FROM messages WHERE role = 'assistant' AND depth IS NOT NULL"
            " AND rank IS NOT NULL AND parent IS NOT NULL"
            " GROUP BY parent HAVING min(rank) < max(rank) ORDER BY min(place)"
        ):
            prompt: list[Line] | LineError
            try:
                messages, splits = _taken(self._path_up(parent))
                prompt = messages[::-1]
            except LineError as error:
                prompt, splits = error, set()
            replies = self._file.execute(
                "SELECT number, file, text, rank, split, kept FROM messages WHERE parent = ?"
                " AND role = 'assistant' AND rank IS NOT NULL ORDER BY rank, place",
                (parent,),
            )
            _, _, best, best_rank, best_split, _ = next(replies)
            used += 1
            for number, where, text, rank, split, kept in replies:
                if rank == best_rank:
                    continue
                used += 1
                result: Line | LineError
                if isinstance(prompt, LineError):
                    result = prompt
                elif splits | {best_split} != {split}:
                    result = LineError("the messages of the pair are in several parts")
                else:
                    pair = {"prompt": prompt, "chosen": best, "rejected": text}
                    result = pair | orjson.loads(kept)
                content = {"parent_id": parent, "chosen": best, "rejected": text}
                yield Grouped(number, where, content, result, split)
        (count,) = self._file.execute(
            "SELECT count(*) FROM messages WHERE role = 'assistant' AND depth IS NOT NULL"
        ).fetchone()
        self._leave_out("replies that are in no pair", count - used)

    def _path_up(self, name: str | None) -> Iterator[Any]:
        while name is not None:
            found = self._file.execute(
                "SELECT parent, role, text, split FROM messages WHERE id = ?", (name,)
            ).fetchone()
            yield found
            name = found[0]


def _taken(path: Iterator[Any]) -> tuple[list[Line], set[str | None]]:
    """Return the messages of a path, and the parts that they name. Raise LineError where there are
    more than an example may have, and read no further."""
    messages: list[Line] = []
    splits: set[str | None] = set()
    size = 0
    for _, role, text, split in path:
        size += len(text)
        if len(messages) == MAX_MESSAGES:
            raise LineError(f"has more than {MAX_MESSAGES:,} messages from the root of its tree")
        if size > MAX_TRACE_BYTES:
            raise LineError(f"has more than {MAX_TRACE_BYTES:,} bytes from the root of its tree")
        messages.append({"role": role, "content": text})
        splits.add(split)
    return messages, splits


def _rank(value: Any) -> float | None:
    """Return the rank of a message. Raise LineError."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise LineError(f"rank: must be a number or null, not {json_kind(value)}") from error


def _text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise LineError("is nested too deeply") from error


def _digest(value: Any) -> bytes:
    try:
        return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()
    except TypeError as error:
        raise LineError("is nested too deeply") from error


GROUPINGS: dict[str, Callable[[Path], Grouping]] = {"kto": Verdicts, "oasst": Trees}
