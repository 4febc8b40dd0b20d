"""The columns of the history that one chooses; the run's id and what can be done to it are always
there."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """``name`` stands in the address (``columns=status,loss``); ``number``: aligned to the
    right."""

    name: str
    label: str
    number: bool = False


COLUMNS = {
    column.name: column
    for column in (
        Column("dataset", "Dataset"),
        Column("model", "Model"),
        Column("mode", "Mode"),
        Column("status", "Status"),
        Column("created", "Created"),
        Column("started", "Started At"),
        Column("completed", "Completed"),
        Column("duration", "Duration", number=True),
        Column("loss", "Loss"),
        Column("steps", "Steps", number=True),
        Column("learning_rate", "Learning rate", number=True),
        Column("epochs", "Epochs", number=True),
        Column("batch_size", "Batch size", number=True),
        Column("max_seq_length", "Sequence length", number=True),
        Column("owner", "Owner"),
        Column("host", "Host"),
        Column("priority", "Priority", number=True),
        Column("attempt", "Attempt", number=True),
        Column("exit_code", "Exit code", number=True),
        Column("outcome", "Outcome"),
        Column("notes", "Notes"),
    )
}
DEFAULT = ("dataset", "model", "mode", "status", "started", "duration", "loss")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the names that are columns, each once, in the order of the table."""
    wanted = set(names)
    return tuple(name for name in COLUMNS if name in wanted)


def parse_columns(text: str) -> tuple[str, ...]:
    """Return ``status,loss`` as names of columns. Raise ValueError for an unknown name, or none at
    all."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in COLUMNS]:
        raise ValueError(f"There is no column {unknown[0][:64]!r}. There are {', '.join(COLUMNS)}.")
    if not names:
        raise ValueError("Choose a column.")
    return in_order(names)
