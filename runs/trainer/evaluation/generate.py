"""Generate outputs for many prompts, fast on a CPU and with results that depend on no batching.

Prompts are computed side by side in packs of one length, without padding between them. Decoding
takes one token of each row at a time, many times in one compiled call; the call returns when a row
has finished and another prompt can take its place.

All rows write the keys and values of a step to the same column of the cache, and a new prompt's end
at the column before it. So a step scatters nothing, attention covers as many columns as the longest
row has tokens, and rows that have finished leave no hole. The cache has one of a few lengths; it
moves to a longer or shorter one, or its rows move to its beginning, between calls.

Sampling takes one random number a token, of the seed, the prompt's number, the sample's number and
the token's position: neither rows nor the order in which they are filled have a say. Greedy and
sampled outputs are the same for any number of rows, except where rounding decides between two
tokens.

With SmolLM2-135M, 16 rows and LoRA, a processor second makes 124 to 133 tokens, with google-tunix's
sampler 63 to 76; docs/performance.md ("Generation") says what each measure brings.

What differs from google-tunix's sampler: prompts are token ids, any number at once and of any
length; the end token stays in the output; prompts are not padded; on CPUs LoRA matrices are merged
once and not at every token; ids of padding and of forbidden tokens do not exist. It has no beam
search, no images, and does not return logits.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from runs.spec.architectures import Architecture
from runs.trainer.modeling.decoding import Keys, Weights, logits, pack_forward, step_forward

PACK = 512  # tokens of prompts that are computed at once, more where one prompt is longer
STEPS = 16  # tokens of each row in one compiled call: how long a stop request waits
_ROOM = 16  # columns that a cache has left at least when it is made or changed
_BLOCK = 64  # the lengths of caches are multiples of it
_CUT = 256  # entries of the vocabulary that are summed first when one is drawn

STOP, LENGTH, TOO_LONG, EMPTY = "stop", "length", "too_long", "empty"


@dataclass(frozen=True)
class Output:
    """An answer to a prompt. ``prompt`` is its place in the list, ``sample`` counts from 0.

    ``tokens`` end with a stop id if ``finish_reason`` is ``stop``, or are what ``has_ended`` found
    to be complete. ``length``: ``max_tokens`` were generated. ``too_long`` and ``empty``: nothing
    was generated, because of the prompt. ``seconds``: for how long it had a row.
    ``log_probs`` are those of ``tokens`` at the temperature of sampling (at 1 for greedy decoding),
    before ``top_p`` cuts; None if not asked for.
    """

    prompt: int
    sample: int
    tokens: list[int]
    finish_reason: str
    log_probs: list[float] | None = None
    seconds: float = field(default=0.0, compare=False)


class _State(NamedTuple):
    """What a compiled call continues from. B rows, L layers, C columns."""

    keys: Keys  # L × [B, K, H, C]
    values: Keys  # L × [B, K, C, H]
    hidden: jax.Array  # [D, B]: of each row's last token, from which its next one is chosen
    column: jax.Array  # the next to be written
    starts: jax.Array  # [B]: the column of a row's first token
    counts: jax.Array  # [B]: tokens generated
    limits: jax.Array  # [B]: tokens to generate at most
    active: jax.Array  # [B]: not finished
    noise: jax.Array  # [B, 2]: random keys
    tokens: jax.Array  # [B, max_tokens]
    log_probs: jax.Array  # [B, max_tokens]


class _Sampling(NamedTuple):
    """What decides about the compiled program."""

    greedy: bool
    nucleus: bool
    log_probs: bool


@dataclass
class _Pack:
    """Prompts that are computed and wait for a row."""

    hidden: jax.Array
    keys: Keys
    values: Keys


@dataclass
class _Job:
    """An output to generate: a prompt of a pack."""

    pack: _Pack
    slot: int
    end: int  # its end in the pack
    length: int
    prompt: int
    sample: int


def most_rows(architecture: Architecture, *, length: int, itemsize: int, memory: int) -> int:
    """Return how many rows of ``length`` tokens a cache of ``memory`` bytes has, at least one."""
    a = architecture
    row = 2 * itemsize * a.layers * a.kv_heads * a.head_dim * _capacity(length + _ROOM)
    return max(1, memory // row)


def generation_bytes(
    architecture: Architecture, *, rows: int, prompt_length: int, max_tokens: int, itemsize: int
) -> int:
    """Return the bytes that a ``Generator`` takes at most beside the weights: the cache, and again
    when it moves to another length; two packs of prompts; the layer at work on one; logits."""
    a = architecture
    pack = _capacity(max(PACK, prompt_length))
    columns = 2 * rows * _capacity(prompt_length + max_tokens + _ROOM) + 2 * pack
    cached = 2 * itemsize * a.layers * a.kv_heads * a.head_dim * columns
    block = max(128, -(-pack // 1024) * 128)  # of queries (modeling/attention.py)
    scores = 3 * 4 * a.heads * min(block, pack)
    at_work = pack * (pack + scores + itemsize * (8 * a.hidden + 4 * a.intermediate))
    return cached + at_work + 3 * 4 * rows * a.vocab


class Generator:
    """Generates for ``rows`` prompts at a time. Compiled functions are kept from call to call."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        stop_ids: Iterable[int],
        rows: int,
        prompt_length: int,
        max_tokens: int,
    ):
        """Make a generator. ``prompt_length`` and ``max_tokens``: most tokens of a prompt, and of
        an output.

        Raises:
            ValueError: a number below 1.
        """
        if min(rows, prompt_length, max_tokens) < 1:
            raise ValueError("rows, prompt_length and max_tokens must be at least 1")
        self.architecture = architecture
        self.stop_ids = frozenset(stop_ids)
        self.rows = rows
        self.prompt_length = prompt_length
        self.max_tokens = max_tokens

    def generate(
        self,
        weights: Weights,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        samples: int = 1,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        max_tokens: int | None = None,
        log_probs: bool = False,
        has_ended: Callable[[list[int]], bool] | None = None,
        on_finished: Callable[[Output], None] | None = None,
        check_stop: Callable[[], None] | None = None,
    ) -> list[list[Output]]:
        """Return ``samples`` outputs for each of ``prompts``, in their order.

        ``weights`` are those of ``decoding_weights``. ``temperature`` 0 is greedy: all samples of a
        prompt are the same then, and generated once. ``top_p`` keeps the most probable tokens that
        together have this probability, and all that are as probable as the last of them.
        ``numbers`` stand for the places of the prompts in random numbers: with them a part of the
        prompts gets the outputs that it gets among all.

        ``has_ended`` is called with the tokens of each row after each call of a compiled function,
        which generates up to STEPS of them, and says whether they are complete without a stop id.
        ``on_finished`` is called with each output when it is there. ``check_stop`` is called before
        each call of a compiled function and may raise; what was finished was passed on before.

        Raises:
            ValueError: a setting that means nothing.
        """
        limit = self.max_tokens if max_tokens is None else max_tokens
        _check(temperature, top_p, samples, seed, limit, self.max_tokens)
        session = _Session(
            self,
            weights,
            prompts,
            samples=samples if temperature else 1,
            limit=limit,
            numbers=range(len(prompts)) if numbers is None else numbers,
            seed=seed,
            sampling=_Sampling(not temperature, bool(temperature) and top_p < 1, log_probs),
            temperature=temperature or 1.0,
            top_p=top_p,
            has_ended=has_ended,
        )
        outputs: list[list[Output | None]] = [[None] * samples for _ in prompts]
        for output in session.run(check_stop or (lambda: None)):
            copies = [output] if temperature else [_copy(output, k) for k in range(samples)]
            for each in copies:
                outputs[each.prompt][each.sample] = each
                if on_finished is not None:
                    on_finished(each)
        return outputs  # type: ignore[return-value]  # run yields every one


def _check(
    temperature: float, top_p: float, samples: int, seed: int, limit: int, most: int
) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature {temperature} must be 0 or a positive number")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p} must be above 0 and at most 1")
    if samples < 1:
        raise ValueError(f"samples {samples} must be at least 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed} must be from 0 to {2**32 - 1}")
    if not 1 <= limit <= most:
        raise ValueError(f"max_tokens {limit} must be from 1 to {most}")


def _copy(output: Output, sample: int) -> Output:
    log_probs = None if output.log_probs is None else list(output.log_probs)
    return replace(output, sample=sample, tokens=list(output.tokens), log_probs=log_probs)


class _Session:
    """One call of ``generate``: which prompt is in which row, and how long the cache is."""

    def __init__(
        self,
        generator: Generator,
        weights: Weights,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int,
        limit: int,
        numbers: Sequence[int],
        seed: int,
        sampling: _Sampling,
        temperature: float,
        top_p: float,
        has_ended: Callable[[list[int]], bool] | None,
    ):
        self.generator, self.weights, self.prompts = generator, weights, prompts
        self.has_ended = has_ended
        self.architecture = generator.architecture
        self.samples, self.limit, self.numbers = samples, limit, numbers
        self.sampling = sampling
        self.placement = _placement(weights)
        self.seed = self._put(np.uint32(seed))
        self.temperature = self._put(np.float32(temperature))
        self.top_p = self._put(np.float32(top_p))
        # -1 is no token
        self.stop_ids = self._put(np.array(sorted(generator.stop_ids) or [-1], np.int32))
        longest = generator.prompt_length
        self.refused = [i for i, p in enumerate(prompts) if not 0 < len(p) <= longest]
        # (length, place), longest last. The longest begin: what remains at the end is short.
        self.waiting = sorted((len(p), -i) for i, p in enumerate(prompts) if 0 < len(p) <= longest)
        self.pack_length = _pack_length([length for length, _ in self.waiting])
        self.jobs: deque[_Job] = deque()
        # row → prompt, sample, and when it began; no pack is kept
        self.running: dict[int, tuple[int, int, float]] = {}
        self.state: _State | None = None
        self.column = self.capacity = 0
        self.starts = [0] * generator.rows

    def run(self, check_stop: Callable[[], None]) -> Iterable[Output]:
        for place in self.refused:
            reason = TOO_LONG if self.prompts[place] else EMPTY
            for sample in range(self.samples):
                yield Output(place, sample, [], reason, [] if self.sampling.log_probs else None)
        while self.waiting or self.jobs or self.running:
            new = self._take_jobs(check_stop)
            self._make_room(new)
            for row, job in new:
                self._insert(row, job)
            check_stop()
            self._decode()
            yield from self._finished()

    def _take_jobs(self, check_stop: Callable[[], None]) -> list[tuple[int, _Job]]:
        """Return jobs for the rows that are free."""
        taken = []
        for row in range(self.generator.rows):
            if row not in self.running:
                if not self.jobs and self.waiting:
                    check_stop()
                    self._prefill()
                if not self.jobs:
                    break
                taken.append((row, self.jobs.popleft()))
        return taken

    def _prefill(self) -> None:
        """Compute the next pack: the longest prompts that fit."""
        length = self.pack_length
        total = sum(size for size, _ in self.waiting)
        if length >= PACK and total <= length // 4:  # the last prompts
            length //= 4
        tokens, positions, segments = (np.zeros(length, np.int32) for _ in range(3))
        lasts = np.zeros(_slots(length), np.int32)
        room = length
        chosen: list[tuple[int, int, int]] = []
        while len(chosen) < len(lasts):
            fitting = bisect_right(self.waiting, (room, 1))
            if not fitting:
                break
            size, negative = self.waiting.pop(fitting - 1)
            begin = length - room
            span = slice(begin, begin + size)
            tokens[span] = self.prompts[-negative]
            positions[span] = np.arange(size)
            segments[span] = len(chosen) + 1
            lasts[len(chosen)] = begin + size - 1
            chosen.append((-negative, begin + size, size))
            room -= size
        pack = _Pack(
            *_prefill(
                self.weights,
                *self._put((tokens, positions, segments, lasts)),
                architecture=self.architecture,
                placement=self.placement,
            )
        )
        self.jobs.extend(
            _Job(pack, slot, end, size, place, sample)
            for slot, (place, end, size) in enumerate(chosen)
            for sample in range(self.samples)
        )

    def _make_room(self, new: list[tuple[int, _Job]]) -> None:
        """Give the cache the length that the rows need, with the longest row at its beginning."""
        longest = max(
            [self.column - self.starts[row] for row in self.running]
            + [job.length for _, job in new]
        )
        capacity = _capacity(longest + _ROOM)
        if self.state is None:
            g = self.generator
            self.state = _empty(
                self.weights["norm"],
                architecture=self.architecture,
                dtype=self.weights["embedding"].dtype,
                rows=g.rows,
                capacity=capacity,
                max_tokens=g.max_tokens,
                placement=self.placement,
            )
        elif longest <= self.column < self.capacity and capacity >= self.capacity:
            return
        else:
            self.state = _move(
                self.state,
                self._put(np.int32(self.column - longest)),
                capacity=capacity,
                placement=self.placement,
            )
        shift = self.column - longest
        self.starts = [start - shift for start in self.starts]
        self.column, self.capacity = longest, capacity
        self.state = self.state._replace(column=self._put(np.int32(longest)))

    def _insert(self, row: int, job: _Job) -> None:
        assert self.state is not None
        facts = {
            "slot": job.slot,
            "end": job.end,
            "row": row,
            "start": self.column - job.length,
            "limit": self.limit,
            "number": self.numbers[job.prompt],
            "sample": job.sample,
        }
        self.state = _insert(
            self.state,
            (job.pack.hidden, job.pack.keys, job.pack.values),
            self.seed,
            self._put({name: np.int32(value) for name, value in facts.items()}),
            placement=self.placement,
        )
        self.starts[row] = self.column - job.length
        self.running[row] = job.prompt, job.sample, time.monotonic()

    def _decode(self) -> None:
        assert self.state is not None
        steps = min(STEPS, self.capacity - self.column)
        refill = bool(self.waiting or self.jobs)
        self.state = _decode(
            self.weights,
            self.state,
            self._put(np.int32(steps)),
            self._put(np.bool_(refill)),
            self.stop_ids,
            self.temperature,
            self.top_p,
            architecture=self.architecture,
            sampling=self.sampling,
            placement=self.placement,
        )

    def _finished(self) -> Iterable[Output]:
        assert self.state is not None
        state = self.state
        column, active, counts = jax.device_get((state.column, state.active, state.counts))
        self.column = int(column)
        rows = [row for row in self.running if not active[row]]
        complete = self._complete(active, counts)
        if not rows and not complete:
            return
        all_tokens, all_log_probs = jax.device_get((state.tokens, state.log_probs))
        now = time.monotonic()
        for row in [*rows, *complete]:
            prompt, sample, began = self.running.pop(row)
            tokens = all_tokens[row, : counts[row]].tolist()
            has_stopped = row in complete or tokens[-1] in self.generator.stop_ids
            reason = STOP if has_stopped else LENGTH
            log_probs = (
                all_log_probs[row, : counts[row]].tolist() if self.sampling.log_probs else None
            )
            yield Output(prompt, sample, tokens, reason, log_probs, now - began)

    def _complete(self, active: np.ndarray, counts: np.ndarray) -> list[int]:
        """End the rows whose tokens are complete, and return them."""
        if self.has_ended is None:
            return []
        assert self.state is not None
        tokens = jax.device_get(self.state.tokens)
        complete = [
            row
            for row in self.running
            if active[row] and self.has_ended(tokens[row, : counts[row]].tolist())
        ]
        if complete:
            left = np.array(active)
            left[complete] = False
            self.state = self.state._replace(active=self._put(left))
        return complete

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self.placement)


def _placement(weights: Weights) -> jax.sharding.Sharding | None:
    """Return the placement of what is whole on every device of the mesh, if there is one."""
    sharding = weights["embedding"].sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return None


def _capacity(tokens: int) -> int:
    """Return the length of a cache for ``tokens``: few lengths, each at most a quarter longer than
    the one before from 256 on."""
    step = _BLOCK
    while step * 8 < tokens:
        step *= 2
    return -(-tokens // step) * step


def _pack_length(lengths: list[int]) -> int:
    """Return the length of packs: PACK, more for a longer prompt, less (a power of two) where there
    is less to do."""
    total, length = sum(lengths), _capacity(max([PACK, *lengths]))
    while length >= 32 and length // 2 >= total:
        length //= 2
    return length


def _slots(pack_length: int) -> int:
    """Return how many prompts a pack has at most."""
    return max(1, pack_length // 8)


def _placed(tree: Any, placement: jax.sharding.Sharding | None) -> Any:
    return tree if placement is None else jax.lax.with_sharding_constraint(tree, placement)


# Compiled for each model and shape; two generators of one model share them.


@partial(jax.jit, static_argnames=("architecture", "placement"))
def _prefill(
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    lasts: jax.Array,
    *,
    architecture: Architecture,
    placement: Any,
) -> tuple[jax.Array, Keys, Keys]:
    hidden, keys, values = pack_forward(weights, architecture, tokens, positions, segments)
    return _placed((hidden[:, lasts], keys, values), placement)


@partial(
    jax.jit,
    static_argnames=("architecture", "dtype", "rows", "capacity", "max_tokens", "placement"),
)
def _empty(
    norm: jax.Array,
    *,
    architecture: Architecture,
    dtype: Any,
    rows: int,
    capacity: int,
    max_tokens: int,
    placement: Any,
) -> _State:
    a = architecture
    numbers = jnp.zeros(rows, jnp.int32)
    state = _State(
        keys=tuple(
            jnp.zeros((rows, a.kv_heads, a.head_dim, capacity), dtype) for _ in range(a.layers)
        ),
        values=tuple(
            jnp.zeros((rows, a.kv_heads, capacity, a.head_dim), dtype) for _ in range(a.layers)
        ),
        hidden=jnp.zeros((norm.shape[0], rows), dtype),
        column=jnp.int32(0),
        starts=numbers,
        counts=numbers,
        limits=numbers,
        active=jnp.zeros(rows, bool),
        noise=jnp.zeros((rows, 2), jnp.uint32),
        tokens=jnp.zeros((rows, max_tokens), jnp.int32),
        log_probs=jnp.zeros((rows, max_tokens), jnp.float32),
    )
    return _placed(state, placement)


@partial(jax.jit, static_argnames=("capacity", "placement"))
def _move(state: _State, shift: jax.Array, *, capacity: int, placement: Any) -> _State:
    """Return the state with a cache of ``capacity`` columns, of which column c was ``c +
    shift``."""
    keys = tuple(_window(array, 3, shift, capacity) for array in state.keys)
    values = tuple(_window(array, 2, shift, capacity) for array in state.values)
    return _placed(state._replace(keys=keys, values=values, starts=state.starts - shift), placement)


def _window(array: jax.Array, axis: int, start: jax.Array, size: int) -> jax.Array:
    """Return ``size`` entries from ``start`` on, which may lie outside: zeros there."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (size, size)
    padded = jnp.pad(array, padding)
    return jax.lax.dynamic_slice_in_dim(padded, start + size, size, axis)


@partial(jax.jit, static_argnames=("placement",), donate_argnames=("state",))
def _insert(
    state: _State,
    pack: tuple[jax.Array, Keys, Keys],
    seed: jax.Array,
    facts: dict[str, jax.Array],
    *,
    placement: Any,
) -> _State:
    """Put a prompt of a pack into a row, its end before the next column."""
    hidden, keys, values = pack
    row, start = facts["row"], facts["start"]
    capacity = state.keys[0].shape[-1]
    first = facts["end"] - state.column  # of the pack, what comes to column 0

    def put(cache: jax.Array, array: jax.Array, axis: int) -> jax.Array:
        taken = _window(array, axis, first, capacity)
        return jax.lax.dynamic_update_index_in_dim(cache, taken, row, 0)

    noise = jax.random.key(seed, impl="threefry2x32")
    for number in (facts["number"], facts["sample"]):
        noise = jax.random.fold_in(noise, number)
    return _placed(
        state._replace(
            keys=tuple(put(c, a, 2) for c, a in zip(state.keys, keys, strict=True)),
            values=tuple(put(c, a, 1) for c, a in zip(state.values, values, strict=True)),
            hidden=state.hidden.at[:, row].set(hidden[:, facts["slot"]]),
            starts=state.starts.at[row].set(start),
            counts=state.counts.at[row].set(0),
            limits=state.limits.at[row].set(facts["limit"]),
            active=state.active.at[row].set(True),
            noise=state.noise.at[row].set(jax.random.key_data(noise)),
        ),
        placement,
    )


@partial(
    jax.jit,
    static_argnames=("architecture", "sampling", "placement"),
    donate_argnames=("state",),
)
def _decode(
    weights: Weights,
    state: _State,
    steps: jax.Array,
    refill: jax.Array,
    stop_ids: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    *,
    architecture: Architecture,
    sampling: _Sampling,
    placement: Any,
) -> _State:
    """Generate up to ``steps`` tokens a row, until all have finished, or one has if ``refill``."""
    began = state.active

    def continues(carried: tuple[jax.Array, _State]) -> jax.Array:
        done, now = carried
        finished = (began & ~now.active).any()
        return (done < steps) & now.active.any() & ~(refill & finished)

    def step(carried: tuple[jax.Array, _State]) -> tuple[jax.Array, _State]:
        done, now = carried
        chosen, log_probs = _choose(
            logits(weights, architecture, now.hidden), now, sampling, temperature, top_p
        )
        here = now.active[:, None] & (
            jnp.arange(now.tokens.shape[1])[None, :] == now.counts[:, None]
        )
        counts = now.counts + now.active
        ended = (chosen[:, None] == stop_ids[None, :]).any(axis=1) | (counts >= now.limits)
        hidden, keys, values = step_forward(
            weights,
            architecture,
            chosen,
            keys=now.keys,
            values=now.values,
            starts=now.starts,
            column=now.column,
        )
        return done + 1, now._replace(
            keys=keys,
            values=values,
            hidden=hidden,
            column=now.column + 1,
            counts=counts,
            active=now.active & ~ended,
            tokens=jnp.where(here, chosen[:, None], now.tokens),
            log_probs=jnp.where(here, log_probs[:, None], now.log_probs),
        )

    return _placed(jax.lax.while_loop(continues, step, (jnp.int32(0), state))[1], placement)


def _choose(
    scores: jax.Array,
    state: _State,
    sampling: _Sampling,
    temperature: jax.Array,
    top_p: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the next token of each row and its log-probability (0 if not asked for), of logits
    ``[V, B]``."""
    if sampling.greedy:
        chosen = jnp.argmax(scores, axis=0).astype(jnp.int32)
        if not sampling.log_probs:
            return chosen, jnp.zeros(chosen.shape, jnp.float32)
    scaled = scores / temperature
    scaled = scaled - scaled.max(axis=0)
    weights = jnp.exp(scaled)
    total = weights.sum(axis=0)
    if not sampling.greedy:
        kept = _nucleus(weights, top_p * total) if sampling.nucleus else weights
        keys = jax.vmap(jax.random.fold_in)(
            jax.random.wrap_key_data(state.noise, impl="threefry2x32"), state.counts
        )
        chosen = _draw(kept, jax.vmap(jax.random.uniform)(keys))
    if not sampling.log_probs:
        return chosen, jnp.zeros(chosen.shape, jnp.float32)
    return chosen, jnp.take_along_axis(scaled, chosen[None], axis=0)[0] - jnp.log(total)


def _nucleus(weights: jax.Array, enough: jax.Array) -> jax.Array:
    """Return ``weights [V, B]`` with zeros in place of the small ones: as few are left as have
    ``enough`` together.

    The smallest that is left is found by halving the range of float32, whose bits are ordered as
    the numbers are: 31 passes, less than it takes to sort.
    """
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        suffices = jnp.where(bits >= middle, weights, 0.0).sum(axis=0) >= enough
        return jnp.where(suffices, middle, low), jnp.where(suffices, high, middle)

    zeros = jnp.zeros(enough.shape, jnp.int32)
    top = bits.max(axis=0) + 1
    low, _ = jax.lax.fori_loop(0, 31, halve, (zeros, top))
    return jnp.where(bits >= low, weights, 0.0)


def _draw(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Return an index for each column of ``weights [V, B]``, with its share as probability.

    The one at which the running sum passes ``uniform`` times the whole: first among sums of _CUT
    entries, then among these entries.
    """
    size, rows = weights.shape
    blocks = jnp.pad(weights, ((0, -size % _CUT), (0, 0))).reshape(-1, _CUT, rows)
    sums = jnp.cumsum(blocks.sum(axis=1), axis=0)
    target = uniform * sums[-1]
    block = _passed(sums, target)
    before = jnp.where(
        block > 0, jnp.take_along_axis(sums, jnp.maximum(block - 1, 0)[None], axis=0)[0], 0.0
    )
    inside = jnp.cumsum(jnp.take_along_axis(blocks, block[None, None, :], axis=0)[0], axis=0)
    return (block * _CUT + _passed(inside, target - before)).astype(jnp.int32)


def _passed(sums: jax.Array, target: jax.Array) -> jax.Array:
    """Return the first row of ``sums`` above ``target``; where rounding leaves none, the last one
    that adds something."""
    return jnp.minimum((sums <= target).sum(axis=0), (sums < sums[-1]).sum(axis=0))
