"""From times to figures: medians, needed operations, the table."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.train.watch import Trial

GIB = 2**30


def needed_flops(
    config: dict[str, Any], lengths: list[int], answer_tokens: int, *, rank: int
) -> float:
    """Return the floating point operations that LoRA training of a Llama needs, per token of these
    examples.

    A product of ``[n, k]`` and ``[k, m]`` takes 2nkm. Forward and backward through a frozen
    projection take 2 and 2 times its parameters a token (frozen weights get no gradient), through
    LoRA matrices 2 and 4 times, attention 4 and 8 times heads × head_dim for each pair of a token
    and one before it in the same example, and the projection to the vocabulary 2 and 2 times its
    parameters for each token that is learnt. Norms, activations and the optimizer are left out, and
    so is everything that a program computes besides: padding, recomputation, logits of prompts.
    """
    hidden, inner, layers = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
    )
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or hidden // heads
    shapes = [
        (hidden, heads * width),
        (hidden, groups * width),
        (hidden, groups * width),
        (heads * width, hidden),
    ]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    tokens = sum(lengths)
    projections = layers * sum(4 * k * m + 6 * rank * (k + m) for k, m in shapes)
    pairs = sum(length * (length + 1) / 2 for length in lengths) / tokens
    attention = layers * 12 * heads * width * pairs
    return projections + attention + 4 * config["vocab_size"] * hidden * answer_tokens / tokens


def summary(trials: list[Trial], *, warm: int, tokens_a_step: float | None) -> dict[str, Any]:
    """Return medians over the trials, and each of them. ``warm`` steps at the start of each do not
    count."""
    rates, costs, seconds = [], [], []
    for trial in trials:
        start, end = trial.steps[warm - 1][0], trial.steps[-1][0]
        counted = trial.steps[warm:]
        tokens = sum(
            tokens_a_step if tokens_a_step is not None else (count or 0) for _, count in counted
        )
        rates.append(tokens / (end - start))
        costs.append(1000 * trial.processor_seconds(start, end) / tokens)
        seconds.append((end - start) / len(counted))
    starts = [trial.steps[0][0] for trial in trials]
    return {
        "tokens_a_second": median(rates),
        "tokens_a_second_each": rates,
        "seconds_a_step": median(seconds),
        "processor_seconds_a_1000_tokens": median(costs),
        "peak_bytes": median(trial.peak_bytes for trial in trials),
        "first_step_cold_seconds": starts[0],
        "first_step_warm_seconds": median(starts[1:]) if len(starts) > 1 else None,
    }


def table(figures: dict[str, Any]) -> str:
    """Return a Markdown table: a row for each side; ratios are relative to ours."""
    peak = median(max(each.values()) for each in figures["peak_flops"])
    ours = figures["sides"].get("ours")
    lines = [
        (
            "| | tokens/s | answer tokens/s | ours is | processor s per 1,000 tokens | peak memory"
            " | of ours | share of peak | first step, cold | warm |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for side, f in figures["sides"].items():
        rate, memory, warm = f["tokens_a_second"], f["peak_bytes"], f["first_step_warm_seconds"]
        answers, cost = rate * figures["answer_share"], f["processor_seconds_a_1000_tokens"]
        faster = f"{ours['tokens_a_second'] / rate:.2f} ×" if ours else "–"
        more = f"{memory / ours['peak_bytes']:.2f} ×" if ours else "–"
        lines.append(
            f"| {side} | {rate:.1f} | {answers:.1f} | {faster} | {cost:.2f} "
            f"| {memory / GIB:.2f} GiB | {more} | {rate * figures['flops_a_token'] / peak:.0%} "
            f"| {f['first_step_cold_seconds']:.1f} s | {'–' if warm is None else f'{warm:.1f} s'} |"
        )
    versions = ", ".join(
        f"{name} {version}" for name, version in figures["machine"]["versions"].items()
    )
    best = ", ".join(
        f"{name} {median(each[name] for each in figures['peak_flops']) / 1e9:.0f}"
        for name in figures["peak_flops"][0]
    )
    machine = figures["machine"]
    lines += [
        "",
        (
            f"{machine['cores']} cores, {machine['processor']}, {machine['memory_bytes'] / GIB:.0f}"
            f" GiB; load before: {figures['load_before']}. Matrix products, GFLOP/s: {best}. A"
            f" token needs {figures['flops_a_token'] / 1e6:.0f} MFLOP. {versions}."
        ),
    ]
    return "\n".join(lines)
