"""Conversations at random, and whether what is learnt of them is exactly the answer and its end.

The expectations come from ``transformers`` and from reading ids back as text, not from the code
under test.
"""

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs.trainer.data.conversation import Conversation
from runs.trainer.data.tokenizer import ChatTokenizer
from runs.trainer.errors import DataError, ModelError
from runs.trainer.tests.helpers import encode_trace
from runs.trainer.tests.tokenizer_families import LOSSLESS, NAMES, make_tokenizer_folder

GENERATION = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
CASES: dict[str, str] = json.loads(
    Path(__file__).with_name("cases").joinpath("chat_templates.json").read_text()
)
# Those of the reports, and the ways of well-known models. <think> and the like are tokens of all
# families.
TEMPLATES: dict[str, str] = {
    **CASES,
    "plain turns": (
        "{{ bos_token }}{% for m in messages %}"
        "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}" + GENERATION
    ),
    "turns that are not marked as special": (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    ),
    "instructions": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} {{ '</s>' }}{% endif %}{% endfor %}"
    ),
    "no system messages": (
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + GENERATION
    ),
    "drops system messages": (
        "{% for m in messages if m.role != 'system' %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + GENERATION
    ),
    "lays reasoning out anew": (
        "{% for m in messages %}<|{{ m.role }}|>{% set c = m.content %}"
        "{% if m.role == 'assistant' %}{% set r = '' %}{% if '</think>' in c %}"
        "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.last %}{{ '<think>\n' + r + '\n</think>\n\n' }}{% endif %}{% endif %}"
        "{{ c }}<|end|>{% endfor %}" + GENERATION
    ),
    "leaves the answer out": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}"
        "{% endif %}{% endfor %}{{ eos_token }}"
    ),
    "cuts long answers": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content[:20] }}<|end|>{% endfor %}"
        + GENERATION
    ),
    "says the answer twice": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if not add_generation_prompt %}{{ messages[-1].content }}"
        "{% else %}<|assistant|>{% endif %}"
    ),
}  # fmt: skip
# What each writes after an answer, up to its end token.
ENDS = {"tags in words": "\n<|end|>", "instructions": " </s>"}
# These can be trained with no conversation at all.
REFUSED = {"changes the text", "leaves the answer out", "says the answer twice"}
REFUSED_STYLES = {("no generation prompt", "generation")}

WORDS = [
    *NAMES, "d", "m", "of", "end", "user", "assistant", "<|", "|>", "<", ">", "</think", "think>",
    "s>", "🙂", "👩\u200d🚀", "é", "日本", " ", "  ", "\n", "\t", "\u00a0", "\u2003", "Answer:",
    "[INST]", "### Human: ", "17+4", "\U000f0000", "\ufdd0", "Ġ", "{{ eos_token }}",
]  # fmt: skip
# No lone surrogates, which a dataset cannot hold, and no lower block, which SentencePiece reads as
# a blank.
letters = st.characters(codec="utf-8", exclude_characters="▁")
texts = st.lists(st.one_of(st.sampled_from(WORDS), st.text(letters, max_size=4)), max_size=6).map(
    "".join
)
answers = st.one_of(
    st.sampled_from(["d", "m", "of", "end", "hello", "<think>why</think>fine", " padded \n"]), texts
).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """Perhaps a system message and an earlier turn, then a question and its answer."""
    roles = [
        *draw(st.sampled_from([[], ["system"]])),
        *draw(st.sampled_from([[], ["user", "assistant"]])),
        "user",
    ]
    messages = [{"role": role, "content": draw(texts)} for role in roles]
    return [*messages, {"role": "assistant", "content": draw(answers)}]


class Exactness:
    """A tokenizer with a template, and what must hold of each conversation."""

    def __init__(
        self, folder: Path, *, family: str, template: str, prompt_style: str = "conversation"
    ):
        self.family, self.template, self.prompt_style = family, template, prompt_style
        self.refused: str | None = None
        try:
            self.tokenizer = ChatTokenizer(folder, prompt_style=prompt_style)
        except ModelError as error:
            self.refused = str(error)
            return
        self.reference: Any = self.tokenizer._tokenizer
        self.control = {self.reference.convert_tokens_to_ids(name) for name in NAMES} - {
            self.reference.unk_token_id
        }

    def check(self, messages: list[dict[str, str]]) -> str:
        """Returns "learnt" or why the conversation was refused; raises AssertionError."""
        try:
            encoded = encode_trace(self.tokenizer, messages)
        except DataError as error:
            if not self._may_be_refused(messages):
                raise AssertionError(f"refused without need: {error}") from error
            return str(error)
        ids, [(start, end)] = encoded.ids, encoded.learnt
        answer = messages[-1]["content"]
        assert 0 <= start < end <= len(ids)
        self._check_ids(messages, ids, encoded.control_texts)
        # Control tokens are those that the template writes, and the tags of answers. Nothing that
        # anyone wrote is one.
        plain = [
            {**message, "content": "x" if message["content"].strip() else message["content"]}
            for message in messages
        ]
        tags = sum(
            len(re.findall("</?think>", message["content"]))
            for message in messages
            if message["role"] == "assistant"
        )
        wanted = sum(id in self.control for id in encode_trace(self.tokenizer, plain).ids)
        assert wanted <= sum(id in self.control for id in ids) <= wanted + tags
        self._check_learnt(ids, start, end, answer)
        prompt = self.tokenizer.encode_prompt(messages[:-1])
        assert sum(id in self.control for id in prompt) <= wanted + tags
        if self.family == "byte_level" and "think>" not in answer:
            assert self._read(prompt).strip() == self._read(ids[:start]).strip()
        self._check_all_answers(messages)
        return "learnt"

    def _check_all_answers(self, messages: list[dict[str, str]]) -> None:
        """With all answers learnt, each is learnt once, in the context in which it is learnt
        alone."""
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        try:
            alone = [encode_trace(self.tokenizer, messages[: i + 1]) for i in answers]
        except DataError:
            return  # an earlier answer may be blank
        [rows] = self.tokenizer.encode([Conversation(messages, tuple(answers))])
        found = [(row.ids[:end], start) for row in rows for start, end in row.learnt]
        assert found == [(row.ids[:end], start) for row in alone for start, end in row.learnt]
        if self.family in LOSSLESS:  # otherwise different texts have the same ids
            for row, longer in itertools.pairwise(rows):
                end = row.learnt[-1][1]
                assert row.ids[:end] != longer.ids[:end], "these answers could share a row"

    def _check_ids(
        self, messages: list[dict[str, str]], ids: list[int], control_texts: int
    ) -> None:
        """Without control tokens in texts the ids are those of ``apply_chat_template``."""
        names_in = [sum(name in message["content"] for name in NAMES) for message in messages]
        if any(names_in):
            return
        assert control_texts == 0
        found = self.tokenizer._template.lay_out(messages)
        [apart] = self.tokenizer._template.control.encode_apart([found.parts(found.layout.row)])
        assert apart.ids == ids  # the twin reads texts as the tokenizer does
        if self.prompt_style == "generation" or self.template in (
            "no system messages",
            "drops system messages",
        ):
            return
        expected = self.reference.apply_chat_template(messages, tokenize=True, return_dict=False)
        if self.template == "tags in words":
            text = self.reference.apply_chat_template(messages, tokenize=False) + "<|end|>"
            expected = self.reference(text, add_special_tokens=False)["input_ids"]
        assert ids == expected

    def _check_learnt(self, ids: list[int], start: int, end: int, answer: str) -> None:
        learnt, rest = self._read(ids[start:end]), self._read(ids[start + 1 : end])
        end_mark = ENDS.get(self.template, "<|end|>")
        if self.family in LOSSLESS:
            shown = {answer + end_mark, answer.strip() + end_mark}
            if self.template == "lays reasoning out anew" or "think>" in answer:
                shown |= {_without_space(text) for text in shown}
                learnt, rest = _without_space(learnt), _without_space(rest)
                end_mark = _without_space(end_mark)
                # the template's own tags are learnt, or asked after
                if self.prompt_style == "generation":
                    shown |= {text.removeprefix("<think>") for text in shown}
                    shown |= {
                        before + text for text in shown for before in ("<think>", "<think></think>")
                    }
            # White space that the template writes before an answer is learnt, and a token across
            # the border.
            fitting = [text for text in shown if learnt.endswith(text)]
            assert fitting, f"learnt {learnt!r}, not {answer!r}"
            before = learnt.removesuffix(max(fitting, key=len))
            assert not before.strip() or not rest.endswith(max(fitting, key=len)), (
                f"learnt {learnt!r}, not {answer!r}"
            )
            return
        wanted = _without_space(self._read(self._ids_of(answer)))
        if self.family == "wordpiece" or self.prompt_style == "generation":
            assert _without_space(learnt).endswith(_without_space(end_mark))
            assert len(_without_space(learnt)) > len(_without_space(end_mark))
            return
        assert _without_space(learnt) == wanted + _without_space(end_mark), (
            f"learnt {learnt!r}, not {answer!r}"
        )

    def _may_be_refused(self, messages: list[dict[str, str]]) -> bool:
        contents = [message["content"] for message in messages]
        if self.template == "cuts long answers" and any(len(content) > 20 for content in contents):
            return True
        if "think>" in "".join(contents) and "think>" in TEMPLATES[self.template]:
            return True
        nothing_to_read = not _without_space(self._read(self._ids_of(contents[-1])))
        return nothing_to_read or any(ord(letter) >= 0x10FF00 for letter in "".join(contents))

    def _ids_of(self, text: str) -> list[int]:
        ids: list[int] = self.reference(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        return ids

    def _read(self, ids: list[int]) -> str:
        return str(self.reference.decode(ids, clean_up_tokenization_spaces=False))


def check_family(family: str, root: Path, *, prompt_style: str, examples: int) -> Counter[str]:
    """Check ``examples`` conversations with every template; how many were learnt and how many
    refused."""
    found: Counter[str] = Counter()
    for number, (template, source) in enumerate(TEMPLATES.items()):
        folder = make_tokenizer_folder(root / str(number), family, source)
        exactness = Exactness(folder, family=family, template=template, prompt_style=prompt_style)
        refused = template in REFUSED or (template, prompt_style) in REFUSED_STYLES
        assert (exactness.refused is not None) == refused, (template, exactness.refused)
        if not refused:

            @settings(
                max_examples=examples,
                derandomize=True,  # chance fails no test
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(conversations())
            def hold(messages: list[dict[str, str]]) -> None:
                found["learnt" if exactness.check(messages) == "learnt" else "refused"] += 1  # noqa: B023 - runs at once

            hold()
    return found


def _without_space(text: str) -> str:
    return "".join(text.split())
