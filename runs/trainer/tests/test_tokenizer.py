"""Messages to ids, and exactly which tokens are learnt."""

import pytest

from runs.trainer.errors import DataError, ModelError
from runs.trainer.tests.helpers import byte_tokenizer
from runs.trainer.tokenizer import ByteTokenizer, ChatTokenizer

GENERATION = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
CONVERSATION = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "más?"},
    {"role": "assistant", "content": "so gut wie fünf"},
]


def load(tmp_path, template, **tokens):
    byte_tokenizer(template, **tokens).save_pretrained(tmp_path)
    return ChatTokenizer(tmp_path)


def learnt(tokenizer, messages):
    """The text of the learnt tokens, special ones as they are, and what stands before."""
    [encoded] = tokenizer.encode([messages])
    [(start, end)] = encoded.learnt
    return tokenizer.decode(encoded.ids[start:end], marks=True), tokenizer.decode(encoded.ids[:start], marks=True)


def test_bytes_round_trip_and_mask():
    tokenizer = ByteTokenizer()
    [encoded] = tokenizer.encode([CONVERSATION])
    ids, [(start, end)] = encoded.ids, encoded.learnt
    assert ids[0] == 257
    assert ids[-1] == 258
    assert end == len(ids)
    assert tokenizer.decode(ids[start:]) == "so gut wie fünf"
    assert ids[:start] == tokenizer.encode_prompt(CONVERSATION[:-1])
    assert tokenizer.decode(ids[:start]) == "2+2?\n4más?\n"
    assert tokenizer.stop_ids == (258,)


def test_only_the_last_answer_with_its_end_is_learnt(tmp_path):
    tokenizer = load(tmp_path, "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + GENERATION)
    assert learnt(tokenizer, CONVERSATION) == (
        "so gut wie fünf<|end|>",
        "<|user|>2+2?<|end|><|assistant|>4<|end|><|user|>más?<|end|><|assistant|>",
    )
    [encoded] = tokenizer.encode([CONVERSATION])
    [(start, end)] = encoded.learnt
    assert encoded.ids[:start] == tokenizer.encode_prompt(CONVERSATION[:-1])
    assert tokenizer.decode(encoded.ids[start:end]) == "so gut wie fünf"


def test_a_template_that_strips_answers(tmp_path):
    tokenizer = load(tmp_path, "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}" + GENERATION)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\n  a \n"}]
    assert learnt(tokenizer, messages) == ("a<|end|>", "<|user|>q<|end|><|assistant|>")


def test_a_template_whose_beginning_changes_with_the_answer(tmp_path):
    """Some templates count or mark messages: the prompt is then not the beginning of the whole."""
    template = (
        "{{ messages | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = load(tmp_path, template)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "answer"}]
    assert learnt(tokenizer, messages) == ("answer<|end|>", "2<|user|>q<|end|><|assistant|>")


def test_a_token_across_the_border_belongs_to_the_answer(tmp_path):
    """The tokenizer joins the prompt's last and the answer's first character: ids of the prompt are no prefix."""
    end = "{% if m.role == 'assistant' %}<|end|>{% else %}:{% endif %}"
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m.content }}" + end + "{% endfor %}")
    tokenizer.add_tokens([":a"])
    tokenizer.save_pretrained(tmp_path)
    loaded = ChatTokenizer(tmp_path)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}]
    assert learnt(loaded, messages) == (":ab<|end|>", "q")


def test_a_template_without_an_end_gets_one(tmp_path):
    generation = "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = load(tmp_path, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + generation)
    assert learnt(tokenizer, CONVERSATION[:2]) == ("4\n<|end|>", "user: 2+2?\nassistant: ")
    assert tokenizer.notes == ["The chat template does not end an answer: <|end|> is added."]


def test_no_template_uses_a_plain_one_and_says_so(tmp_path):
    tokenizer = load(tmp_path, None)
    assert learnt(tokenizer, [{"role": "system", "content": "Be brief."}, *CONVERSATION[:2]]) == (
        " 4<|end|>",
        "Be brief.\n\nQuestion: 2+2?\nAnswer:",
    )
    assert tokenizer.notes == ["The tokenizer has no chat template: a plain one is used (Question: … / Answer: …)."]


def test_a_template_without_system_messages_gets_them_in_the_first_question(tmp_path):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + GENERATION
    )
    tokenizer = load(tmp_path, template)
    messages = [{"role": "system", "content": "Be brief."}, *CONVERSATION[:2]]
    assert learnt(tokenizer, messages) == ("4<|end|>", "<|user|>Be brief.\n\n2+2?<|end|><|assistant|>")
    assert tokenizer.encode([messages])[0].system_moved
    assert not tokenizer.encode([CONVERSATION])[0].system_moved


def test_a_conversation_that_the_template_refuses(tmp_path):
    template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no such word') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = load(tmp_path, template)
    with pytest.raises(DataError, match="no such word"):
        tokenizer.encode([[{"role": "user", "content": "bad"}, {"role": "assistant", "content": "a"}]])


def test_the_end_of_an_answer_stops_decoding(tmp_path):
    """The template's ending token, the end token and those of generation_config.json."""
    template = "{% for m in messages %}{{ m.content }}<|assistant|>{% endfor %}"
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7]}')
    tokenizer = load(tmp_path, template)
    inner = tokenizer._tokenizer
    assert set(tokenizer.stop_ids) == {7, inner.eos_token_id, inner.convert_tokens_to_ids("<|assistant|>")}


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(ModelError, match="no usable tokenizer in "):
        ChatTokenizer(tmp_path)


def test_another_template_is_another_fingerprint(tmp_path):
    one = load(tmp_path / "one", "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    two = load(tmp_path / "two", "{% for m in messages %}{{ m.content }} <|end|>{% endfor %}")
    assert one.fingerprint != two.fingerprint
