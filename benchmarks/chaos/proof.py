"""What must hold once the chaos is over, checked run by run against the journal of the trainer and
the list of actions."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.heirs import Heirs
from benchmarks.chaos.house import House, Journal, read_journal
from benchmarks.chaos.load import Answer, Load, Submission
from benchmarks.chaos.monkey import Deed, Monkey
from benchmarks.chaos.sweeper import Sweeper, is_extension
from benchmarks.chaos.trainer import extended, last_step, output, whole_output
from runs.runfolder import files, names
from runs.runfolder.processes import live_processes

SLACK_SECONDS = (
    1.0  # a race between two things that happen in the same second has two right answers
)
# how a full disk may end a run before its first step
STORAGE = (
    "cannot be written",
    "did not start",
    "No space left",
)
KILLED = ("keeper", "keeper SIGTERM")
ENDED = ("completed", "failed", "timeout", "cancelled")


@dataclass
class Violation:
    rule: str
    run_id: str | None
    words: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.run_id or '-'}: {self.words}"


class Proof:
    """``violations`` is empty if everything holds."""

    def __init__(self, house: House, load: Load, monkey: Monkey, sweeper: Sweeper):
        self.house, self.load, self.monkey, self.sweeper = house, load, monkey, sweeper
        self.violations: list[Violation] = []
        table = house.tables.all_runs()
        self.purged = sweeper.seen.keys() - table.keys()
        self.swept = {
            removal.run_id
            for removal in sweeper.removals
            if removal.outcome in ("purged", "unknown")
        }
        self.runs: dict[str, Any] = {run_id: sweeper.seen[run_id] for run_id in self.purged} | table
        self.submissions = {submission.seed: submission for submission in load.submissions}
        self.acts: dict[str, list[Answer]] = defaultdict(list)
        for run_id, answer in load.acts:
            self.acts[run_id].append(answer)
        self.journals = {run_id: read_journal(house.workshop, run_id) for run_id in self.runs}
        self.bytes_written = self.bytes_kept = 0
        self.heirs = Heirs(self)

    def blame(self, rule: str, run_id: str | None, words: str) -> None:
        self.violations.append(Violation(rule, run_id, words))

    def check(self) -> list[Violation]:
        self.heirs.check_descent()  # the other checks go by it
        self._check_answers()
        self._check_none_lost_none_double()
        self._check_acts()
        for run_id, run in self.runs.items():
            self._check_life(run)
            if not run.dry_run:
                self._check_end(run)
                if run_id not in self.swept:
                    self._check_output(run)
                    self._check_measurements(run)
                    self._check_folder(run)
            else:
                self._check_dry_run(run)
        self.heirs.check()
        self._check_journal_of_strangers()
        self._check_counters()
        self._check_processes()
        return self.violations

    # --- the API

    def _check_answers(self) -> None:
        for answer in self.load.odd:
            self.blame(
                "answers",
                answer.run_id,
                f"{answer.what} was answered {answer.code}: {str(answer.body)[:300]}",
            )
        for submission in self.load.submissions:
            for answer in submission.answers:
                if answer.code not in (202, 409, 503, None):
                    self.blame(
                        "answers",
                        None,
                        f"seed {submission.seed}: {answer.code} {str(answer.body)[:300]}",
                    )
                run = self.runs.get(str(answer.run_id)) if answer.code == 202 else None
                if run is not None and answer.status in ENDED and answer.status != run.status:
                    self.blame(
                        "answers",
                        str(run.pk),
                        f"was answered as {answer.status} and is {run.status}",
                    )

    def _check_none_lost_none_double(self) -> None:
        rows = Counter(
            run.config["seed"]
            for run in self.runs.values()
            if run.attempt == 1 and not is_extension(run)
        )
        purged = Counter(
            self.runs[run_id].config["seed"]
            for run_id in self.purged
            if rows[self.runs[run_id].config["seed"]] > 1
        )
        for submission in self.load.submissions:
            count, accepted = rows[submission.seed], submission.accepted
            if len(accepted) > 1 and submission.named:
                self.blame(
                    "once",
                    None,
                    f"seed {submission.seed}: one client_request_id, several runs {accepted}",
                )
            for run_id in accepted - self.runs.keys():
                self.blame(
                    "lost",
                    run_id,
                    f"seed {submission.seed} was answered 202 and is not in the table",
                )
            # a client that got no answer may ask again when the run has been purged
            if count - purged[submission.seed] > (
                1 if submission.named else max(1, submission.at_once)
            ):
                self.blame("once", None, f"seed {submission.seed}: {count} rows for one request")
            certain = [answer for answer in submission.answers if answer.code is not None]
            if (
                count
                and len(certain) == len(submission.answers)
                and all(answer.code == 409 for answer in certain)
            ):
                self.blame(
                    "answers",
                    None,
                    f"seed {submission.seed} was refused with 409 and has {count} rows",
                )

    def _check_acts(self) -> None:
        """Check that what was answered about cancels, retries and deletions is what happened."""
        made = Counter(
            (parent, "extend" if is_extension(self.runs[run_id]) else "retry")
            for run_id, parent in self.heirs.parents.items()
            if parent in self.runs
            and run_id in self.runs
            and (
                is_extension(self.runs[run_id])
                or self.runs[run_id].automatic_retries == self.runs[parent].automatic_retries
            )
        )
        asked: Counter[tuple[str, str]] = Counter()
        for run_id, acts in self.acts.items():
            run = self.runs[run_id]
            ended = self.ended_at(run)
            for act in acts:
                kind = "delete" if act.what.startswith("DELETE") else act.what.rsplit("/", 1)[1]
                if act.code not in (200, 202, 404, 409, 503, None):
                    self.blame(
                        "acts", run_id, f"{kind} was answered {act.code}: {str(act.body)[:200]}"
                    )
                if kind in ("retry", "extend"):
                    asked[run_id, kind] += act.code in (202, 503, None)
                    if act.code == 202 and act.run_id not in self.runs:
                        self.blame(
                            "lost", act.run_id, f"the {kind} of {run_id} is not in the table"
                        )
                    self._check_heir(run, act, ended)
                if (
                    kind == "cancel"
                    and act.code == 409
                    and ended
                    and ended > act.answered + SLACK_SECONDS
                ):
                    self.blame(
                        "acts",
                        run_id,
                        f"a cancel was too late at {act.answered:.2f}, the run ended at"
                        f" {ended:.2f}",
                    )
                if kind == "delete" and act.code == 200 and run.trashed_at is None:
                    self.blame("acts", run_id, "was deleted and is not in the trash")
        for (run_id, kind), count in made.items():
            if count > asked[run_id, kind]:
                self.blame(
                    "once",
                    run_id,
                    f"{kind} was asked for {asked[run_id, kind]} times and done {count} times",
                )

    def _check_heir(self, run: Any, act: Answer, ended: float | None) -> None:
        """Check that only completed trainings are extended, and only others are retried."""
        completed = not run.dry_run and run.status == "completed"
        extend = act.what.endswith("/extend")
        if act.code == 202 and (
            completed != extend or ended is None or ended > act.answered + SLACK_SECONDS
        ):
            self.blame(
                "acts",
                str(run.pk),
                f"{act.what} at {act.sent:.2f} was taken; it is {run.status} since {ended}",
            )
        if (
            act.code != 409
            or completed != extend
            or ended is None
            or ended >= act.sent - SLACK_SECONDS
        ):
            return
        # an extension, or the retry of one, is nothing without the checkpoint that it extends
        if (
            self.heirs.is_there(run, act)
            if extend
            else not (run.extend_from_step and self.heirs.source_was_removed(run))
        ):
            self.blame(
                "acts",
                str(run.pk),
                f"{act.what} at {act.sent:.2f} was refused, though it was {run.status}: {act.body}",
            )

    # --- one run

    def created_at(self, run: Any) -> float:
        """Return when it was stored, by the right clock: an automatic retry, when its parent
        ended."""
        parent = self.runs.get(self.heirs.parents.get(str(run.pk), ""))
        if (
            parent is not None
            and run.automatic_retries > parent.automatic_retries
            and (ended := self.ended_at(parent))
        ):
            return ended
        moment: float = run.created_at.timestamp()
        return moment

    def plan(self, run: Any) -> dict[str, Any]:
        """Return what its trainer was told to do."""
        plan: dict[str, Any] = json.loads(
            (self.house.workshop / "plans" / f"{run.config['seed']}.json").read_text()
        )
        return extended(plan, run.extend_from_step, run.config["max_steps"])

    def ended_at(self, run: Any) -> float | None:
        """Return when it ended according to its row, by the right clock."""
        moments = [
            event.at.timestamp() - self._skew(run, event)
            for event in run.events.all()
            if event.new in ENDED
        ]
        return moments[-1] if moments else None

    def _skew(self, run: Any, event: Any) -> float:
        """Return the seconds by which the clock of the process that wrote this event was off."""
        wrong = self.house.hosts[-1]
        if event.by == wrong:
            return float(self.house.skew)
        if event.by not in ("attendant", "queue", "launcher"):
            return 0.0
        claim = next((other for other in run.events.all() if other.new == "running"), None)
        if not run.supervised and event.by == "attendant" and claim is not None:
            # any host answers a dry run that lost its process; none waits so long that the clocks
            # could be mistaken
            claimed = claim.at.timestamp() - self._skew(run, claim)
            return (
                float(self.house.skew) if event.at.timestamp() - claimed >= self.house.skew else 0.0
            )
        return float(self.house.skew) if run.host is not None and run.host.name == wrong else 0.0

    def _check_life(self, run: Any) -> None:
        run_id = str(run.pk)
        if not self.house.tables.has_ended(run):
            self.blame("stuck", run_id, f"is still {run.status}")
        status = ""
        for event in sorted(
            (event for event in run.events.all() if event.new), key=lambda event: event.pk
        ):
            if event.old != status or not self.house.tables.is_legal(status, event.new):
                self.blame(
                    "path",
                    run_id,
                    f"illegal step {event.old or '-'} → {event.new} from {status or '-'}",
                )
            status = event.new
        if status != run.status:
            self.blame("path", run_id, f"the events end in {status}, the row says {run.status}")
        if len(self.journals[run_id].starts) > 1:
            self.blame("twice", run_id, f"was started {len(self.journals[run_id]['starts'])} times")

    def _check_dry_run(self, run: Any) -> None:
        submission = self.submissions[run.config["seed"]]
        expected = {"failed" if submission.kind == "bad dry" else "completed"}
        if self._cancels(run):
            expected.add("cancelled")
        if "manifest cannot be written" in run.message and self._disk_was_full(run):
            expected.add("failed")
        if run.status not in expected and run.status in ENDED:
            self.blame(
                "status",
                str(run.pk),
                f"dry run is {run.status} ({run.message}), expected {expected}",
            )
        if run.status == "completed" and (
            run.exit_code != 0 or run.stdout != "Dry-run validation passed"
        ):
            self.blame(
                "status",
                str(run.pk),
                f"completed dry run with exit code {run.exit_code}, stdout {run.stdout!r}",
            )

    def _cancels(self, run: Any) -> list[Answer]:
        return [
            act
            for act in self.acts[str(run.pk)]
            if act.what.endswith("/cancel") and act.code in (202, 503, None)
        ]

    def _deeds(self, run: Any, *kinds: str) -> list[Deed]:
        return self.monkey.to_run(str(run.pk), *kinds)

    def _disk_was_full(self, run: Any) -> bool:
        end = self.ended_at(run) or float("inf")
        return bool(self.monkey.around(self.created_at(run), end, "disk full"))

    def _host_was_away(self, run: Any) -> bool:
        """Return whether its attendant was down; only then may another host have recorded it as
        lost."""
        host = run.host.name if run.host else ""
        start, end = self.created_at(run) - 60, self.ended_at(run) or float("inf")
        return any(
            host in deed.what
            for deed in self.monkey.around(start, end)
            if deed.kind.startswith("attendant")
        )

    def _check_end(self, run: Any) -> None:
        """Compare the status with the scripted result and with what was done to the run."""
        run_id, journal = str(run.pk), self.journals[str(run.pk)]
        plan = self.plan(run)
        allowed = self._allowed(run, plan, journal)
        if run.status in ENDED and run.status not in allowed:
            deeds = "; ".join(map(str, self._deeds(run))) or "nothing was done to it"
            self.blame(
                "status",
                run_id,
                f"{run.status} ({run.message}), allowed {sorted(allowed)}; plan {plan}; journal"
                f" {journal}; {deeds}",
            )
        end = files.read_json(self.folder(run) / names.EXIT) if self.folder(run).is_dir() else None
        if (
            end is not None
            and end["reason"] != "lost"
            and run.status == "completed"
            and end["exit_code"] != 0
        ):
            self.blame("status", run_id, f"completed with {end}")
        code = journal.code
        natural = {plan["code"] if plan["kind"] != "signal" else -plan["code"], 17}
        if (
            plan["kind"] == "relay"
            and journal.begun is not None
            and last_step(plan, run_id, journal.begun) == plan["steps"]
        ):
            natural = {0, 17}
        gone = run.resume and self.heirs.source_was_removed(run)
        if (
            code is not None
            and code not in natural
            and not (code == 15 and (self._disk_was_full(run) or gone))
        ):
            self.blame(
                "status", run_id, f"the trainer ended with {code}, its plan says {plan['code']}"
            )
        both = run.status == "failed" and run.exit_code is not None and code is not None
        if both and code != run.exit_code and not self._deeds(run, "trainer", *KILLED):
            self.blame(
                "status", run_id, f"exit code {run.exit_code} in the row, {code} in the journal"
            )

    def _allowed(self, run: Any, plan: dict[str, Any], journal: Journal) -> set[str]:
        code, ended = journal.code, journal.ended
        cancels = self._cancels(run)
        keeper_hit = self._deeds(run, *KILLED)
        trainer_hit = self._deeds(run, "trainer")
        lost = bool(keeper_hit) or (self._host_was_away(run) and "was lost" in run.message)
        allowed: set[str] = set()
        if any(act.code == 202 and act.status == "cancelled" for act in cancels):
            if journal.starts:
                self.blame("status", str(run.pk), "was cancelled before its start and was started")
            return {"cancelled"}
        if lost or trainer_hit:
            allowed.add("failed")
        full = self._disk_was_full(run) and (
            15 in (code, run.exit_code) or any(words in run.message for words in STORAGE)
        )
        if full or (
            run.resume and self.heirs.source_was_removed(run) and self.heirs.says_gone(run)
        ):
            allowed.add("failed")
        limit = run.timeout_seconds
        if limit is not None and (
            plan["kind"] in ("timeout", "stubborn") or self._lasted(run, journal) >= limit - 0.05
        ):
            allowed.add("timeout")
        if cancels and not self._too_late(cancels, ended):
            allowed.add("cancelled")
            certain = [act for act in cancels if act.code == 202]
            in_time = (
                certain
                and not self._hit_before(trainer_hit, certain)
                and not self._over_before(certain, run)
            )
            if in_time and not lost and not full and code != 0:
                return (allowed & {"timeout", "cancelled"}) | {"cancelled"}
        if code == 0 or (plan["kind"] == "real" and not lost and not trainer_hit):
            allowed.add("completed")
            return (
                allowed
                if lost or trainer_hit
                else allowed - {"timeout", "cancelled"}
                if code == 0
                else allowed
            )
        if code is not None and code != 17:
            allowed.add("failed")
        return allowed

    @staticmethod
    def _lasted(run: Any, journal: Journal) -> float:
        start = journal.starts[0] if journal.starts else None
        return (
            0.0
            if start is None or run.completed_at is None
            else run.completed_at.timestamp() - start
        )

    @staticmethod
    def _too_late(cancels: list[Answer], ended: float | None) -> bool:
        return ended is not None and all(act.sent > ended + SLACK_SECONDS for act in cancels)

    @staticmethod
    def _hit_before(hits: list[Deed], cancels: list[Answer]) -> bool:
        return any(hit.at < act.answered + SLACK_SECONDS for hit in hits for act in cancels)

    def _over_before(self, cancels: list[Answer], run: Any) -> bool:
        """Return whether the trainer ended by itself, or the launch failed, at the moment of the
        cancel."""
        ended, code = self.journals[str(run.pk)].ended, self.journals[str(run.pk)].code
        return (
            code not in (17, None)
            and ended is not None
            and any(ended < act.answered + SLACK_SECONDS for act in cancels)
        )

    # --- its files

    def folder(self, run: Any) -> Path:
        return self.house.output_root / (run.output_dir or str(run.pk))

    def _check_output(self, run: Any) -> None:
        path = self.folder(run) / names.STDOUT
        data = path.read_bytes() if path.exists() else b""
        run_id, journal = str(run.pk), self.journals[str(run.pk)]
        plan = self.plan(run)
        if plan["kind"] != "real":
            begun = journal.begun or 0
            whole = whole_output(plan, begun, last_step(plan, run_id, begun))
            self.bytes_written += journal.wrote
            self.bytes_kept += min(len(data), journal.wrote)
            if data != whole[: len(data)]:
                self.blame(
                    "output",
                    run_id,
                    f"stdout.log ({len(data)} bytes) is not what the trainer wrote",
                )
            most = journal.wrote + len(output(1, 1, "text")) * 8
            if not journal.wrote <= len(data) <= most or (
                journal.ended and len(data) != journal.wrote
            ):
                self.blame(
                    "output",
                    run_id,
                    f"stdout.log has {len(data)} bytes, the trainer wrote {journal.wrote}",
                )
            if journal.code == 0 and len(data) != len(whole):
                self.blame("output", run_id, f"completed with {len(data)} of {len(whole)} bytes")
        if path.exists() and run.stdout != (tail := files.read_tail(path)):
            self.blame(
                "output",
                run_id,
                f"the row's tail differs: {len(run.stdout)} characters, {len(tail)} in the file"
                f" ({run.message})",
            )

    def _check_measurements(self, run: Any) -> None:
        path = self.folder(run) / names.METRICS
        if not path.exists():
            return
        lines = 0
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            lines += isinstance(record, dict) and "loss" in (record.get("values") or {})
        series = [series for series in run.metric_series.all() if series.name == "loss"]
        taken = series[0].count if series else 0
        if taken != lines:
            self.blame(
                "metrics",
                str(run.pk),
                f"{lines} measurements in the folder, {taken} in the database ({run.message})",
            )

    def _check_folder(self, run: Any) -> None:
        folder = self.folder(run)
        if not folder.is_dir():
            return
        left = [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]
        if left:
            self.blame("files", str(run.pk), f"temporary files are left: {left}")
        lock = files.try_lock(folder / names.LOCK)
        if lock is None:
            self.blame("lock", str(run.pk), "its lock is still held")
        else:
            os.close(lock)
        if (folder / names.KEEPER).exists() and not (folder / names.EXIT).exists():
            self.blame("files", str(run.pk), "has a keeper.json and no exit.json")

    # --- the whole

    def _check_journal_of_strangers(self) -> None:
        for path in (self.house.workshop / "journal").iterdir():
            if path.name not in self.runs:
                self.blame("lost", path.name, "was trained and is not in the table")
        for path in self.house.output_root.glob(".*/**/*"):
            if path.is_dir() and path.name == ".hosts":
                continue
            if re.match(r"^\..*\.[0-9a-f]{8}$", path.name):
                self.blame("files", None, f"temporary file is left: {path}")

    def _check_counters(self) -> None:
        with urllib.request.urlopen(f"{self.house.url}/metrics", timeout=30) as response:
            text = response.read().decode()
        counted = {
            (match[1], match[2]): int(float(match[3]))
            for match in re.finditer(
                r'^tunix_runs_total\{(?:mode="([^"]+)",status="([^"]+)")\} (\S+)$', text, re.M
            )
        } or {
            (match[2], match[1]): int(float(match[3]))
            for match in re.finditer(
                r'^tunix_runs_total\{(?:status="([^"]+)",mode="([^"]+)")\} (\S+)$', text, re.M
            )
        }
        table = Counter((run.mode, run.status) for run in self.runs.values() if run.status in ENDED)
        if counted != dict(table):
            self.blame("counters", None, f"/metrics says {counted}, the table {dict(table)}")

    def _check_processes(self) -> None:
        wanted = {f"TUNIXRT_RUN_ID={run_id}".encode(): run_id for run_id in self.runs}
        for process in live_processes():
            try:
                lines = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            for line in lines:
                if line in wanted:
                    self.blame("orphan", wanted[line], f"process {process.pid} of it is alive")

    # --- telling

    def story(self, violation: Violation) -> str:
        """Return a violation with the run's events and what was done around it."""
        lines = [str(violation)]
        run = self.runs.get(violation.run_id or "")
        if run is not None:
            lines += [
                f"    {event.at.timestamp():.2f} {event.old or '-'} → {event.new or '-'}"
                f" {event.reason} ({event.by})"
                for event in run.events.all()
            ]
            created = self.created_at(run)
            start, end = created - 1, (self.ended_at(run) or created) + 2
            lines += [f"    {deed}" for deed in self.monkey.around(start, end)]
            lines += [
                f"    {act.sent:.2f}–{act.answered:.2f} {act.what} → {act.code} {act.status or ''}"
                for act in self.acts[str(run.pk)]
            ]
        return "\n".join(lines)


def unsettled(load: Load) -> list[Submission]:
    return [
        submission
        for submission in load.submissions
        if submission.answers and not submission.settled
    ]
