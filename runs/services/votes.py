"""Votes of people: start a round, read the pairs of outputs, store votes, and make a dataset of
preferences of them.

Voters do not learn which model wrote which output: which one is shown first is decided by the
round's seed, the voter and the question, and what a vote says is translated here.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from datasets.examples.kinds import parse_example
from datasets.examples.schema import InvalidTrace
from datasets.models import Dataset, Kind
from datasets.services.datasets import check_identity, create_dataset
from datasets.services.sealing import sealed_among
from datasets.services.traces import create_traces
from runs.models import Choice, Evaluation, Vote, VoteRound
from runs.models.evaluation import HASH_BYTES
from runs.models.vote import DIGEST_BYTES, SIDES
from runs.runfolder import names
from runs.runfolder.items import item_lines
from runs.services.evaluations import find_evaluation, parse_item
from runs.services.output_root import while_root_is_there
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.run_requests import InvalidRequest
from runs.spec.evaluation import GENERATE
from tunixrt.refusals import Conflict, Missing

SEED_MAX = 2**31 - 1
EXAMPLES_MAX = 20_000  # of a dataset that is made of votes
NEEDLES_MAX = 32  # hashes that are looked for in a line before it is parsed
# Prompts with more are shortened in items.jsonl (runs/trainer/evaluation/record.py).
PROMPT_CHARACTERS = 32_768
PER_QUESTION: Literal["question"] = "question"
PER_VOTE: Literal["vote"] = "vote"
KEYS = {"1": "left", "2": "right", "0": Choice.TIE.value, "s": Choice.SKIP.value}


class RoundNotFound(Missing):
    def __init__(self, round_id: Any):
        super().__init__(f"Round of votes not found: {round_id}")


class QuestionNotFound(Missing):
    def __init__(self) -> None:
        super().__init__("This round has no such question. Ask for the next one.")


class PairGone(Conflict):
    """The outputs of a question are not there any more, so they cannot be voted on."""

    title = "The outputs are gone"

    def __init__(self, what: str = "The outputs of this question were erased or changed."):
        super().__init__(f"{what} There is nothing to vote on.")


def find_round(round_id: UUID) -> VoteRound:
    """Return a round with its evaluations. Raises RoundNotFound."""
    found = (
        VoteRound.objects.select_related("questions", "first__run", "second__run", "created_by")
        .filter(pk=round_id)
        .first()
    )
    if found is None:
        raise RoundNotFound(round_id)
    return found


# --- a new round ----------------------------------------------------------------------------------


def start_round(*, evaluations: Sequence[Any], seed: int | None = None, by: User) -> VoteRound:
    """Store a round of votes on two complete evaluations of the same questions. Of several samples
    the first one is shown. Questions whose outputs are the same are left out.

    Args:
        evaluations: their ids.
        seed: None: a new one.

    Raises:
        InvalidRequest: they are not two evaluations of the same questions with outputs.
        StateConflict: one has not answered all questions, its outputs were changed, or no question
            has different outputs.
    """
    if len(evaluations) != 2:
        raise InvalidRequest({"evaluations": ["This field must name two evaluations."]})
    first, second = (find_evaluation(one, name="evaluations") for one in evaluations)
    if first.pk == second.pk:
        raise InvalidRequest({"evaluations": ["Name two different evaluations."]})
    if first.questions_id != second.questions_id:
        raise InvalidRequest({"evaluations": ["These evaluations are of different questions."]})
    _refuse_sealed(first.questions.dataset_key)
    for one in (first, second):
        if one.run.config["method"] != GENERATE:
            raise InvalidRequest({"evaluations": [f"Evaluation {one.pk} has generated nothing."]})
        if not one.complete:
            raise StateConflict(f"Evaluation {one.pk} has not answered all of its questions.")
    outputs = [_output_digests(one) for one in (first, second)]
    both = sorted(outputs[0].keys() & outputs[1].keys())
    differing = [key for key in both if outputs[0][key] != outputs[1][key]]
    if not differing:
        raise StateConflict("Both evaluations have the same outputs: there is nothing to choose.")
    return VoteRound.objects.create(
        questions=first.questions,
        first=first,
        second=second,
        first_model=first.run.model_id,
        second_model=second.run.model_id,
        seed=secrets.randbelow(SEED_MAX + 1) if seed is None else seed,
        pairs=b"".join(
            bytes.fromhex(key) + _pair_digest(outputs[0][key], outputs[1][key]) for key in differing
        ),
        equal=len(both) - len(differing),
        created_by=by,
    )


def _output_digests(evaluation: Evaluation) -> dict[str, bytes]:
    """Return a digest of the output of each question."""
    digest = hashlib.sha256()
    found = {}
    for line in _lines(evaluation, digest):
        if (item := parse_item(line)) is not None:
            found[item["hash"]] = _text_digest(_output(item))
    if digest.hexdigest() != evaluation.outputs:
        raise StateConflict(
            f"The outputs of evaluation {evaluation.pk} are not those that were scored: they were"
            " erased or changed. Run it again."
        )
    return found


def _lines(evaluation: Evaluation, digest: Any = None) -> Iterator[bytes]:
    path = while_root_is_there(run_folder(evaluation.run)) / names.ITEMS
    try:
        yield from item_lines(path, digest)
    except OSError as error:
        raise StateConflict(f"The outputs of evaluation {evaluation.pk} cannot be read.") from error


def _output(item: dict[str, Any]) -> str:
    text = item["outputs"][0].get("text")
    return text if isinstance(text, str) else ""


def _text_digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()


def _pair_digest(first: bytes, second: bytes) -> bytes:
    return hashlib.sha256(first + second).digest()[:DIGEST_BYTES]


# --- the pairs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A question with the outputs of both evaluations. ``cut``: some of it is missing, as it was
    too long to be kept."""

    question: str
    prompt: list[dict[str, Any]]
    first: str
    second: str
    cut: bool

    def output(self, side: str) -> str:
        return self.first if side == Choice.FIRST else self.second


def questions_of(round: VoteRound) -> dict[str, bytes]:
    """Return the hashes of the questions with the digests of their outputs."""
    whole, size = bytes(round.pairs), HASH_BYTES + DIGEST_BYTES
    entries = (whole[at : at + size] for at in range(0, len(whole), size))
    return {one[:HASH_BYTES].hex(): one[HASH_BYTES:] for one in entries}


def read_pairs(round: VoteRound, wanted: Iterable[str]) -> dict[str, Pair]:
    """Return those of the wanted questions whose outputs are there and are those that the round was
    made of.

    Raises:
        PairGone: an evaluation was deleted.
        StateConflict: its outputs cannot be read, or the dataset is sealed.
    """
    _refuse_sealed(round.questions.dataset_key)
    known = questions_of(round)
    hashes = [one for one in wanted if one in known]
    first, second = (_items(one, hashes) for one in (round.first, round.second))
    pairs = {}
    for key in hashes:
        if key not in first or key not in second:
            continue
        texts = [_output(first[key]), _output(second[key])]
        if _pair_digest(*map(_text_digest, texts)) != known[key]:
            continue
        prompt = _prompt(first[key])
        cut = any(side[key]["outputs"][0].get("cut") is True for side in (first, second))
        pairs[key] = Pair(key, prompt, texts[0], texts[1], cut or _is_shortened(prompt))
    return pairs


def _refuse_sealed(dataset_key: str) -> None:
    """Raise StateConflict for questions of a sealed dataset: voters would read them, and the votes
    become examples to learn from."""
    if sealed_among([dataset_key]):
        raise StateConflict(f"Dataset {dataset_key} is sealed: there are no votes on it.")


def _prompt(item: dict[str, Any]) -> list[dict[str, Any]]:
    prompt = item.get("prompt")
    return [one for one in prompt if isinstance(one, dict)] if isinstance(prompt, list) else []


def _is_shortened(prompt: list[dict[str, Any]]) -> bool:
    """Return whether messages have the length to which those of a long prompt are shortened."""
    share = PROMPT_CHARACTERS // max(1, len(prompt))
    return len(prompt) >= PROMPT_CHARACTERS // 64 or any(
        len(str(one.get("content"))) == share for one in prompt
    )


def _items(evaluation: Evaluation | None, hashes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the items of questions by their hashes, with one walk over the file. Of few questions
    only lines that hold a hash are parsed."""
    if evaluation is None or evaluation.run.trashed_at is not None:
        raise PairGone("An evaluation of this round was deleted.")
    wanted = {one.encode() for one in hashes}
    found: dict[str, dict[str, Any]] = {}
    for line in _lines(evaluation):
        if len(found) == len(wanted):
            break
        if len(wanted) <= NEEDLES_MAX and not any(one in line for one in wanted):
            continue
        item = parse_item(line)
        if item is not None and item["hash"].encode() in wanted:
            found[item["hash"]] = item
    return found


# --- voting ---------------------------------------------------------------------------------------


def voting_order(round: VoteRound, voter_id: int) -> list[str]:
    """Return the questions in the order in which a voter is asked."""
    return sorted(questions_of(round), key=lambda one: _draw(round, voter_id, one, "order"))


def left_side(round: VoteRound, voter_id: int, question: str) -> str:
    """Return which evaluation's output a voter sees first."""
    return SIDES[_draw(round, voter_id, question, "side")[0] % 2]


def _draw(round: VoteRound, voter_id: int, question: str, what: str) -> bytes:
    return hashlib.sha256(f"{round.pk} {round.seed} {voter_id} {question} {what}".encode()).digest()


def cast_vote(*, round: VoteRound, question: str, key: str, by: User) -> Vote:
    """Store what ``by`` says of a question, in place of what they said of it before.

    Args:
        key: 1 for the output that is shown first, 2 for the other, 0 for a tie, s to skip.

    Raises:
        InvalidRequest: there is no such key.
        QuestionNotFound: the round does not have the question.
        PairGone: its outputs are not there any more, or are others.
    """
    if key not in KEYS:
        raise InvalidRequest({"choice": [f"This field must be one of {', '.join(KEYS)}."]})
    if question not in questions_of(round):
        raise QuestionNotFound
    if question not in read_pairs(round, [question]):
        raise PairGone
    left = left_side(round, by.pk, question)
    right = SIDES[1 - SIDES.index(left)]
    choice = {"left": left, "right": right}.get(KEYS[key], KEYS[key])
    vote = Vote(
        round=round, question=question, voter=by, choice=choice, left=left, at=timezone.now()
    )
    # one statement: of two votes at once the later one stands
    Vote.objects.bulk_create(
        [vote],
        update_conflicts=True,
        unique_fields=["round", "voter", "question"],
        update_fields=["choice", "left", "at"],
    )
    return vote


# --- a dataset of preferences ---------------------------------------------------------------------


@dataclass(frozen=True)
class Preferences:
    """A dataset that was made of votes. ``left_out``: decided votes or questions that became no
    example, by the reason."""

    dataset: Dataset
    left_out: dict[str, int]


def make_preferences(
    *, round: VoteRound, name: str, version: str, per: str = PER_QUESTION, by: User
) -> Preferences:
    """Make a dataset of preference pairs: what the majority of the voters of each question has
    chosen, or each vote.

    Ties and skipped questions make no example; nor do outputs that are blank, cut or gone.

    Raises:
        InvalidDataset, DatasetExists.
        StateConflict: no vote decides anything, there are too many, or none makes an example.
    """
    check_identity(name=name, version=version)
    decided = _majorities(round) if per == PER_QUESTION else _single_votes(round)
    if not decided:
        raise StateConflict("No vote of this round has chosen an output yet.")
    if len(decided) > EXAMPLES_MAX:
        raise StateConflict(
            f"These are {len(decided):,} examples; a dataset of votes has at most"
            f" {EXAMPLES_MAX:,}. Make one example for each question."
        )
    pairs = read_pairs(round, {one.question for one in decided})
    examples: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for one in decided:
        example = _example(round, one, pairs.get(one.question))
        if isinstance(example, str):
            left_out[example] += 1
        else:
            examples.append(example)
    if not examples:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise StateConflict(f"None of what was chosen can become an example: {reasons}.")
    provenance = {
        "source": "votes",
        "round": str(round.pk),
        "per": per,
        "evaluations": [str(round.first_id), str(round.second_id)],
        "left_out": dict(left_out),
    }
    with transaction.atomic():
        traces = create_traces(items=examples, by=by)
        dataset = create_dataset(
            name=name,
            version=version,
            trace_ids=[trace.pk for trace in traces],
            description=f"Preferences of people, of the round of votes {round.pk}.",
            provenance=provenance,
            by=by,
        )
    return Preferences(dataset, dict(left_out))


@dataclass(frozen=True)
class _Decided:
    question: str
    side: str
    meta: dict[str, Any]


def count_choices(round: VoteRound) -> dict[str, Counter[str]]:
    """Return the votes of each question by their choice, without skipped ones."""
    found: dict[str, Counter[str]] = {}
    votes = round.votes.exclude(choice=Choice.SKIP).order_by("question")
    for question, choice in votes.values_list("question", "choice"):
        found.setdefault(question, Counter())[choice] += 1
    return found


def majority(counts: Counter[str]) -> str:
    """Return the side that more votes chose than the other; a tie where none did."""
    first, second = (counts[side] for side in SIDES)
    if first == second:
        return Choice.TIE.value
    return SIDES[0] if first > second else SIDES[1]


def _majorities(round: VoteRound) -> list[_Decided]:
    decided = []
    for question, counts in count_choices(round).items():
        side = majority(counts)
        if side in SIDES:
            other = SIDES[1 - SIDES.index(side)]
            votes = {"chosen": counts[side], "rejected": counts[other], "tie": counts[Choice.TIE]}
            decided.append(_Decided(question, side, {"votes": votes}))
    return decided


def _single_votes(round: VoteRound) -> list[_Decided]:
    votes = round.votes.filter(choice__in=SIDES).order_by("question", "pk")[: EXAMPLES_MAX + 1]
    return [_Decided(*row, {}) for row in votes.values_list("question", "choice")]


def _example(round: VoteRound, one: _Decided, pair: Pair | None) -> dict[str, Any] | str:
    """Return an example as ``parse_example`` reads it, or why there is none."""
    if pair is None:
        return "erased or changed"
    if pair.cut:
        return "too long to be kept whole"
    other = SIDES[1 - SIDES.index(one.side)]
    example = {
        "kind": Kind.PREFERENCE.value,
        "prompt": pair.prompt,
        "chosen": [{"role": "assistant", "content": pair.output(one.side)}],
        "rejected": [{"role": "assistant", "content": pair.output(other)}],
        "meta": {"vote_round": str(round.pk), "question": one.question} | one.meta,
    }
    try:
        parse_example(example)
    except InvalidTrace:
        return "blank or not storable"
    return example
