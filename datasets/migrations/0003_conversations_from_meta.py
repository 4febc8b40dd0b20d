"""Conversations that lay in ``meta.messages``.

Before there was a kind for them, a conversation was a trace whose ``meta.messages`` held what comes
before the answer; only the last answer was learnt.
"""

import hashlib
import json

import orjson
from django.db import migrations


def conversations_from_meta(apps, schema_editor):
    """Make conversations of such traces; and of the others in their datasets, since a dataset has
    one kind."""
    Trace = apps.get_model("datasets", "Trace")
    Dataset = apps.get_model("datasets", "Dataset")
    DatasetItem = apps.get_model("datasets", "DatasetItem")
    hidden = list(Trace.objects.filter(meta__has_key="messages").values_list("pk", flat=True))
    datasets = set(
        DatasetItem.objects.filter(trace__in=hidden).order_by().values_list("dataset", flat=True)
    )
    for pk in hidden:
        trace = Trace.objects.get(pk=pk)
        for name, value in _conversation(trace).items():
            setattr(trace, name, value)
        twin = Trace.objects.filter(content_hash=trace.content_hash).exclude(pk=pk).first()
        if twin is None:
            trace.save()
        else:
            DatasetItem.objects.filter(trace=pk).update(trace=twin)
            Trace.objects.filter(pk=pk).delete()
    for dataset in Dataset.objects.filter(pk__in=datasets):
        digest = hashlib.sha256()
        for item in dataset.items.select_related("trace").order_by("position").iterator(500):
            if item.trace.kind == "trace":
                columns = _conversation(item.trace)
                item.trace, _ = Trace.objects.get_or_create(
                    content_hash=columns["content_hash"],
                    defaults=columns
                    | {
                        "prompt": item.trace.prompt,
                        "steps": item.trace.steps,
                        "created_at": item.trace.created_at,
                        "created_by": item.trace.created_by,
                    },
                )
                item.save()
            digest.update(f"{item.trace.content_hash} {item.split}\n".encode())
        dataset.kind = "conversation"
        dataset.fingerprint = f"sha256:{digest.hexdigest()}"
        dataset.save()


def _conversation(trace):
    """The columns that change; steps and prompt stay, so that the way back loses nothing."""
    meta = dict(trace.meta)
    earlier = meta.pop("messages", None) or [{"role": "user", "content": trace.prompt}]
    messages = [
        {"role": message["role"], "content": message["content"]}
        | ({"weight": 0} if message["role"] == "assistant" else {})
        for message in earlier
    ]
    answer = "\n".join([*(step["content"] for step in trace.steps), trace.final_answer])
    messages.append({"role": "assistant", "content": answer})
    content = orjson.dumps({"messages": messages}).decode()
    final_answer = trace.final_answer if trace.steps else ""
    canonical = orjson.dumps(
        ["conversation", content, final_answer or None, meta], option=orjson.OPT_SORT_KEYS
    )
    return {
        "kind": "conversation",
        "content": content,
        "final_answer": final_answer,
        "meta": meta,
        "content_hash": hashlib.sha256(canonical).hexdigest(),
    }


def conversations_into_meta(apps, schema_editor):
    """Raises RuntimeError where an example cannot be a trace."""
    Trace = apps.get_model("datasets", "Trace")
    Dataset = apps.get_model("datasets", "Dataset")
    others = Trace.objects.exclude(kind="trace")
    for trace in others.iterator(500):
        columns = _trace(trace)
        twin = Trace.objects.filter(content_hash=columns["content_hash"]).first()
        if twin is None:
            Trace.objects.filter(pk=trace.pk).update(**columns)
        else:
            trace.items.update(trace=twin)
            trace.delete()
    for dataset in Dataset.objects.exclude(kind="trace"):
        digest = hashlib.sha256()
        for item in dataset.items.select_related("trace").order_by("position").iterator(500):
            digest.update(f"{item.trace.content_hash} {item.split}\n".encode())
        dataset.fingerprint = f"sha256:{digest.hexdigest()}"
        dataset.format = "tunix_sft"
        dataset.save()


def _trace(example):
    content = json.loads(example.content)
    messages = content.get("messages", [])
    *earlier, last = messages or [None]
    plain = [{name: message[name] for name in message if name != "weight"} for message in earlier]
    learnt = [m for m in earlier if m["role"] == "assistant" and m.get("weight", 1) != 0]
    questions = [message["content"] for message in plain if message["role"] == "user"]
    if (
        example.kind != "conversation"
        or "tools" in content
        or learnt
        or not questions
        or any(set(message) != {"role", "content"} for message in (*plain, last))
        or any(message["role"] not in ("system", "user", "assistant") for message in plain)
    ):
        raise RuntimeError(
            f"The {example.kind} {example.pk} cannot be a trace. Remove the datasets and examples"
            " of other kinds before going back."
        )
    steps = example.steps
    final_answer = example.final_answer or last["content"]
    if example.final_answer and not steps:
        before = last["content"].removesuffix(example.final_answer).removesuffix("\n")
        steps = [{"i": 0, "type": "reasoning", "content": before}] if before else []
    meta = dict(example.meta)
    if len(plain) > 1:
        meta["messages"] = plain
    trace = {
        "prompt": questions[-1],
        "steps": steps,
        "final_answer": final_answer,
        "meta": meta,
        "trace_version": example.trace_version,
    }
    canonical = orjson.dumps(trace, option=orjson.OPT_SORT_KEYS)
    return trace | {"kind": "trace", "content_hash": hashlib.sha256(canonical).hexdigest()}


class Migration(migrations.Migration):

    dependencies = [
        ('datasets', '0002_kinds_of_examples'),
    ]

    operations = [
        migrations.RunPython(conversations_from_meta, conversations_into_meta),
    ]
