"""How sequences share rows: best-fit packing, or length buckets without it."""

from __future__ import annotations

import numpy as np

MOST_BUCKETS = 4  # every bucket is one more shape to compile
WORTH_A_BUCKET = 0.9  # another bucket must leave at most this share of the padded tokens


def pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Put sequences into as few rows of ``capacity`` tokens as possible, by best-fit decreasing.

    Each sequence, longest first, goes to the row whose free space it fills best; equal lengths keep
    their order, so the result is a function of the input alone. At most 11/9 of the fewest possible
    rows, plus one (Johnson, 1973).

    Returns:
        the row of each sequence, int32 ``[n]``, and the number of rows. Rows are numbered in order
        of opening.
    """
    row_of = np.empty(len(lengths), dtype=np.int32)
    open_rows: dict[int, list[int]] = {}  # free space → rows that have it
    # bit s is set while open_rows has rows with s tokens free: finding the best fit is one shift
    spaces = 0
    rows = 0
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            candidates = open_rows[space]
            row = candidates.pop()
            if not candidates:
                spaces &= ~(1 << space)
        else:
            row, space = rows, capacity
            rows += 1
        row_of[index] = row
        left = space - length
        if left > 0:
            open_rows.setdefault(left, []).append(row)
            spaces |= 1 << left
    return row_of, rows


def group_rows(row_of: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the members of every row: ``members[starts[r]:starts[r + 1]]`` are the sequences of
    row r, in their own order."""
    members = np.argsort(row_of, kind="stable").astype(np.int32)
    starts = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_of, minlength=rows), out=starts[1:])
    return members, starts


def bucket_lengths(lengths: np.ndarray, longest: int) -> list[int]:
    """Return at most four row lengths, ascending, that waste the least padding; the last holds the
    longest sequence.

    Lengths are multiples of 16 up to 256 tokens and of 64 above, never more than ``longest``.
    """
    counts = np.bincount(round_up(lengths, longest))
    candidates = np.flatnonzero(counts)
    below = np.concatenate([[0], np.cumsum(counts[candidates])])
    count = len(candidates)
    # best[k][j]: fewest padded tokens when k buckets cover the first j candidates; the k-th bucket
    # ends at candidate j.
    best = np.full((MOST_BUCKETS + 1, count + 1), np.inf)
    best[0, 0] = 0
    choice = np.zeros((MOST_BUCKETS + 1, count + 1), dtype=int)
    for k in range(1, MOST_BUCKETS + 1):
        for j in range(1, count + 1):
            costs = best[k - 1, :j] + (below[j] - below[:j]) * candidates[j - 1]
            choice[k, j] = int(np.argmin(costs))
            best[k, j] = costs[choice[k, j]]
    buckets = 1
    while (
        buckets < min(MOST_BUCKETS, count)
        and best[buckets + 1, count] <= WORTH_A_BUCKET * best[buckets, count]
    ):
        buckets += 1
    chosen: list[int] = []
    end = count
    for k in range(buckets, 0, -1):
        chosen.append(int(candidates[end - 1]))
        end = choice[k, end]
    return sorted(chosen)


def round_up(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return lengths as rows have them: multiples of 16 up to 256, of 64 above, at most
    ``longest``."""
    lengths = np.asarray(lengths)
    steps = np.where(lengths <= 256, 16, 64)
    return np.minimum(-(-lengths // steps) * steps, longest)
