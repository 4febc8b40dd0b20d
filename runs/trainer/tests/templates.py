"""Chat templates in the ways of well-known models. Only texts: the tests of the core use them too.

The control tokens that they write are named by the tokenizers of the tests.
"""

from typing import Any

# A turn each, and a system message of its own where there is none, as SmolLM2 has them.
SMOLLM2 = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|turn|>system\\nYou are helpful.<|end|>\\n' }}{% endif %}\
{{ '<|turn|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"""

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

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
