"""POST /api/tunix/run with what nobody should send: a clear 4xx or a failed dry run that says why;
never a 500, never a file outside the output root, nothing half stored."""

import json
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.conf import LazySettings
from django.db import connection
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.models import Run, RunEvent
from runs.spec.kinds import SFT

pytestmark = pytest.mark.django_db
URL = "/api/tunix/run"

HIDDEN_PATHS = [".hidden", "a/.hidden", ".hosts", ".hosts/x"]
OUTSIDE = [
    "..", "../x", "a/../../x", "/", "/etc/passwd", "//etc", "~", "~/x", "./output/../x",
    "./output//etc/passwd", "./output/~", "a/..", "..\\x", "C:\\x", "\\\\host\\share",
]  # fmt: skip
NOT_A_NAME = ["a\x01b", "a\nb", "a\x7fb", "a" * 256, "/".join(["a" * 200] * 6), "é" * 128]
MODEL_PATHS = [
    "/", "/etc", "/etc/passwd", "./", "./..", "./../..", "./models", "../models/x", "..", "a/../b",
    "a/b/c", "~/model", "~", "file:///etc/passwd", "http://example.org/m", "C:\\models\\m",
    "models\\m", "a//b", "/models/x", "a/b/", ".hidden", "a..b", "a\x01b", "a b", "ünï/code", "-rf",
    "a/-b", "a/.b", "preset:", "preset:../x", "preset:tiny-llama ", "PRESET:tiny-llama",
]  # fmt: skip
KEY_PATHS = [
    "../sums-v1",
    "/etc/passwd",
    "sums-v1/..",
    "sums-v1/",
    " sums-v1",
    "sums-v1\n",
    "SUMS-V1",
    "%",
    "_",
    "'; --",
]


@pytest.fixture
def post(api: APIClient, body: dict[str, Any]):
    return lambda **fields: api.post(URL, body | fields, format="json")


@pytest.fixture
def send(api: APIClient):
    def raw(data: bytes, content_type: str = "application/json", **headers: str):
        return api.generic("POST", URL, data, content_type, **headers)

    return raw


def nothing_is_stored(root: Path) -> bool:
    return not Run.objects.exists() and not RunEvent.objects.exists() and not root.exists()


class TestNoJsonObject:
    @pytest.mark.parametrize(
        "data",
        [
            b"{", b"}", b"{'a': 1}", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a": 1,}', b"NaN",
            b'{"learning_rate": NaN}', b'{"learning_rate": Infinity}',
            b'{"learning_rate": -Infinity}', b'{"learning_rate": 1e999}', b'{"a": "\x00"}',
            b'{"dataset_key": "\\ud800"}', b'{"dataset_key": "\xed\xa0\x80"}', b"[" * 100_000,
            b'{"a":' * 5000, b"\x00", b" ", b'{"notes": "a\\u0000b"}', b'{"\\u0000": 1}',
            b'{"a": [{"b": "\\u0000"}]}',
        ],
    )  # fmt: skip
    def test_is_400_with_the_place_or_the_reason(self, send, output_root: Path, data: bytes):
        response = send(data)

        assert response.status_code == 400
        assert list(response.json()) == ["detail"]
        assert response.json()["detail"].startswith(("Malformed JSON: ", "NUL characters"))
        assert nothing_is_stored(output_root)

    @pytest.mark.parametrize(
        "data", [b"[]", b"null", b'"text"', b"7", b"true", b'[{"dataset_key": "a"}]']
    )
    def test_another_json_value_is_400(self, send, data: bytes):
        response = send(data)

        assert response.status_code == 400
        assert response.json()["detail"] == "The request must be a JSON object."

    @pytest.mark.parametrize("data", [b"", b"{}"])
    def test_no_body_lacks_what_is_required(self, send, data: bytes):
        assert set(send(data).json()) == {"detail", "dataset_key", "model_id"}


class TestSize:
    def test_a_body_of_10_mb_is_413(self, send, output_root: Path):
        response = send(b'{"notes": "' + b"x" * 10_000_000 + b'"}')

        assert response.status_code == 413
        assert "5,242,880 bytes" in response.json()["detail"]
        assert nothing_is_stored(output_root)

    def test_a_body_that_lies_about_its_length_is_read_no_further_than_it_says(self, send):
        response = send(b'{"notes": "' + b"x" * 1_000_000 + b'"}', CONTENT_LENGTH="100")

        assert response.status_code == 400
        assert "Malformed JSON" in response.json()["detail"]

    def test_the_limit_itself_is_taken(self, send, settings: LazySettings):
        settings.TUNIXRT_API_MAX_BODY_BYTES = 100

        assert send(b"{}" + b" " * 98).status_code == 400
        assert send(b"{}" + b" " * 99).status_code == 413

    def test_an_answer_does_not_throw_a_large_value_back(self, post):
        large = "x" * 1_000_000

        for fields in (
            {"num_epochs": large},
            {"dtype": large},
            {"lora_targets": [large]},
            {large: 1},
            {"seed": [large]},
        ):
            response = post(**fields)
            assert response.status_code == 400
            assert len(response.content) < 2000

    def test_many_unknown_fields_are_named_in_part(self, post):
        response = post(**{f"field-{number}": number for number in range(50_000)})

        assert response.status_code == 400
        assert len(response.content) < 20_000
        assert "field-0" in response.json()
        assert "49,950 more" in response.json()["detail"]

    def test_a_list_of_names_has_no_repeats(self, post):
        response = post(lora_rank=4, lora_targets=["q_proj"] * 100_000)

        assert response.status_code == 400
        assert list(response.json()) == ["detail", "lora_targets"]


class TestContentType:
    @pytest.mark.parametrize(
        "content_type",
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"],
    )
    def test_another_one_is_415(self, send, content_type: str):
        response = send(b"dataset_key=a", content_type)

        assert response.status_code == 415
        assert "Unsupported media type" in response.json()["detail"]

    def test_parameters_of_json_do_not_matter(self, send, body: dict[str, Any]):
        assert send(json.dumps(body).encode(), "application/json; charset=utf-8").status_code == 202


@pytest.mark.parametrize("path", [*OUTSIDE, *HIDDEN_PATHS, *NOT_A_NAME])
@pytest.mark.parametrize("dry_run", [True, False])
def test_an_output_dir_outside_the_root_is_400(
    post, scripted, output_root: Path, path: str, dry_run: bool
):
    scripted()
    response = post(output_dir=path, dry_run=dry_run)

    assert response.status_code == 400
    assert list(response.json()) == ["detail", "output_dir"]
    assert nothing_is_stored(output_root)


def test_an_output_dir_that_cannot_be_read_is_400(post, output_root: Path):
    """It is shown as names are, and it becomes a folder on disk."""
    response = post(output_dir="team/\u202ebc")

    assert response.status_code == 400
    assert "U+202E RIGHT-TO-LEFT OVERRIDE" in response.json()["output_dir"][0]
    assert nothing_is_stored(output_root)


class TestLinksInTheOutputRoot:
    def test_one_that_leads_outside_is_400(self, post, output_root: Path, tmp_path: Path):
        outside = tmp_path / "outside"
        outside.mkdir()
        output_root.mkdir()
        (output_root / "link").symlink_to(outside)

        for path in ("link", "link/x", "./output/link/x/y"):
            assert list(post(output_dir=path).json()) == ["detail", "output_dir"]
            assert list(post(output_dir=path, dry_run=False).json()) == ["detail", "output_dir"]
        assert os.listdir(outside) == []

    def test_one_that_leads_to_another_folder_inside_is_400(self, post, output_root: Path):
        (output_root / "real").mkdir(parents=True)
        (output_root / "link").symlink_to("real")

        assert list(post(output_dir="link/x").json()) == ["detail", "output_dir"]

    def test_one_that_leads_to_itself_is_400(self, post, output_root: Path):
        output_root.mkdir()
        (output_root / "loop").symlink_to("loop")

        for path in ("loop", "loop/x"):
            assert list(post(output_dir=path).json()) == ["detail", "output_dir"]


def test_a_run_id_is_no_folder_name(post, output_root: Path):
    path = "0b7e1c1e-0000-4000-8000-00000000000a"

    assert list(post(output_dir=path).json()) == ["detail", "output_dir"]
    assert list(post(output_dir=path.upper()).json()) == ["detail", "output_dir"]
    assert list(post(output_dir=f"{path}/x").json()) == ["detail", "output_dir"]


@pytest.mark.parametrize("model_id", MODEL_PATHS)
def test_a_model_id_with_a_path_in_it_is_400(post, output_root: Path, model_id: str):
    response = post(model_id=model_id)

    assert response.status_code == 400
    assert list(response.json()) == ["detail", "model_id"]
    assert nothing_is_stored(output_root)


class TestLinksInAModelRoot:
    @pytest.fixture
    def models(self, settings: LazySettings, tmp_path: Path) -> Path:
        root = tmp_path.resolve() / "models"
        root.mkdir()
        settings.TUNIX_MODEL_ROOTS = [root]
        return root

    def test_one_that_leads_outside_is_400(self, post, models: Path):
        (models / "link").symlink_to("/etc")

        assert list(post(model_id=f"{models}/link").json()) == ["detail", "model_id"]
        assert list(post(model_id=f"{models}/link/ssl").json()) == ["detail", "model_id"]
        assert list(post(model_id=f"{models}/x/../../x").json()) == ["detail", "model_id"]

    def test_one_that_leads_to_itself_is_400(self, post, models: Path):
        (models / "loop").symlink_to("loop")

        assert list(post(model_id=f"{models}/loop").json()) == ["detail", "model_id"]

    def test_the_root_itself_is_no_model(self, post, models: Path):
        assert list(post(model_id=str(models)).json()) == ["detail", "model_id"]
        assert list(post(model_id=f"{models}/.").json()) == ["detail", "model_id"]

    def test_a_missing_one_and_a_file_are_failed_dry_runs(self, post, models: Path):
        (models / "file").write_text("hello")

        for name in ("missing", "file", "file/below"):
            answer = post(model_id=f"{models}/{name}").json()
            assert (answer["status"], answer["exit_code"]) == ("failed", None)
            assert "there is no model folder" in answer["stderr"]


@pytest.mark.parametrize("key", KEY_PATHS)
def test_a_dataset_key_with_tricks_is_unknown(post, output_root: Path, key: str):
    response = post(dataset_key=key)

    assert response.status_code == 404
    assert response.json() == {"detail": f"Dataset not found: {key}"}
    assert nothing_is_stored(output_root)


@pytest.mark.parametrize(
    "name", ["dataset_key", "model_id", "output_dir", "notes", "webhook_url", "client_request_id"]
)
def test_a_lone_surrogate_or_nul_in_text_never_reaches_the_database(
    post, send, body: dict[str, Any], name: str
):
    for escape in (b"\\ud800", b"\\udfff", b"\\u0000"):
        data = orjson.dumps(body | {name: "MARK"}).replace(b"MARK", b"a" + escape + b"b")
        assert send(data).status_code == 400
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org",
        "example.org",
        "http://",
        "javascript:alert(1)",
        "http://a b/",
        7,
        [],
        "http://x\ny/",
    ],
)
def test_a_webhook_must_be_an_http_address(post, url: Any):
    assert list(post(webhook_url=url).json()) == ["detail", "webhook_url"]


def test_the_longest_folder_name_can_be_stored_whatever_its_characters(post, scripted):
    """The unique index of PostgreSQL takes about 2,700 bytes."""
    scripted()
    longest = "/".join(chr(0x10000 + number) * 62 for number in range(4))

    response = post(output_dir=longest, dry_run=False)

    assert response.status_code == 202
    assert response.json()["output_dir"] == longest
    assert list(
        post(
            output_dir="/".join(chr(0x10000 + number * 61) for number in range(250)), dry_run=False
        ).json()
    ) == [
        "detail",
        "output_dir",
    ]


class TestAnExampleLongerThanTheLimit:
    def test_all_of_them_is_a_failed_dry_run(self, post, make_dataset):
        longer = make_dataset("longer", prompt="x" * 128 + "{}")

        answer = post(dataset_key=longer.dataset_key, max_seq_length=128).json()

        assert answer["status"] == "failed"
        assert answer["exit_code"] is None
        assert answer["message"].startswith(
            "Every example is longer than max_seq_length 128: the shortest has "
        )
        assert "Raise max_seq_length" in answer["stderr"]

    @pytest.mark.parametrize("too_long", ["truncate", "split"])
    def test_another_handling_can_be_asked_for(self, post, make_dataset, too_long: str):
        longer = make_dataset("longer", prompt="x" * 128 + "{}")

        assert (
            post(dataset_key=longer.dataset_key, max_seq_length=128, too_long=too_long).json()[
                "status"
            ]
            == "completed"
        )

    def test_one_of_several_is_not_the_end(self, post, make_dataset, dataset: Dataset):
        mixed = make_dataset("mixed", size=2, prompt="{}")
        assert mixed.stats["shortest_example_bytes"] < 128

        assert (
            post(dataset_key=mixed.dataset_key, max_seq_length=128).json()["status"] == "completed"
        )


def test_an_empty_dataset_is_a_failed_dry_run(post, make_dataset):
    make_dataset("empty", size=0)

    answer = post(dataset_key="empty-v1").json()

    assert answer["status"] == "failed"
    assert (
        answer["message"]
        == "Dataset empty-v1 is empty: it has no example. Add traces in a new version of it."
    )
    assert answer["stderr"].startswith("error: Dataset empty-v1 is empty")
    assert answer["stdout"] == ""


def test_a_dataset_that_is_all_held_out_is_a_failed_dry_run(post, make_dataset):
    make_dataset("held", size=2, held_out=2)

    assert (
        "2 held-out examples and none to train on" in post(dataset_key="held-v1").json()["message"]
    )


# --- whatever else --------------------------------------------------------------------------------

FIELDS = [
    "dataset_key", "model_id", "output_dir", "dry_run", "smoke", "preflight", "tags", "notes",
    "priority", "timeout_seconds", "auto_retry", "webhook_url", "client_request_id", "kind",
    *SFT.parameters,
]  # fmt: skip
ALLOWED = {202, 400, 404, 409, 501}
texts = st.text(st.characters(codec="utf-8"), max_size=40)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
near_misses = {
    "model_id": st.sampled_from(
        ["preset:tiny-llama", "google/gemma-2b-it", "./models/x", "gpt2", *MODEL_PATHS]
    ),
    "output_dir": st.sampled_from([None, "a", "a/b", *OUTSIDE]) | texts,
    "dry_run": st.just(True),
    "tags": st.lists(texts, max_size=3),
}
hostile = effort(max_examples=60)


@hostile
@given(asked=st.dictionaries(st.sampled_from(FIELDS) | texts, anything, max_size=6) | anything)
def test_any_json_is_answered(api: APIClient, body: dict[str, Any], asked: Any):
    if isinstance(asked, dict):
        asked = body | asked
    response = api.generic("POST", URL, orjson.dumps(asked), "application/json")

    assert response.status_code in ALLOWED
    assert response.status_code == 202 or response.json()["detail"]


@hostile
@given(fields=st.fixed_dictionaries({}, optional=near_misses))
def test_almost_right_requests_stay_inside_the_root(
    api: APIClient, body: dict[str, Any], output_root: Path, fields: dict[str, Any]
):
    before = sorted(os.listdir(output_root.parent))
    response = api.generic("POST", URL, orjson.dumps(body | fields), "application/json")

    assert response.status_code in ALLOWED
    if response.status_code == 202:
        assert response.json()["status"] in ("completed", "failed")
    assert set(os.listdir(output_root.parent)) - set(before) <= {"output"}
    # the transaction of the test is whole: no statement has broken it
    assert connection.in_atomic_block


@hostile
@given(data=st.binary(max_size=200))
def test_any_bytes_are_answered(api: APIClient, data: bytes):
    assert api.generic("POST", URL, data, "application/json").status_code == 400


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_steps", 10**9, "This field must be at most 100,000,000."),
        ("timeout_seconds", 10**9, "This field must lie between 1 and 31,536,000."),
        ("max_seq_length", 7, "This field must be at least 128."),
        ("num_epochs", True, "This field must be a whole number, not true."),
        ("learning_rate", False, "This field must be a number, not false."),
        ("priority", True, "This field must be a whole number, not true."),
        ("learning_rate", [None], "This field must be a number, not [null]."),
        ("too_long", None, "This field must not be null."),
        ("too_long", True, "This field must be text, not true."),
        ("too_long", "cut", 'This field "cut" is not one of drop, truncate, split.'),
        ("lora_targets", [None], "This field null is not one of"),
        (
            "learning_rate",
            "0,0001",
            (
                'This field must be a number, not "0,0001": write it without quotes, with a point'
                " for decimals, as in 0.0001."
            ),
        ),
        (
            "timeout_seconds",
            "90",
            (
                'This field must be a number, not "90": write it without quotes, with a point for'
                " decimals, as in 0.0001."
            ),
        ),
        (
            "num_epochs",
            "1,000",
            (
                'This field must be a whole number, not "1,000": write digits without quotes and'
                " separators."
            ),
        ),
    ],
)
def test_messages_say_values_as_they_stand_in_a_request(post, field: str, value: Any, said: str):
    response = post(**{field: value})

    assert response.status_code == 400
    assert response.json()[field][0].startswith(said)


@pytest.mark.parametrize("depth", [10, 900, 1000])
def test_a_value_of_great_depth_is_refused(send, body: dict[str, Any], depth: int):
    nested = b"[" * depth + b"]" * depth

    response = send(json.dumps(body).encode()[:-1] + b', "learning_rate": ' + nested + b"}")

    assert response.status_code == 400
    assert len(response.content) < 1000
