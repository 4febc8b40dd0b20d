"""Chat templates with tools and reasoning, in the ways of well-known models, and a tokenizer of
single bytes for them."""

import json
from pathlib import Path
from typing import Any

from runs.trainer.data.conversation import Conversation
from runs.trainer.data.dataset import parse_line
from runs.trainer.data.tokenizer import ChatTokenizer, Encoded
from runs.trainer.tests.helpers import byte_tokenizer, conversation_line

SPECIAL = [
    "<|turn|>", "<|call|>", "<|sep|>", "<|called|>", "[INST]", "[/INST]", "[TOOLS]", "[TOOL_CALLS]",
    "[RESULTS]",
]  # fmt: skip
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # tokens, not marked as special

# Tools in the system message, calls and results between tags, results in a turn of the user, as
# Qwen has them; reasoning only after the last question, as Qwen 3 has it.
QWEN = """\
{%- if tools %}<|turn|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}Tools:
{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}<|end|>
{% elif messages[0].role == 'system' %}<|turn|>system
{{ messages[0].content }}<|end|>
{% endif %}
{%- set asked = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}<|turn|>{{ m.role }}
{{ m.content }}<|end|>
{% elif m.role == 'assistant' %}<|turn|>assistant
{% if m.reasoning_content and loop.index0 > asked.last %}<think>
{{ m.reasoning_content.strip() }}
</think>

{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}
{%- if m.content or not loop.first %}{{ '\\n' }}{% endif %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{% elif m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|turn|>user{% endif -%}
{{ '\\n' }}<tool_response>
{{ m.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|end|>
{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|turn|>assistant
{% endif %}"""

# Tools before the last question only, no generation prompt, calls after a token of their own, as
# Mistral has them.
MISTRAL = """\
{%- set asked = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and loop.index0 == asked.last %}[TOOLS]{{ tools | tojson }}{% endif -%}
[INST]{{ m.content }}[/INST]
{%- elif m.role == 'tool' %}[RESULTS]{{ m.content }}
{%- elif m.tool_calls %}[TOOL_CALLS]
{%- for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}{{ eos_token }}
{%- else %}{{ m.content }}{{ eos_token }}
{%- endif %}
{%- endfor %}"""

# Arguments are put together as texts, and every call ends with a token of its own, as DeepSeek has
# them. No tools.
DEEPSEEK = """\
{%- for m in messages %}
{%- if m.role == 'tool' %}<|sep|>{{ m.content }}<|sep|>
{%- else %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls or [] -%}
{{ '<|call|>' + call.function.name + '<|sep|>' + call.function.arguments + '<|called|>' }}
{%- endfor %}{% if m.role == 'assistant' %}<|end|>{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

# What an assistant writes is marked.
MARKED = """\
{%- if tools %}<|system|>{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|{{ m.role if m.role != 'tool' else 'user' }}|>
{%- if m.role == 'tool' %}<result>{{ m.content }}</result><|end|>
{%- elif m.role != 'assistant' %}{{ m.content }}<|end|>
{%- else %}
{%- generation %}
{%- if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] -%}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|end|>{% endgeneration %}
{%- endif %}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def load(
    folder: Path, template: str | None, *, prompt_style: str = "conversation"
) -> ChatTokenizer:
    """A tokenizer of single bytes, so that every token is a letter or a control token."""
    tokenizer = byte_tokenizer(template, bos_token="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.add_tokens(TAGS)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return ChatTokenizer(folder, prompt_style=prompt_style)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def calls(name: str, content: str = "", **arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def result(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content}


def conversation(*messages: dict[str, Any], **line: Any) -> Conversation:
    """What the line of these messages is read as."""
    raw = json.dumps(conversation_line(*messages, **line)).encode()
    return parse_line(raw, 2, 0).conversation


def rows(tokenizer: Any, *messages: dict[str, Any], **line: Any) -> list[Encoded]:
    [found] = tokenizer.encode([conversation(*messages, **line)])
    return found


def check_row(tokenizer: ChatTokenizer, row: Encoded, expected: str) -> None:
    """Compare ids and mask with ``expected``, in which «…» is learnt, token by token."""
    ids: list[int] = []
    learnt: list[bool] = []
    for index, text in enumerate(
        piece for part in expected.split("«") for piece in part.split("»")
    ):
        found = tokenizer._tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found
        learnt += [index % 2 == 1] * len(found)
    mask = [any(start <= i < end for start, end in row.learnt) for i in range(len(row.ids))]
    named = tokenizer._tokenizer.convert_ids_to_tokens
    assert list(zip(named(row.ids), mask, strict=True)) == list(
        zip(named(ids), learnt, strict=True)
    )
