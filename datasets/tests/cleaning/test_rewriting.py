"""Masks, lengths and fields: what examples become, and that they stay valid."""

import io
from collections import Counter
from typing import Any, ClassVar

import pytest

from datasets.cleaning.derivation import derive
from datasets.cleaning.masking import KINDS, mask
from datasets.cleaning.rewriting import FieldTaken
from datasets.examples.kinds import content_of, parse_example
from datasets.examples.schema import MAX_TRACE_BYTES
from datasets.services.exports import export_lines
from datasets.tests.deriving import chat, dataset_of, made, qa, questions, step
from datasets.tests.factory import import_upload
from tunixrt.refusals import Refusal
from tunixrt.tests.cpu import run_within_cpu_seconds

AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2" * 9
HF = "hf_" + "aB3d" * 9
OPENAI = "sk-" + "proj-aB3dEf" * 4
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "a" * 43
BLOCK = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIE/+=\n"
    "-----END RSA PRIVATE KEY-----"
)


def masked(text: str, *kinds: str) -> str:
    return str(mask(text, kinds or KINDS, Counter()))


class TestMasks:
    @pytest.mark.parametrize(
        ("text", "result"),
        [
            ("Write to ann.lee+x@mail.example.com.", "Write to [EMAIL]."),
            ("<a@b.de>, c@d.org", "<[EMAIL]>, [EMAIL]"),
            (f"key={AWS};", "key=[KEY];"),
            (f"{GITHUB} {HF} {OPENAI}", "[KEY] [KEY] [KEY]"),
            (f"Authorization: Bearer {JWT}", "Authorization: Bearer [KEY]"),
            (f"x {BLOCK} y", "x [KEY] y"),
            ('api_key = "0123456789abcdef0123"', 'api_key = "[KEY]"'),
            ("IBAN DE89 3704 0044 0532 0130 00, BIC", "IBAN [IBAN], BIC"),
            ("GB82WEST12345698765432 USES", "[IBAN] USES"),
            ("call +49 (30) 901820-00 now", "call [PHONE] now"),
            ("jöhn@exämple.de, иван@пример.рф", "[EMAIL], [EMAIL]"),
            ("jo\u0308hn@exa\u0308mple.de", "[EMAIL]"),  # with marks that combine
            ("joe＠example.com, joe﹫example.com", "[EMAIL], [EMAIL]"),
            ("ｊｏｅ＠ｅｘａｍｐｌｅ．ｃｏｍ", "[EMAIL]"),
            ("请联系joe@example.com谢谢", "请联系[EMAIL]谢谢"),
            ('To: "odd name"@example.com', "To: [EMAIL]"),
            ('"a \\" b"@c.org', "[EMAIL]"),
            ("SG." + "aB3_" * 5 + "ab." + "aB3-" * 10 + "abc", "[KEY]"),
            ("dop_v1_" + "0a1b" * 16, "[KEY]"),
            ("gsk_" + "aB3d" * 13, "[KEY]"),
            (f"aws_secret_access_key = {AWS_SECRET}", "aws_secret_access_key = [KEY]"),
            (
                f"export AWS_SECRET_ACCESS_KEY={AWS_SECRET}\n",
                "export AWS_SECRET_ACCESS_KEY=[KEY]\n",
            ),
            ("api_key: " + "0a1b" * 8, "api_key: [KEY]"),
            ("https://user:s3cret@host.example.com/x", "https://user:[KEY]@host.example.com/x"),
            ("postgres://me:p:w@db/x?y", "postgres://me:[KEY]@db/x?y"),
            ("redis://:s3cret@127.0.0.1:6379", "redis://:[KEY]@127.0.0.1:6379"),
            ("Password: hunter2, as before", "Password: [KEY], as before"),
            ("DB_PASSWORD=Tr0ub4dor&3\nPGPASSWORD=p@ssword", "DB_PASSWORD=[KEY]\nPGPASSWORD=[KEY]"),
            (
                '{"password": "hunter2", "passwd": \'a1b2c3!\'}',
                '{"password": "[KEY]", "passwd": \'[KEY]\'}',
            ),
            (r"{\"password\": \"hunter2\"}", r"{\"password\": \"[KEY]\"}"),
            ("?user=x&password=abc123&next=1", "?user=x&password=[KEY]&next=1"),
            ("'pwd' => '12345678'", "'pwd' => '[KEY]'"),
            ("token: " + "3f2a9c0b" * 3, "token: [KEY]"),
            ("token=9f8e7d6c-1234-4abc-8def-0123456789ab", "token=[KEY]"),
            ('secret = "0a1b2c3d4e5f6a7b"', 'secret = "[KEY]"'),
        ],
    )
    def test_what_is_masked(self, text: str, result: str) -> None:
        assert masked(text) == result

    @pytest.mark.parametrize(
        "text",
        [
            "a@b", "@user said", "x @ y.com", "user@", "1+12345678=12345679", "sk-learn",
            "task-force-one",
            '"literal"@en', "日本語@", "see https://host:8080/@user", "https://a.b/c:d@e",
            "postgresql://{user}:{password}@{host}/db", "https://$USER:$PASSWORD@host",
            "api_key = os.environ.get('X')", "api_key=settings.OPENAI_API_KEY_2024",
            "access_token = get_access_token_of_user_2(x)", "secret_key: see section 12 below",
            "https://user@host.x/path",
            "password = getpass.getpass()", "DE89 3704 0044 0532 0130 01",
            "AB12 CDEF GHIJ KLMN OPQR",
            "030 901820", "-----BEGIN PRIVATE KEY-----", "Bearer of good tidings", "5 + 1234567890",
            "hf_transformers", "The API key: see page 3", "f(x)@g(y)",
            "password: str = ''", "password = password2", "password=user_password_1", "pwd=p(x1)",
            'password=os.environ["PW_1"]', "password=settings.DB_PASSWORD_2", "pwd=$PW1234",
            "password: ${PW12345}", "password={pw12345}", "password=<your-pw-1234>",
            "PWD=/home/user1", "password: see page 12", "password: https://example.org/reset1",
            "Your password: at least 8 characters", "password: really?!", "token: int64",
            "The next token: hello1", "token=get_token_of_user_number_2024(x)", "max_token: 1024",
        ],
    )  # fmt: skip
    def test_what_stays(self, text: str) -> None:
        assert masked(text) == text

    def test_kinds_are_chosen(self) -> None:
        text = "a@b.de +49 30 90182000"
        assert masked(text, "phone") == "a@b.de [PHONE]"

    @pytest.mark.django_db
    def test_all_texts_of_an_example_also_in_meta_and_calls(self) -> None:
        call = {
            "role": "assistant",
            "tool_calls": [
                {"id": "a@b.de", "function": {"name": "f", "arguments": {"to": ["a@b.de"]}}}
            ],
        }
        tool = {"role": "tool", "tool_call_id": "a@b.de", "content": "a@b.de"}
        last = {"role": "assistant", "content": "a@b.de", "reasoning": "a@b.de"}
        messages = [{"role": "user", "content": "a@b.de"}, call, tool, last]
        dataset = dataset_of({"messages": messages, "meta": {"by": [{"mail": "a@b.de", "n": 1}]}})
        found = made(dataset, {"operation": "mask"})
        example = found.results[0][0]
        assert example.content.count("a@b.de") == 2  # the ids, which belong together
        assert example.content.count("[EMAIL]") == 5
        assert example.meta == {"by": [{"mail": "[EMAIL]", "n": 1}]}
        assert step(found)["notes"] == {"replaced": {"email": 6}}

    @pytest.mark.django_db
    def test_a_report_never_repeats_what_was_masked(self) -> None:
        pair = {"prompt": "Which is ann@mail.example?", "chosen": "a@b.de", "rejected": "c@d.de"}
        dataset = dataset_of(pair, pair | {"rejected": "none, really"})
        found = made(dataset, {"operation": "mask"})
        said = str(found.report())
        assert "@" not in said
        assert "[EMAIL]" in said
        # both sides of a pair became the same
        assert (step(found)["left_out"], step(found)["changed"]) == (1, 1)

    def test_no_text_takes_quadratic_time(self) -> None:
        run_within_cpu_seconds(
            60,
            "from collections import Counter\n"
            "from datasets.cleaning.masking import KINDS, mask\n"
            "n = 1_000_000\n"
            "for text in ('a' * n, 'a.' * (n // 2), 'a@' * (n // 2), '@a.' * (n // 3),\n"
            "             'a@b.' * (n // 4),\n"
            "             '\"' * n, '\"a' * (n // 2), '\"\\\\' * (n // 3), '\"@' * (n // 2),\n"
            "             'a://' * (n // 4), 'a://b:' * (n // 6), 'a' * n + '://',\n"
            "             'a://b:' + 'c' * n, 'api_key = a1' * (n // 12), 'api_key=' + 'a' * n,\n"
            "             'SG.' * (n // 3), '\u00e4@' * (n // 2),\n"
            "             'sk-' * (n // 3), 'eyJ' * (n // 3), 'eyJaaaaaaaaaaaa.' * (n // 16),\n"
            "             '-----BEGIN PRIVATE KEY-----' * (n // 27),\n"
            "             '-----BEGIN ' + 'A ' * (n // 2), 'Bearer ' * (n // 7),\n"
            "             'password' * (n // 8), 'password=' * (n // 9), 'password=' + 'a' * n,\n"
            "             'password:a1' * (n // 11), 'pwd=a&' * (n // 6), 'pwd=' + 'a&b=' * n,\n"
            "             'password = \"' * (n // 12), 'AB12 ' * (n // 5), 'DE89' * (n // 4),\n"
            "             '+1 ' * (n // 3), '+' * n, '+1' + '2' * n, '+1(' * (n // 3)):\n"
            "    mask(text, KINDS, Counter())\n",
        )


@pytest.mark.django_db
class TestLength:
    def test_too_short_and_too_long_go(self) -> None:
        dataset = dataset_of(qa("a", "b"), qa("a" * 50, "b"), qa("a" * 500, "b"))
        found = made(dataset, {"operation": "length", "min": 10, "max": 100})
        assert questions(found) == ["a" * 50]
        assert step(found)["reasons"] == {"too short": 1, "too long": 1}

    @pytest.mark.parametrize(("of", "left"), [("question", ["a"]), ("answer", ["a" * 20])])
    def test_of_question_or_answer(self, of: str, left: list[str]) -> None:
        dataset = dataset_of(qa("a", "b" * 20), qa("a" * 20, "b"))
        assert questions(made(dataset, {"operation": "length", "of": of, "max": 5})) == left

    def test_conversations_lose_whole_exchanges_first(self) -> None:
        dataset = dataset_of(chat("one", "1" * 10, "two", "2" * 10, "three", "3" * 10))
        found = made(dataset, {"operation": "length", "max": 30, "longer": "truncate"})
        messages = content_of(found.results[0][0])["messages"]
        assert [message["content"] for message in messages] == ["one", "1" * 10, "two", "2" * 10]
        assert step(found)["examples"][0]["detail"] == "41 → 26 characters"

    def test_the_last_answer_is_cut_at_a_space(self) -> None:
        dataset = dataset_of(chat("one", "some words that are too long"))
        found = made(dataset, {"operation": "length", "max": 18, "longer": "truncate"})
        messages = content_of(found.results[0][0])["messages"]
        assert messages[1]["content"] == "some words"

    def test_what_cannot_be_shortened_goes(self) -> None:
        worked = qa("q", "a" * 50) | {"steps": [{"i": 0, "type": "reasoning", "content": "s"}]}
        dataset = dataset_of(worked, qa("q" * 60), qa("q", "word " * 20))
        found = made(dataset, {"operation": "length", "max": 40, "longer": "truncate"})
        assert [example.final_answer for example, _ in found.results] == [("word " * 7).strip()]
        assert step(found)["reasons"] == {"too long and cannot be shortened": 2, "shortened": 1}

    def test_many_messages_take_linear_time(self) -> None:
        dataset = dataset_of(chat(*["x" * 20] * 1_000))
        found = made(dataset, {"operation": "length", "max": 100, "longer": "truncate"})
        assert len(content_of(found.results[0][0])["messages"]) == 4


@pytest.mark.django_db
class TestInlineReasoning:
    STEP: ClassVar = {"operation": "inline_reasoning"}
    THOUGHT: ClassVar = {"role": "assistant", "content": "2", "reasoning": " 1 and 1\n"}
    AS_TEXT: ClassVar = {
        "role": "assistant",
        "content": "<think>\n1 and 1\n</think>\n\n2",
    }

    def test_reasoning_becomes_text_of_the_answers(self) -> None:
        user = {"role": "user", "content": "<think>1+1?"}
        call = {
            "role": "assistant",
            "reasoning": "look",
            "tool_calls": [{"function": {"name": "f"}}],
        }
        tool = {"role": "tool", "content": "x"}
        dataset = dataset_of(
            {"messages": [user, call, tool, self.THOUGHT]},
            chat("plain", "answer"),
        )
        found = made(dataset, self.STEP)
        first, second = (content_of(example)["messages"] for example, _ in found.results)
        assert first[0] == user
        assert first[1]["content"] == "<think>\nlook\n</think>\n\n"
        assert "reasoning" not in first[1]
        assert len(first[1]["tool_calls"]) == 1
        assert first[3] == self.AS_TEXT
        assert second == chat("plain", "answer")["messages"]
        assert (step(found)["changed"], step(found)["left_out"]) == (1, 0)

    def test_of_pairs_and_prompts_too(self) -> None:
        asked = [{"role": "user", "content": "a"}, self.THOUGHT, {"role": "user", "content": "b"}]
        pairs = dataset_of({"prompt": asked, "chosen": [self.THOUGHT], "rejected": "3"})
        pair = content_of(made(pairs, self.STEP).results[0][0])
        assert (pair["prompt"][1], pair["chosen"]) == (self.AS_TEXT, [self.AS_TEXT])
        prompts = dataset_of({"kind": "prompt", "prompt": asked}, name="prompts")
        prompt = content_of(made(prompts, self.STEP).results[0][0])
        assert prompt["messages"][1] == self.AS_TEXT

    def test_what_becomes_too_large_is_left_out(self) -> None:
        def body(size: int) -> dict[str, Any]:
            answer = {"role": "assistant", "content": "x" * size, "reasoning": "r"}
            return {"messages": [{"role": "user", "content": "a"}, answer]}

        long = body(1 + MAX_TRACE_BYTES - parse_example(body(1)).size)
        found = made(dataset_of(long, chat("plain", "answer")), self.STEP)
        assert len(found.results) == 1
        assert step(found)["reasons"] == {"not valid with its reasoning as text": 1}

    def test_the_tags_stay_text_when_an_export_is_imported_again(self) -> None:
        messages = [{"role": "user", "content": "1+1?"}, self.AS_TEXT]
        dataset = dataset_of({"messages": messages})
        for in_full in (True, False):
            content = b"".join(export_lines(dataset, in_full=in_full))
            again = import_upload(file=io.BytesIO(content), name="again", version=f"v{in_full}")
            assert again.fingerprint == dataset.fingerprint


@pytest.mark.django_db
class TestMapFields:
    def test_renames_drops_moves_and_exchanges(self) -> None:
        dataset = dataset_of(qa("q", a=1, b=2, junk=3, deep={"x": 4, "y": 5}), qa("other", z=1))
        fields = {
            "meta.a": "meta.b",
            "meta.b": "meta.a",
            "meta.junk": None,
            "meta.deep.x": "meta.x",
        }
        found = made(dataset, {"operation": "map_fields", "fields": fields})
        assert found.results[0][0].meta == {"b": 1, "a": 2, "x": 4, "deep": {"y": 5}}
        assert found.results[1][0].meta == {"z": 1}
        assert step(found)["changed"] == 1

    def test_final_answer_and_system(self) -> None:
        dataset = dataset_of(chat("q", "The answer is 7", meta={"gold": 7, "rules": "Be brief."}))
        fields = {"meta.gold": "final_answer", "meta.rules": "system"}
        found = made(dataset, {"operation": "map_fields", "fields": fields})
        example = found.results[0][0]
        assert (example.final_answer, example.meta) == ("7", {})
        assert content_of(example)["messages"][0] == {"role": "system", "content": "Be brief."}

    def test_what_is_there_already(self) -> None:
        dataset = dataset_of(qa("q", a=1, b=2))
        parameters: dict[str, Any] = {"operation": "map_fields", "fields": {"meta.a": "meta.b"}}
        with pytest.raises(FieldTaken, match=r"example 1 of sums-v1 has meta.b already"):
            made(dataset, parameters)
        assert made(dataset, parameters | {"taken": "keep"}).results[0][0].meta == {"a": 1, "b": 2}
        assert made(dataset, parameters | {"taken": "overwrite"}).results[0][0].meta == {"b": 1}

    def test_what_has_no_such_field_goes_with_its_reason(self) -> None:
        pair = {"prompt": "p", "chosen": "c", "rejected": "r", "meta": {"a": 1}}
        dataset = dataset_of(pair, pair | {"meta": {}})
        found = made(dataset, {"operation": "map_fields", "fields": {"meta.a": "final_answer"}})
        assert len(found.results) == 1
        assert "no final answer" in step(found)["examples"][0]["detail"]

    def test_parents_are_not_changed(self) -> None:
        dataset = dataset_of(qa("q", a={"b": 1}))
        parameters = {"operation": "map_fields", "fields": {"meta.a.b": None}}
        made(dataset, parameters)
        assert dataset.items.get().trace.meta == {"a": {"b": 1}}


@pytest.mark.django_db
def test_an_operation_that_raises_leaves_no_file_open() -> None:
    """Warnings are errors in tests: a file that is not closed would fail this one."""
    dataset = dataset_of(qa("a", x=1, y=1))
    recipe = {
        "steps": [
            {"operation": "near_duplicates"},
            {"operation": "map_fields", "fields": {"meta.x": "meta.y"}},
            {"operation": "exact_duplicates"},
        ]
    }
    with pytest.raises(Refusal):
        list(derive(recipe, [dataset]).examples())
