"""Give every run a name, and the keys that a search finds it by.

Cheap for a million runs: a column with a constant default rewrites no table, and what is filled in is one statement each, before the
indexes of the keys are made.
"""

import django.db.models.deletion
from django.db import migrations, models

import runs.spec.naming
from runs.spec.naming import ADJECTIVES, NOUNS


def name_the_unnamed(apps, schema_editor):
    """Name every run as ``runs.spec.naming.make_name`` does, and store its ``search_keys``, in one statement each."""
    if schema_editor.connection.vendor == "sqlite":
        draw, place, as_bytes = "abs(random() % {})", "instr(name, '-')", "CAST({} AS BLOB)"
    else:
        draw, place, as_bytes = "floor(random() * {})::int", "strpos(name, '-')", "convert_to({}, 'UTF8')"
    adjective, noun = (_one_of(words, draw) for words in (ADJECTIVES, NOUNS))
    schema_editor.execute(f"UPDATE tunix_runs SET name = {adjective} || '-' || {noun} || '-' || (1000 + {draw.format(9000)})")
    for text in ("name", f"substr(name, {place} + 1)", "substr(name, length(name) - 3)"):
        schema_editor.execute(f"INSERT INTO runs_runnamekey (run_id, key) SELECT run_id, {as_bytes.format(text)} FROM tunix_runs")


def _one_of(words, draw):
    cases = " ".join(f"WHEN {number} THEN '{word}'" for number, word in enumerate(words))
    return f"CASE {draw.format(len(words))} {cases} END"


class Migration(migrations.Migration):

    dependencies = [
        ("runs", "0011_extend_from_step"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    "ALTER TABLE tunix_runs ADD COLUMN name varchar(128) DEFAULT '' NOT NULL",
                    "ALTER TABLE tunix_runs DROP COLUMN name",
                ),
            ],
            state_operations=[
                migrations.AddField(
                    "run",
                    "name",
                    models.CharField(default=runs.spec.naming.make_name, help_text="What people call it; not unique.", max_length=128),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RunNameKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.BinaryField()),
                (
                    "run",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="name_keys", to="runs.run"),
                ),
            ],
        ),
        migrations.RunPython(name_the_unnamed, migrations.RunPython.noop, elidable=True),
        migrations.AddIndex("runnamekey", models.Index(models.F("key"), models.F("run"), name="ix_run_name_key")),
    ]
