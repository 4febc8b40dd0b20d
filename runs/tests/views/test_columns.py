"""The columns of the history: in the address, remembered, and the same for the part that refreshes
itself."""

import re
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from runs.models import Host
from runs.queries.columns import COLUMNS, DEFAULT, parse_columns
from runs.services.claiming import claim_run
from runs.tests.conftest import ROOT, Submit

pytestmark = pytest.mark.usefixtures("a_training_command")


def headings(client: Client, address: str, **headers: str) -> list[str]:
    page = client.get(address, headers=headers)
    assert page.status_code == 200, page.content
    found = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', page.content.decode())
    assert (found[0], found[-1]) == ("Run ID", "Actions")
    return found[1:-1]


def labels(names: tuple[str, ...]) -> list[str]:
    return [COLUMNS[name].label for name in names]


def test_without_a_choice_there_are_those_of_the_contract(
    local_client: Client, submit: Submit
) -> None:
    submit()
    assert headings(local_client, "/") == labels(DEFAULT)
    for label in ("Dataset", "Model", "Mode", "Status", "Started At", "Duration"):
        assert label in labels(DEFAULT)


def test_the_address_says_which(local_client: Client, submit: Submit) -> None:
    submit()
    address = "/?columns=learning_rate,status&mode=local"
    assert headings(local_client, address) == ["Status", "Learning rate"]
    assert headings(local_client, address, hx_request="true") == ["Status", "Learning rate"]
    page = local_client.get(address).content.decode()
    assert 'data-label="Dataset"' not in page
    assert 'name="columns" value="learning_rate,status"' in page  # filters keep them
    assert headings(local_client, "/") == labels(DEFAULT)  # somebody's link changes nothing here


def test_what_is_ticked_goes_into_the_address_and_is_remembered(
    local_client: Client, submit: Submit
) -> None:
    submit()
    answer = local_client.get(
        "/?choose=1&mode=local&cursor=x&columns=loss&columns=dataset&columns=nonsense"
    )
    assert (answer.status_code, answer["Location"]) == (302, "/?mode=local&columns=dataset,loss")
    cookie = answer.cookies["history_columns"]
    assert (cookie.value, cookie["httponly"], cookie["samesite"]) == ("dataset|loss", True, "Lax")

    assert headings(local_client, "/") == ["Dataset", "Loss"]
    assert headings(local_client, "/?columns=mode") == ["Mode"]
    page = local_client.get("/").content.decode()
    assert re.search(r'value="dataset" data-testid="column-dataset" checked', page)
    assert not re.search(r'data-testid="column-mode" checked', page)

    answer = local_client.get("/?choose=1&mode=local")
    assert answer["Location"] == "/?mode=local"
    assert headings(local_client, "/") == labels(DEFAULT)


def test_a_cookie_that_says_nonsense_is_passed_over(local_client: Client, submit: Submit) -> None:
    submit()
    local_client.cookies["history_columns"] = "status|<script>|nonsense"
    assert headings(local_client, "/") == ["Status"]
    local_client.cookies["history_columns"] = "<script>"
    assert headings(local_client, "/") == labels(DEFAULT)


def test_a_column_that_there_is_not_is_said(local_client: Client) -> None:
    answer = local_client.get("/?columns=status,<b>")
    assert answer.status_code == 422
    assert "There is no column &#x27;&lt;b&gt;&#x27;." in answer.content.decode()


def test_every_column_shows_what_it_is_called_after(local_client: Client, submit: Submit) -> None:
    run = submit(
        learning_rate=3e-4,
        num_epochs=7,
        batch_size=5,
        max_seq_length=640,
        priority=9,
        notes="a <note>",
    )
    claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    page = local_client.get(f"/?columns={','.join(COLUMNS)}").content.decode()
    cells = dict(re.findall(r'<td data-label="([^"]+)"[^>]*>(.*?)</td>', page, re.DOTALL))
    assert set(labels(tuple(COLUMNS))) <= set(cells)
    shown = {label: re.sub(r"<[^>]+>", "", cell).strip() for label, cell in cells.items()}
    assert shown["Learning rate"] == "0.0003"
    assert (shown["Epochs"], shown["Batch size"], shown["Sequence length"], shown["Priority"]) == (
        "7",
        "5",
        "640",
        "9",
    )
    assert (shown["Host"], shown["Owner"], shown["Attempt"]) == ("a-host", "somebody", "1")
    assert (shown["Notes"], shown["Status"], shown["Created"]) == (
        "a &lt;note&gt;",
        "running",
        "just now",
    )
    assert f'colspan="{len(COLUMNS) + 2}"' in page


@pytest.mark.parametrize("count", [1, 3])
def test_all_columns_cost_the_queries_of_the_usual_ones(
    local_client: Client,
    submit: Submit,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    for _ in range(count):
        submit()
    local_client.get("/")
    with django_assert_num_queries(7):
        local_client.get(f"/?columns={','.join(COLUMNS)}")
    with django_assert_num_queries(3):  # neither curves nor kept views
        local_client.get("/?columns=status", headers={"hx-request": "true"})


def test_the_document_lists_every_column() -> None:
    text = Path(ROOT / "docs" / "filters.md").read_text()
    listed = re.search(r"always there; there are (.*?)\.\n", text, re.DOTALL)
    assert listed
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == tuple(COLUMNS)


def test_names_are_read_in_any_order_and_with_spaces() -> None:
    assert parse_columns(" loss, status,loss ") == ("status", "loss")
    for text in ("", " , "):
        with pytest.raises(ValueError, match="Choose a column"):
            parse_columns(text)
