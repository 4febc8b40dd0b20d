import time
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from runs.models import GateCheck, GateState, Run, Verdict
from runs.services import gates
from runs.services.access import get_run_for
from tunixrt.audit import system_user
from tunixrt.commands import number_between
from tunixrt.refusals import Refusal
from tunixrt.roles import May

POLL_SECONDS = 1.0
EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNDECIDED: 2}
ERROR = 3


class Command(BaseCommand):
    help = (
        "Check that a candidate is not worse than baselines by more than a margin. Exit code 0:"
        " pass, 1: fail, 2: undecided, 3: no verdict."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", help="id of an evaluation, or of a run to evaluate")
        parser.add_argument(
            "--baseline", action="append", required=True, help="its name; may be repeated"
        )
        parser.add_argument(
            "--margin",
            type=number_between(float, 0, 1000),
            default=0.0,
            help="how much worse is still accepted, in the unit of the score (default 0)",
        )
        parser.add_argument(
            "--wait",
            type=number_between(float, 0, 1e7),
            default=86_400.0,
            help="seconds to wait for evaluations (default a day)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            check = self._start(options)
        except Refusal as refusal:
            raise CommandError(str(refusal), returncode=ERROR) from refusal
        give_up = time.monotonic() + options["wait"]
        while check.state == GateState.WAITING:
            if time.monotonic() >= give_up:
                raise CommandError(
                    f"Check {check.pk} still waits for its evaluations.", returncode=ERROR
                )
            time.sleep(POLL_SECONDS)
            check = gates.decide(GateCheck.objects.get(pk=check.pk))
        if check.state == GateState.FAILED:
            raise CommandError(check.problem, returncode=ERROR)
        for part in check.parts.select_related("baseline"):
            self.stdout.write(sentence(part.baseline.name, part.verdict, part.result))
        self.stdout.write(check.verdict)
        if code := EXIT[Verdict(check.verdict)]:
            raise SystemExit(code)

    @staticmethod
    def _start(options: dict[str, Any]) -> GateCheck:
        try:
            run_id = UUID(options["run"])
        except ValueError as error:
            raise CommandError(f"{options['run']} is not a run id.", returncode=ERROR) from error
        by = system_user()
        candidate: Run = get_run_for(by, run_id, may=May.READ)
        baselines = gates.find_baselines(options["baseline"])
        return gates.start_check(
            candidate=candidate, baselines=baselines, margin=options["margin"], by=by
        )


def sentence(name: str, verdict: str, result: dict[str, Any]) -> str:
    """Return what a part of a check found, for people."""
    text = (
        f"{name}: {verdict}: {result['current_value']:.4g} against {result['baseline_value']:.4g},"
        f" difference {result['delta']:+.4g} ({result['low']:+.4g} to {result['high']:+.4g}),"
        f" {result['n']:,} questions"
    )
    if verdict != Verdict.UNDECIDED:
        return text
    needed = result["needed"]
    return (
        f"{text}; {f'about {needed:,} would decide' if needed else 'no number would show a pass'}"
    )
