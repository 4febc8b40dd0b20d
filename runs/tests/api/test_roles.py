"""Who may do what: every route and method with every role, as the tables of docs/operations.md say;
and what roles see."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.db.models import ProtectedError
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from django_q.models import Failure, OrmQ
from rest_framework.test import APIClient

from datasets.imports.importers import ImportRequest
from datasets.imports.importing import submit_file
from datasets.models import Dataset, Erasure, Import, Trace
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from runs.models import (
    Baseline,
    Evaluation,
    EvaluationSet,
    Host,
    Judgement,
    MetricSeries,
    Run,
    RunEvent,
    RunTag,
    SavedView,
    VoteRound,
    WebhookDelivery,
)
from runs.services.claiming import claim_run
from runs.services.evaluations import clean_evaluation
from runs.services.finishing import finish_run
from runs.services.submission import submit_run
from runs.tests.conftest import Submit
from runs.tests.judge import make_judgement
from runs.tests.views.test_start import filled
from tunixrt.accounts import set_active
from tunixrt.models import ApiToken
from tunixrt.refusals import Conflict, NotAllowed
from tunixrt.roles import DEFAULT, May, Role, set_role, user_role, why_not
from tunixrt.tests.clients import FAR_AWAY
from tunixrt.tests.plugin import ROOT

pytestmark = pytest.mark.django_db
NOBODY = "nobody"
ROLES = (NOBODY, "viewer", "researcher", "operator", "superuser")
OWNED = r"{(run_id|pk|import_id|key|trace_id|name|evaluation_id|judgement_id)}"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TEXT = (ROOT / "docs" / "operations.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = TEXT.split(f"\n### {heading}\n")[1].split("\n##")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def routes(patterns: list[URLPattern | URLResolver], prefix: str = "/") -> Iterator[str]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        else:
            yield re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)


EVERY_ROUTE = sorted(set(routes(get_resolver().url_patterns)))
PAGES = [route for route in EVERY_ROUTE if not route.startswith("/admin/")]
EXPECTED = {
    (method, row[0].strip("`")): row[2:]
    for row in table("Pages and API")
    for method in row[1].split(", ")
}


@dataclass
class House:
    """One client for each role, a run of each account and one of somebody else."""

    clients: dict[str, Client]
    runs: dict[str, Run]
    views: dict[str, SavedView]
    imports: dict[str, Import]
    datasets: dict[str, Dataset]
    traces: dict[str, Trace]
    round: VoteRound
    judgements: dict[str, Judgement]

    def ask(self, role: str, method: str, route: str, owner: str) -> Any:
        values = {
            "run_id": str(self.runs[owner].pk), "pk": str(self.views[owner].pk),
            "key": self.datasets[owner].dataset_key,
            "evaluation_id": str(self.judgements[owner].evaluation_id),
            "set_key": "0" * 64,
            "check_id": str(self.runs[owner].pk),
            "name": f"baseline-of-{owner.replace(' ', '-')}",
            "round_id": str(self.round.pk),
            "judgement_id": str(self.judgements[owner].pk),
            "stream": "stdout", "path": "model/x",
            "import_id": str(self.imports[owner].pk),
            "erasure_id": str(Erasure.objects.create(trace_ids=[]).pk),
            "trace_id": str(self.traces[owner].pk),
        }  # fmt: skip
        path = re.sub(r"{(\w+)}", lambda match: values[match[1]], route)
        client = self.clients[role]
        cookies = client.cookies.output(header="", sep=";")
        with transaction.atomic():
            answer = client.generic(method, path, b"{}", content_type="application/json")
            for close in answer._resource_closers:  # an event stream gives its place back
                close()
            transaction.set_rollback(True)
        client.cookies = SimpleCookie(cookies)  # after a logout
        return answer


def evaluation_of(run: Run, by: User) -> Evaluation:
    """An evaluation that waits in the queue."""
    asked = {"dataset_key": run.dataset_key, "model_id": "preset:tiny-llama"}
    made, _ = submit_run(request=clean_evaluation(asked), by=by, queued=True)
    return Evaluation.objects.get(pk=made.pk)


@pytest.fixture
def house(submit: Submit) -> House:
    clients, runs, views, imports, datasets, traces = {}, {}, {}, {}, {}, {}
    judgements = {}
    ids = list(Trace.objects.values_list("pk", flat=True))
    for role in (*ROLES, "somebody else"):
        account = User.objects.create(username=f"the-{role}", password="one that can be changed")
        clients[role] = Client(REMOTE_ADDR=FAR_AWAY)
        if role in ROLES[1:]:
            set_role(user=account, role=Role[role.upper()])
            clients[role].force_login(account)
        runs[role] = submit()
        Run.objects.filter(pk=runs[role].pk).update(owner=account)
        file = io.BytesIO(b'{"prompt": "1+1", "completion": "2"}\n')
        imports[role] = submit_file(
            file=file,
            request=ImportRequest(name="sums", version=f"of-{role.replace(' ', '-')}"),
            file_name="",
            by=account,
        )
        datasets[role] = create_dataset(
            name="kept", version=f"by-{role.replace(' ', '-')}", trace_ids=ids, by=account
        )
        (traces[role],) = create_traces(
            items=[{"prompt": f"Who are you, {role}?", "final_answer": role}], by=account
        )
        evaluation = evaluation_of(runs[role], account)
        Baseline.objects.create(
            name=f"baseline-of-{role.replace(' ', '-')}",
            evaluation=evaluation,
            label="exact_match",
            created_by=account,
        )
        judgements[role] = make_judgement(evaluation, by=account)
        views[role] = SavedView.objects.create(owner=account, name="a view", query="status=failed")
    round = VoteRound.objects.create(
        questions=EvaluationSet.objects.create(key="k", dataset_key="sums-v1", part="all"),
        seed=0,
        created_by=runs["operator"].owner,
    )
    return House(clients, runs, views, imports, datasets, traces, round, judgements)


def is_refused(answer: Any) -> bool:
    to_login = answer.status_code == 302 and answer["Location"].startswith(
        ("/login?", "/admin/login/?")
    )
    return answer.status_code in (401, 403) or to_login


def cell(house: House, role: str, method: str, route: str) -> str:
    """What a role may do there, in the words of the table."""
    other = house.ask(role, method, route, "somebody else")
    if not re.search(OWNED, route):
        return "no" if is_refused(other) else "yes"
    own = house.ask(role, method, route, role)
    # Kept views of others are not even there.
    allowed_other = not is_refused(other) and not ("{pk}" in route and other.status_code == 404)
    return {(True, True): "yes", (True, False): "own", (False, False): "no"}[
        not is_refused(own), allowed_other
    ]


def test_the_table_names_every_route():
    assert sorted({route for _, route in EXPECTED}) == PAGES


def test_every_route_and_method_lets_in_whom_the_table_says(house: House):
    found = {
        (method, route): [cell(house, role, method, route) for role in ROLES]
        for method, route in EXPECTED
    }
    assert found == EXPECTED


def test_no_route_has_a_method_that_the_table_does_not_name(house: House):
    unnamed = [
        (method, route) for route in PAGES for method in METHODS if (method, route) not in EXPECTED
    ]
    answers = {each: house.ask("superuser", *each, "superuser").status_code for each in unnamed}
    assert {each: status for each, status in answers.items() if status != 405} == {}


def test_a_refusal_names_the_role(house: House):
    answer = house.ask("viewer", "POST", "/api/tunix/run", "viewer")
    sentence = (
        "Making datasets and runs takes the role researcher; your account has the role viewer."
    )
    assert (answer.status_code, answer.json()) == (403, {"detail": sentence})
    page = house.ask("researcher", "POST", "/runs/{run_id}/cancel", "somebody else")
    assert (
        "Acting on what is not yours takes the role operator; your account has the role researcher."
        in page.content.decode()
    )


# --- the admin

ADMIN = [route for route in EVERY_ROUTE if route.startswith("/admin/")]
ADMIN_EXPECTED = {row[0].strip("`"): row[1:] for row in table("Admin")}
# whoever comes; the last one serves none of our forms
OPEN = (
    "/admin/login/",
    "/admin/logout/",
    "/admin/autocomplete/",
)
SHARED = (  # of the admin as a whole: for whoever has staff status
    "/admin/", "/admin/jsi18n/", "/admin/password_change/", "/admin/password_change/done/",
    "/admin/r/{content_type_id}/{object_id}/",
)  # fmt: skip
VERBS = ("view", "add", "change", "delete")


def model_of(route: str) -> str:
    return ".".join(route.split("/")[2:4])


def verb_of(route: str, method: str) -> str:
    ending = route.split("/", 4)[4]
    if ending.endswith(("add/", "delete/")):
        return ending.split("/")[-2]
    return (
        "change"
        if "password" in ending or (method == "POST" and ending.endswith("change/"))
        else "view"
    )


def instances(submit: Submit, user: User) -> dict[str, object]:
    run, host = submit(), Host.objects.create(name="a-host")
    now = timezone.now()
    made = [
        run, host, user, Group.objects.create(name="a group"),
        ApiToken.objects.create(user=user)[0], Trace.objects.all()[0], Dataset.objects.all()[0],
        RunEvent.objects.all()[0], RunTag.objects.create(run=run, name="t", run_created_at=now),
        MetricSeries.objects.create(
            run=run, name="loss", count=1, first=1, last=1, minimum=1, maximum=1, last_step=1,
        ),
        WebhookDelivery.objects.create(run=run, url="http://x/", payload={}, next_attempt_at=now),
        LogEntry.objects.create(user=user, action_flag=1, action_time=now),
        OrmQ.objects.create(key="x", payload="x", lock=now),
        Failure.objects.create(id="f", name="f", func="f", started=now, stopped=now, success=False),
    ]  # fmt: skip
    return {f"{each._meta.app_label}.{each._meta.model_name}": each.pk for each in made}


def test_every_page_of_the_admin_lets_in_whom_the_table_says(
    house: House, submit: Submit, user: User
):
    objects = instances(submit, user)
    found: dict[str, dict[str, set[str]]] = {}
    for route in ADMIN:
        # The last kind leads to change/.
        if route in OPEN or "(?P" in route or re.fullmatch(r"/admin/\w+/\w+/{object_id}/", route):
            continue
        model = None if route in SHARED or route.count("/") <= 3 else model_of(route)
        path = re.sub(r"{(object_id|id)}", str(objects.get(model or "", "1")), route).replace(
            "{content_type_id}", "1"
        )
        for method in ("GET", "POST"):
            for role in ROLES:
                allowed = not is_refused(house.ask(role, method, path, role))
                if role in ("operator", "superuser") and model is not None:
                    found.setdefault(model, {}).setdefault(role, set())
                    if allowed:
                        found[model][role].add(verb_of(route, method))
                else:
                    assert allowed is (role in ("operator", "superuser")), (role, method, route)

    words = {
        model: [
            ", ".join(verb for verb in VERBS if verb in may[role]) or "–"
            for role in ("operator", "superuser")
        ]
        for model, may in found.items()
    }
    assert words == ADMIN_EXPECTED


@pytest.mark.parametrize("role", ["viewer", "researcher"])
def test_actions_of_the_admin_are_for_operators(house: House, role: str):
    """Also for an account with staff status and permissions for the model."""
    account = User.objects.get(username=f"the-{role}")
    account.is_staff = True
    account.save()
    account.user_permissions.set(Permission.objects.filter(content_type__app_label="runs"))
    run = house.runs["somebody else"]

    house.clients[role].post(
        "/admin/runs/run/", {"action": "cancel", "_selected_action": [str(run.pk)]}
    )

    run.refresh_from_db()
    assert run.status == "pending"
    house.clients["operator"].post(
        "/admin/runs/run/", {"action": "cancel", "_selected_action": [str(run.pk)]}
    )
    run.refresh_from_db()
    assert run.status == "cancelled"


# --- accounts


def test_an_account_in_no_group_is_a_researcher(user: User):
    assert user_role(user) == DEFAULT == Role.RESEARCHER


@pytest.mark.parametrize("role", list(Role))
def test_operators_have_staff_status_and_lose_it_with_the_role(user: User, role: Role):
    group = Group.objects.get_or_create(name="operator")[0]
    set_role(user=user, role=role)
    group.user_set.add(user)
    assert User.objects.get(pk=user.pk).is_staff
    group.user_set.remove(user)
    assert User.objects.get(pk=user.pk).is_staff is (role == Role.SUPERUSER)
    user.groups.add(group)
    user.groups.clear()
    assert User.objects.get(pk=user.pk).is_staff is (role == Role.SUPERUSER)
    user.groups.set([group])
    group.user_set.clear()
    assert User.objects.get(pk=user.pk).is_staff is (role == Role.SUPERUSER)


def edit(client: Client, user: User, **fields: object) -> Any:
    given = {
        "username": user.username,
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "is_active": "on",
    } | fields
    return client.post(f"/admin/auth/user/{user.pk}/change/", given)


class TestOperatorsAndAccounts:
    def test_they_edit_accounts_up_to_their_own_rights(self, house: House, user: User):
        operator = house.clients["operator"]
        viewer = Group.objects.get_or_create(name="viewer")[0]
        assert edit(operator, user, groups=[viewer.pk], first_name="Some").status_code == 302
        user = User.objects.get(pk=user.pk)
        assert (user_role(user), user.first_name) == (Role.VIEWER, "Some")

    def test_they_make_nobody_a_superuser_and_give_no_permissions(self, house: House, user: User):
        operator = house.clients["operator"]
        permission = Permission.objects.get(codename="delete_user")
        more = Group.objects.create(name="more")
        more.permissions.add(permission)

        edit(operator, user, is_superuser="on", is_staff="on", user_permissions=[permission.pk])
        page = edit(operator, user, groups=[more.pk])

        assert "You cannot give an account more rights than yours." in page.content.decode()
        user = User.objects.get(pk=user.pk)
        assert (user.is_superuser, user.is_staff, user.get_all_permissions()) == (
            False,
            False,
            set(),
        )

    @pytest.mark.parametrize("how", ["superuser", "permission"])
    def test_an_account_with_more_rights_is_not_theirs(self, house: House, user: User, how: str):
        if how == "superuser":
            set_role(user=user, role=Role.SUPERUSER)
        else:
            user.user_permissions.add(Permission.objects.get(codename="delete_user"))
        operator = house.clients["operator"]

        assert edit(operator, user, first_name="Mine").status_code == 403
        passwords = {
            "password1": "mine and no longer theirs",
            "password2": "mine and no longer theirs",
            "usable_password": "true",
        }
        assert operator.post(f"/admin/auth/user/{user.pk}/password/", passwords).status_code == 403
        page = operator.post(
            "/admin/tunixrt/apitoken/add/", {"username": user.username, "days": ""}
        )
        assert "has more rights than yours" in page.content.decode()
        operator.post("/admin/auth/user/", {"action": "deactivate", "_selected_action": [user.pk]})
        assert User.objects.get(pk=user.pk).is_active
        assert not ApiToken.objects.filter(user=user).exists()

    def test_the_account_of_the_system_cannot_be_taken_over(self, house: House):
        system = User.objects.create_user("system", is_active=False)
        assert edit(house.clients["operator"], system).status_code == 403

    def test_accounts_are_deactivated_and_what_they_did_stays(self, house: House, user: User):
        key = ApiToken.objects.create(user=user)[1]
        token = Client(REMOTE_ADDR=FAR_AWAY, headers={"authorization": f"Token {key}"})
        assert token.get("/api/tunix/runs").status_code == 200

        page = house.clients["operator"].get("/admin/auth/user/")
        assert (
            'value="deactivate"' in page.content.decode()
            and 'value="delete_selected"' not in page.content.decode()
        )
        house.clients["operator"].post(
            "/admin/auth/user/", {"action": "deactivate", "_selected_action": [user.pk]}
        )

        assert token.get("/api/tunix/runs").status_code == 401
        entry = LogEntry.objects.latest("id")
        assert (entry.user.username, entry.object_repr, entry.change_message) == (
            "the-operator",
            "somebody",
            "deactivated",
        )

    def test_an_account_that_the_audit_log_names_is_not_deleted(self, user: User):
        set_active(
            user=User.objects.create_user("another"),
            by=User.objects.create_superuser("boss"),
            active=False,
        )
        for delete in (
            User.objects.get(username="boss").delete,
            User.objects.filter(username="boss").delete,
        ):
            with pytest.raises(ProtectedError, match="Deactivate it instead"), transaction.atomic():
                delete()
        assert LogEntry.objects.get().user.username == "boss"
        user.delete()  # of whom nothing is known

    def test_nobody_deactivates_the_own_account(self, staff: User):
        with pytest.raises(Conflict):
            set_active(user=User.objects.get(pk=staff.pk), by=staff, active=False)

    def test_it_takes_an_operator(self, user: User):
        with pytest.raises(NotAllowed):
            set_active(user=User.objects.create_user("another"), by=user, active=False)

    def test_the_groups_of_roles_stay(self, house: House):
        group = Group.objects.get_or_create(name="operator")[0]
        boss = house.clients["superuser"]
        assert boss.post(f"/admin/auth/group/{group.pk}/change/", {"name": "x"}).status_code == 403
        assert (
            boss.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"}).status_code == 403
        )


# --- what roles see and may say

SECRET = "https://hooks.example.org/T0/secret?key=1"


@pytest.fixture
def told(submit: Submit, user: User) -> Run:
    """A run of ``user`` with a webhook, ended."""
    run = submit(webhook_url=SECRET)
    claim_run(run=run, host=Host.objects.create(name="h"), by="test")
    return finish_run(run=run, status="failed", reason="it broke", by="test")


def reading(account: User) -> tuple[APIClient, Client]:
    program, browser = APIClient(REMOTE_ADDR=FAR_AWAY), Client(REMOTE_ADDR=FAR_AWAY)
    program.force_authenticate(account)
    browser.force_login(account)
    return program, browser


@pytest.mark.parametrize("role", [Role.VIEWER, Role.RESEARCHER])
def test_webhook_addresses_of_others_are_masked_everywhere(told: Run, submit: Submit, role: Role):
    other = User.objects.create_user("other")
    set_role(user=other, role=role)
    program, browser = reading(other)
    second = submit()

    assert (
        program.get(f"/api/tunix/runs/{told.pk}").json()["config"]["webhook_url"]
        == "https://hooks.example.org/…"
    )
    ids = f"{told.pk},{second.pk}"
    paths = [
        f"/runs/{told.pk}", f"/runs/{told.pk}/samples", f"/runs/new?clone={told.pk}",
        f"/runs/compare?ids={ids}", f"/runs/compare.csv?ids={ids}",
        f"/api/tunix/runs/{told.pk}/manifest", "/api/tunix/runs", "/",
    ]  # fmt: skip
    for path in paths:
        assert b"T0/secret" not in browser.get(path).content, path


@pytest.mark.parametrize("role", ["owner", Role.OPERATOR, Role.SUPERUSER])
def test_owner_and_operators_see_them(told: Run, user: User, role: Role | str):
    account = user if role == "owner" else User.objects.create_user("other")
    if isinstance(role, Role):
        set_role(user=account, role=role)
    program, browser = reading(account)
    assert program.get(f"/api/tunix/runs/{told.pk}").json()["config"]["webhook_url"] == SECRET
    assert SECRET in browser.get(f"/runs/new?clone={told.pk}").content.decode()


def test_staff_that_is_no_operator_sees_none_in_the_admin(told: Run):
    helper = User.objects.create_user("helper", is_staff=True)
    helper.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    _, browser = reading(helper)
    delivery = WebhookDelivery.objects.get()
    for path in (f"/admin/runs/run/{told.pk}/change/", "/admin/runs/webhookdelivery/",
                 f"/admin/runs/webhookdelivery/{delivery.pk}/change/"):  # fmt: skip
        assert b"T0/secret" not in browser.get(path).content, path
    set_role(user=helper, role=Role.OPERATOR)
    assert b"T0/secret" in browser.get(f"/admin/runs/run/{told.pk}/change/").content


class TestPriority:
    @pytest.mark.parametrize(
        ("role", "status"), [(Role.RESEARCHER, 403), (Role.OPERATOR, 202), (Role.SUPERUSER, 202)]
    )
    def test_above_0_takes_an_operator(self, user: User, submit: Submit, role: Role, status: int):
        submit()  # its dataset
        set_role(user=user, role=role)
        program, browser = reading(user)
        body = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama", "priority": 1}
        assert program.post("/api/tunix/run", body, format="json").status_code == status
        page = browser.post(
            "/runs/new",
            filled(browser, "?dataset=sums-v1") | {"priority": "1", "action": "dry-run"},
        )
        assert (b"A priority above 0 takes the role operator" in page.content) is (status == 403)

    def test_who_clones_a_preferred_run_gets_no_preference(self, user: User, submit: Submit):
        preferred = submit(priority=50)
        assert (
            reading(user)[1]
            .get(f"/runs/new?clone={preferred.pk}")
            .context["form"]
            .initial["priority"]
            == 0
        )


def test_pages_offer_what_one_may_do(told: Run, user: User):
    other = User.objects.create_user("other")
    _, browser = reading(other)
    page = browser.get(f"/runs/{told.pk}").content.decode()
    assert "Acting on what is not yours takes the role operator" in page
    assert 'data-testid="clone"' in page
    for act in ("retry", "trash", "pin", "annotate"):
        assert f'data-testid="{act}"' not in page
        assert f'data-testid="{act}"' in reading(user)[1].get(f"/runs/{told.pk}").content.decode()
    assert "Retry run" not in browser.get("/").content.decode()
    set_role(user=other, role=Role.VIEWER)
    for path in ("/", f"/runs/{told.pk}", "/datasets"):
        page = browser.get(path).content.decode()
        assert "Start a run" not in page and "Clone" not in page and "Upload a dataset" not in page


def test_several_at_once_are_done_where_one_may_and_named_where_not(submit: Submit, user: User):
    mine, theirs = submit(), submit()
    Run.objects.filter(pk=theirs.pk).update(owner=User.objects.create_user("other"))
    _, browser = reading(user)
    chosen = {"do": "cancel", "ids": f"{mine.pk},{theirs.pk}"}

    assert (
        "Nothing: it belongs to another account."
        in browser.get("/runs/chosen", chosen).content.decode()
    )
    page = browser.post("/runs/chosen", chosen, follow=True).content.decode()

    assert "1 run asked to stop." in page
    assert f"Run {str(theirs.pk)[:8]}: Acting on what is not yours takes the role operator" in page
    assert set(Run.objects.values_list("pk", "status")) == {
        (mine.pk, "cancelled"),
        (theirs.pk, "pending"),
    }


def test_what_somebody_owns_who_may_only_read_is_not_theirs_to_act_on(user: User):
    set_role(user=user, role=Role.VIEWER)
    assert "takes the role researcher" in why_not(user, May.ACT, owner_id=user.pk)


@pytest.mark.django_db
@pytest.mark.parametrize("username", ["a", "zz"])
def test_a_deactivated_account_is_not_the_system(username: str) -> None:
    assert user_role(User.objects.create_user(username, is_active=False)) == DEFAULT
