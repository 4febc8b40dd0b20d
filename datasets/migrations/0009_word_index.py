import django.db.models.deletion
import uuid
from django.db import migrations, models
from django.db.models import Count, Max, Min

import datasets.models

# The words of an example are a set without order: no phrases, no ranking, no weights.
FORTH = {
    "sqlite": [
        """CREATE VIRTUAL TABLE datasets_word_index USING fts5(
            words, content='datasets_tracewords', content_rowid='number',
            tokenize='ascii', detail=none, columnsize=0
        )""",
        """CREATE TRIGGER datasets_tracewords_inserted AFTER INSERT ON datasets_tracewords BEGIN
            INSERT INTO datasets_word_index (rowid, words) VALUES (new.number, new.words);
        END""",
        """CREATE TRIGGER datasets_tracewords_deleted AFTER DELETE ON datasets_tracewords BEGIN
            INSERT INTO datasets_word_index (datasets_word_index, rowid, words)
            VALUES ('delete', old.number, old.words);
        END""",
        """CREATE TRIGGER datasets_tracewords_updated AFTER UPDATE ON datasets_tracewords BEGIN
            INSERT INTO datasets_word_index (datasets_word_index, rowid, words)
            VALUES ('delete', old.number, old.words);
            INSERT INTO datasets_word_index (rowid, words) VALUES (new.number, new.words);
        END""",
    ],
    "postgresql": ["CREATE INDEX ix_tracewords_words ON datasets_tracewords USING gin (words)"],
}
BACK = {
    "sqlite": [
        "DROP TRIGGER datasets_tracewords_updated",
        "DROP TRIGGER datasets_tracewords_deleted",
        "DROP TRIGGER datasets_tracewords_inserted",
        "DROP TABLE datasets_word_index",
    ],
    "postgresql": ["DROP INDEX ix_tracewords_words"],
}


def make_index(apps, schema_editor):
    for statement in FORTH[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def remove_index(apps, schema_editor):
    for statement in BACK[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def postpone_what_is_stored(apps, schema_editor):
    """What is stored already is indexed later, by a process of its own."""
    found = apps.get_model("datasets", "Trace").objects.order_by().aggregate(
        since=Min("created_at"), until=Max("created_at"), left=Count("pk")
    )
    if found["left"]:
        apps.get_model("datasets", "WordBacklog").objects.create(**found)


class Migration(migrations.Migration):

    dependencies = [
        ('datasets', '0008_archived_traces'),
    ]

    operations = [
        migrations.CreateModel(
            name='WordBacklog',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('since', models.DateTimeField()),
                ('until', models.DateTimeField()),
                ('after_at', models.DateTimeField(null=True)),
                ('after_id', models.UUIDField(null=True)),
                ('left', models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='TraceWords',
            fields=[
                ('number', models.BigAutoField(primary_key=True, serialize=False)),
                ('words', datasets.models.WordsField()),
                ('trace', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='datasets.trace')),
            ],
        ),
        migrations.RunPython(make_index, remove_index),
        migrations.RunPython(postpone_what_is_stored, migrations.RunPython.noop),
    ]
