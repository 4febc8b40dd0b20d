"""What must hold of retries and extensions: what they came from and resumed from, and that what
they needed was not removed.

The truth is in the trainers' journals: what a run had saved, and from which step of whose
checkpoints its retry continued.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.chaos.load import Answer
from benchmarks.chaos.sweeper import Removal, is_extension
from runs.runfolder import files, names
from runs.runfolder.checkpoints import complete_steps
from runs.spec.naming import name_of_extension, name_of_retry

if TYPE_CHECKING:
    from benchmarks.chaos.proof import Proof

SHORTLY = 1.0  # seconds
STORING_SECONDS = 2.0  # a row is stored so long, at most, before or after the moment that it names
NOT_COPIED, NOT_EXTENDED = {"name", "output_dir"}, {"name", "output_dir", "max_steps"}
LOST = (
    "The training was lost",
    "was lost: nothing was heard",
    "Host stopped:",
    "folder was removed while",
)
# how a run says that its source is gone
GONE = (
    "no longer has the checkpoint",
    "has been deleted",
    "resume_from",
    "extend_from_step",
)


@dataclass
class Heir:
    """A retry or an extension. ``asked``: what may have been asked for as ``resume``; automatic
    retries and extensions do."""

    run: Any
    parent: Any
    automatic: bool
    asked: set[bool]
    stored: tuple[float, float]  # it was stored between these moments
    # what it may resume from: run id, steps
    candidates: list[tuple[str, set[int]]] = field(default_factory=list)
    has_source: bool = False  # the last of them was there for certain


class Heirs:
    def __init__(self, proof: Proof):
        self.proof = proof
        self.removals: dict[str, list[Removal]] = defaultdict(list)
        for removal in proof.sweeper.removals:
            self.removals[removal.run_id].append(removal)
        self.parents = {
            run_id: str(run.retry_of_id) for run_id, run in proof.runs.items() if run.retry_of_id
        }
        extended = {
            key: str(run.resume_from_id)
            for key, run in proof.runs.items()
            if is_extension(run) and run.resume_from_id
        }
        self.parents = extended | proof.sweeper.extended | proof.sweeper.parents | self.parents
        self.asked: dict[str, Answer] = {}
        for run_id, acts in proof.acts.items():
            for act in acts:
                if act.what.endswith(("/retry", "/extend")) and act.code == 202:
                    self.parents.setdefault(str(act.run_id), run_id)
                    self.asked[str(act.run_id)] = act
        self.by_folder = {str(proof.folder(run)): run_id for run_id, run in proof.runs.items()}
        self.heirs: dict[str, Heir] = {}
        self.counts: Counter[str] = Counter()

    def check_descent(self) -> None:
        """Check which run each one descends from."""
        for run_id, run in self.proof.runs.items():
            if run.attempt > 1 or is_extension(run):
                self._check_descent(run_id, run)

    def check(self) -> None:
        for run_id, run in self.proof.runs.items():
            self._check_automatic(run_id, run)
        for heir in self.heirs.values():
            if not heir.run.dry_run:
                self._find_candidates(heir)
                self._check_begin(heir)
        self._check_removals()

    def blame(self, rule: str, run: Any, words: str) -> None:
        self.proof.blame(rule, str(run.pk), words)

    # --- descent

    def _check_descent(self, run_id: str, run: Any) -> None:
        parent = self.proof.runs.get(self.parents.get(run_id, ""))
        if parent is None:
            self.blame("descent", run, f"is attempt {run.attempt} of a run that nobody knows")
            return
        parent_id = str(parent.pk)
        act = self.asked.get(run_id)
        automatic = run.automatic_retries > parent.automatic_retries
        retries = [other for other in self.proof.acts[parent_id] if other.what.endswith("/retry")]
        told_of = [act] if act else [other for other in retries if other.code in (503, None)]
        asked = {bool((one.asked or {}).get("resume", True)) for one in told_of}
        moment = self.proof.created_at(run)
        stored = (
            (act.sent, act.answered)
            if act
            else (moment - STORING_SECONDS, moment + STORING_SECONDS)
        )
        always = automatic or is_extension(run)
        self.heirs[run_id] = Heir(run, parent, automatic, {True} if always else asked, stored)
        if is_extension(run):
            self._check_extension(run, parent, act)
        else:
            self._check_retry(run, parent, act)

    def _check_retry(self, run: Any, parent: Any, act: Answer | None) -> None:
        if run.retry_of_id is None and self._went(str(parent.pk)) is None:
            self.blame("descent", run, f"has lost its parent {parent.pk}, which was not purged")
        if run.attempt != parent.attempt + 1:
            self.blame(
                "descent",
                run,
                f"is attempt {run.attempt}, its parent {parent.pk} is {parent.attempt}",
            )
        if run.automatic_retries not in (parent.automatic_retries, parent.automatic_retries + 1):
            self.blame(
                "descent",
                run,
                f"counts {run.automatic_retries} automatic retries, its parent"
                f" {parent.automatic_retries}",
            )
        if (
            differing := _differing(run, parent, NOT_COPIED)
        ) or run.extend_from_step != parent.extend_from_step:
            self.blame("descent", run, f"is not what its parent {parent.pk} was: {differing}")
        if run.name != name_of_retry(parent.name, run.attempt):
            self.blame("descent", run, f"is named {run.name!r}, its parent {parent.name!r}")
        if not parent.dry_run and parent.status == "completed":
            self.blame("descent", run, f"retries {parent.pk}, which is completed")
        if act and (
            act.body.get("retry_of") != str(parent.pk) or act.body.get("attempt") != run.attempt
        ):
            self.blame(
                "descent",
                run,
                f"was answered as attempt {act.body.get('attempt')} of {act.body.get('retry_of')}",
            )

    def _check_extension(self, run: Any, parent: Any, act: Answer | None) -> None:
        self.counts["extensions"] += 1
        if parent.dry_run or parent.status != "completed":
            self.blame(
                "descent", run, f"extends {parent.pk}, which is {parent.mode}, {parent.status}"
            )
        steps, _ = self.saved(str(parent.pk), parent)
        if run.extend_from_step not in steps and self._went(str(parent.pk)) is None:
            self.blame(
                "descent",
                run,
                f"extends step {run.extend_from_step} of {parent.pk}, which has saved {steps}",
            )
        if differing := _differing(run, parent, NOT_EXTENDED):
            self.blame("descent", run, f"is not what {parent.pk} was: {differing}")
        if run.name != name_of_extension(parent.name, run.config["max_steps"], "step"):
            self.blame("descent", run, f"is named {run.name!r}, what it extends {parent.name!r}")
        if run.retry_of_id is not None or run.automatic_retries:
            self.blame("descent", run, f"extends {parent.pk} and counts as a retry")
        if act and run.config["max_steps"] != act.asked["max_steps"]:
            self.blame(
                "descent",
                run,
                f"adds {run.config['max_steps']} steps, {act.asked['max_steps']} were asked for",
            )

    def automatic_retries(self, run_id: str) -> list[Heir]:
        return [
            heir for heir in self.heirs.values() if str(heir.parent.pk) == run_id and heir.automatic
        ]

    # --- automatic retries

    def _check_automatic(self, run_id: str, run: Any) -> None:
        """Check that a lost run whose chain has automatic retries left has exactly one, and any
        other none."""
        found = len(self.automatic_retries(run_id))
        most = run.config.get("auto_retry", 0)
        if run.automatic_retries > most:
            self.blame(
                "automatic",
                run,
                f"is automatic retry {run.automatic_retries} of its chain, {most} were asked for",
            )
        cancelling = any(event.new == "cancelling" for event in run.events.all())
        due = (
            not run.dry_run
            and self.is_lost(run)
            and not cancelling
            and run.automatic_retries < most
        )
        if (
            due
            and not found
            and run.extend_from_step
            and "not tried again" in run.message
            and self.source_was_removed(run)
        ):
            return  # an extension cannot begin again from scratch
        self.counts["automatic"] += found
        self.counts["lost with no automatic retry left"] += (
            run.automatic_retries == most > 0 and self.is_lost(run)
        )
        if found != int(due):
            self.blame(
                "automatic",
                run,
                f"has {found} automatic retries, {int(due)} were due ({run.message})",
            )

    def is_lost(self, run: Any) -> bool:
        """Return whether its host lost it: by exit.json, or by what the observer of a host says
        that left none."""
        if run.status != "failed":
            return False
        folder = self.proof.folder(run)
        end = files.read_json(folder / names.EXIT) if folder.is_dir() else None
        if end is not None:
            return end["reason"] in ("lost", "host stopped")
        return any(words in run.message for words in LOST)

    # --- checkpoints

    def _find_candidates(self, heir: Heir) -> None:
        """Find the newest checkpoint of the nearest run in its chain that has one. Where a kill
        came between a checkpoint and the journal, or a removal at the moment of the request, accept
        both answers."""
        run_id, start = str(heir.parent.pk), heir.run.extend_from_step or 0
        left: bool | None = False  # behind on purpose; None: unknown
        while run_id:
            run = self.proof.runs[run_id]
            steps, certain = self.saved(run_id, run)
            # of no use to an extension: what is older than what it extends, and to one that begins
            # again, whatever is newer
            steps = {
                step for step in steps if step == start or (step > start and True in heir.asked)
            }
            gone = self._is_gone(run_id, run, heir.stored)
            if steps and gone is not True and left is not True:
                heir.candidates.append((run_id, steps))
                if certain and gone is False and left is False and len(heir.asked) == 1:
                    heir.has_source = True
                    return
            # one that began from scratch left behind what is older; a retry of an extension that
            # began again, what lies between
            older = self.heirs.get(run_id)
            if older is not None and older.run.extend_from_step is not None:
                if is_extension(older.run):
                    left = False
                elif False in older.asked and left is False:
                    left = True if older.asked == {False} else None
            run_id = str(older.parent.pk) if older is not None and older.run.resume else ""

    def saved(self, run_id: str, run: Any) -> tuple[set[int], bool]:
        """Return the steps of which one is that of its newest checkpoint, and whether it certainly
        has one."""
        if self.proof.plan(run)["kind"] == "real":
            steps = self.proof.sweeper.saved.get(run_id)
            if steps is None:
                steps = complete_steps(self.proof.folder(run) / names.CHECKPOINTS)
            return set(steps[-1:]), bool(steps)
        journal = self.proof.journals[run_id]
        return {
            step for step in (journal.saved, journal.saving) if step is not None
        }, journal.saved is not None

    def _went(self, run_id: str) -> tuple[float, float] | None:
        """Return between which moments its files were removed, permanently or by a user."""
        removals = [removal for removal in self.removals[run_id] if removal.outcome != "refused"]
        if not removals:
            return None
        certain = [removal.ended for removal in removals if removal.outcome in ("purged", "lost")]
        return min(removal.began for removal in removals), min(certain, default=float("inf"))

    def _is_gone(self, run_id: str, run: Any, stored: tuple[float, float]) -> bool | None:
        """Return whether it had been deleted when a retry was stored; None if that cannot be
        known."""
        moments = (
            [(run.trashed_at.timestamp() - SHORTLY, run.trashed_at.timestamp() + STORING_SECONDS)]
            if run.trashed_at
            else []
        )
        moments += [went] if (went := self._went(run_id)) else []
        if any(end < stored[0] for _, end in moments):
            return True
        return False if all(start > stored[1] for start, _ in moments) else None

    def _check_begin(self, heir: Heir) -> None:
        run, run_id = heir.run, str(heir.run.pk)
        wanted = True in heir.asked
        if not wanted and run.resume and not run.extend_from_step:
            self.blame(
                "resume", run, "resumes from a checkpoint, though it was to begin from scratch"
            )
        if heir.asked == {True} and heir.has_source and not run.resume:
            self.blame("resume", run, f"forgot a checkpoint of its chain: {self._chain(heir)}")
        if run.resume and not heir.candidates:
            self.blame(
                "resume",
                run,
                f"is to resume from a checkpoint, and there was none: {self._chain(heir)}",
            )
        begun, source = self.begin(run_id, run)
        self.counts["asked for"] += not heir.automatic and not is_extension(run)
        self.counts["true trainings, gone on"] += (
            bool(begun) and self.proof.plan(run)["kind"] == "real"
        )
        if begun is None:
            self.counts["failed, for its source was gone"] += self.says_gone(run)
            return
        self.counts["extensions trained"] += (
            run.extend_from_step is not None and run.status == "completed"
        )
        if run.resume and begun == 0:
            self.blame(
                "resume",
                run,
                f"was to resume from a checkpoint and began from scratch: {self._chain(heir)}",
            )
        if not run.resume and begun > 0:
            self.blame(
                "resume",
                run,
                f"was to begin from scratch and resumed from step {begun} of {source}",
            )
        self.counts["from scratch"] += begun == 0
        if begun > 0:
            found = [
                run_id
                for run_id, steps in heir.candidates
                if begun in steps and source in (run_id, None)
            ]
            if not found:
                self.blame(
                    "resume",
                    run,
                    f"resumed from step {begun} of {source}, not from the nearest:"
                    f" {self._chain(heir)}",
                )
            else:
                self.counts["from the run before"] += found[0] == str(heir.parent.pk)
                self.counts["from a run further back"] += found[0] != str(heir.parent.pk)

    def _chain(self, heir: Heir) -> str:
        """Return the runs before it, the nearest first, for the search for the fault."""
        told = [
            f"stored {heir.stored[0]:.2f}–{heir.stored[1]:.2f}, resume may be {heir.asked},"
            f" candidates {heir.candidates}"
        ]
        run_id = str(heir.run.pk)
        while run_id in self.heirs:
            run = self.heirs[run_id].parent
            run_id = str(run.pk)
            gone = {True: "gone", False: "there", None: "going"}[
                self._is_gone(run_id, run, heir.stored)
            ]
            goes_on = f"resumes from {run.resume_from_id}" if run.resume else "from scratch"
            steps, _ = self.saved(run_id, run)
            told.append(
                f"{run_id} {goes_on}, saved {steps}, {gone}; deleted {run.trashed_at}, files went"
                f" {self._went(run_id)}"
            )
            told.append(self._told_of(run))
        return "; ".join(told)

    def _told_of(self, run: Any) -> str:
        """Return what else shows how a run came to resume from where it did: its events, its
        source, its trainer's journal."""
        run_id = str(run.pk)
        events = [
            f"{event.at.timestamp():.2f} {event.new or '-'} {event.reason}"
            for event in run.events.all()
        ]
        journal = self.proof.house.workshop / "journal" / run_id
        lines = journal.read_text().splitlines() if journal.exists() else []
        source = self.proof.sweeper.sources.get(run_id)
        return (
            f"  {self.proof.plan(run)['kind']}, attempt {run.attempt}, extends step"
            f" {run.extend_from_step}, automatic {run.automatic_retries}, source {source},"
            f" {events}, journal {lines}"
        )

    def begin(self, run_id: str, run: Any) -> tuple[int | None, str | None]:
        """Return the step it began at (0: from scratch; None: it did not come so far), and whose
        that was where that is known."""
        journal = self.proof.journals[run_id]
        if self.proof.plan(run)["kind"] != "real":
            return journal.begun, (
                None
                if journal.source is None
                else self.by_folder.get(str(journal.source), str(journal.source))
            )
        for line in _lines(self.proof.folder(run) / names.METRICS):
            if "plan" in line:
                return line["plan"].get("resumed_from_step") or 0, None
        return None, None

    def source_was_removed(self, run: Any) -> bool:
        """Return whether what it, or a retry of it, could resume from was deleted, or its files
        were removed."""
        run_id = str(run.pk)
        while True:
            if self._went(run_id) or self.proof.runs[run_id].trashed_at:
                return True
            if run_id not in self.heirs:
                return False
            run_id = str(self.heirs[run_id].parent.pk)

    def is_there(self, run: Any, act: Answer) -> bool:
        """Return whether it certainly had a checkpoint while this was asked for."""
        run_id = str(run.pk)
        return (
            self.saved(run_id, run)[1]
            and self._is_gone(run_id, run, (act.sent, act.answered)) is False
        )

    @staticmethod
    def says_gone(run: Any) -> bool:
        return any(words in run.message for words in GONE)

    # --- removals

    def _check_removals(self) -> None:
        """Check that nothing was deleted that an active retry needed, and nothing was refused
        without one."""
        for heir in self.heirs.values():
            source = self._source(heir)
            if source is None:
                continue
            needed = heir.stored[1], self._needed_until(heir)
            for removal in self.removals[source]:
                if (
                    removal.outcome == "purged"
                    and needed[0] < removal.began
                    and removal.ended < needed[1]
                ):
                    self.blame(
                        "purge",
                        heir.run,
                        f"was waiting for {source} when that was purged ({removal})",
                    )
            deleted = self.proof.runs[source].trashed_at if source in self.proof.runs else None
            if deleted and needed[0] + SHORTLY < deleted.timestamp() < needed[1]:
                self.blame(
                    "purge",
                    heir.run,
                    f"was waiting for {source} when that was deleted at {deleted.timestamp():.2f}",
                )
        for run_id, acts in self.proof.acts.items():
            for act in acts:
                if (
                    act.what.startswith("DELETE")
                    and act.code == 409
                    and "resumes from" in str(act.body)
                ):
                    self._check_refused(run_id, act.sent, act.answered)
        self.counts["runs purged"] = len(self.proof.purged)
        for run_id, removals in self.removals.items():
            for removal in removals:
                self.counts["checkpoints removed by hand"] += removal.outcome == "lost"
                if removal.outcome == "refused":
                    self._check_refused(run_id, removal.began, removal.ended)

    def _source(self, heir: Heir) -> str | None:
        """Return whose files it needs: as it says itself, or the only run that they could be of."""
        if not heir.run.resume:
            return None
        if source := self.proof.sweeper.sources.get(str(heir.run.pk)) or heir.run.resume_from_id:
            return str(source)
        _, source = self.begin(str(heir.run.pk), heir.run)
        return source or (heir.candidates[0][0] if len(heir.candidates) == 1 else None)

    def _needed_until(self, heir: Heir) -> float:
        """Return the time until which it needed the checkpoint: when it had read it, or ended
        without."""
        journal = self.proof.journals[str(heir.run.pk)]
        ended = self.proof.ended_at(heir.run) or float("inf")
        return min(journal.begun_at or ended, ended) - SHORTLY

    def _check_refused(self, run_id: str, began: float, ended: float) -> None:
        self.counts["removals refused"] += 1
        for heir in self.heirs.values():
            until = (self.proof.ended_at(heir.run) or float("inf")) + STORING_SECONDS
            if (
                heir.run.resume
                and self._source(heir) == run_id
                and heir.stored[0] < ended
                and began < until
            ):
                return
        self.proof.blame("purge", run_id, f"was not deleted at {began:.2f}, and nobody needed it")


def _differing(run: Any, parent: Any, left_out: set[str]) -> list[str]:
    settings_given = parent.config.keys() - left_out
    return sorted(name for name in settings_given if run.config.get(name) != parent.config[name])


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
