from django.db import migrations, models
from django.db.models import F, OuterRef, Subquery


def take_from_the_runs(apps, schema_editor):
    run, tag = apps.get_model("runs", "Run"), apps.get_model("runs", "RunTag")
    database = schema_editor.connection.alias
    of_its_run = run.objects.using(database).filter(pk=OuterRef("run_id")).values("created_at")[:1]
    tag.objects.using(database).update(run_created_at=Subquery(of_its_run))


class Migration(migrations.Migration):

    dependencies = [
        ("runs", "0006_retries_by_a_partial_index"),
    ]

    operations = [
        migrations.AddField("runtag", "run_created_at", models.DateTimeField(null=True)),
        migrations.RunPython(take_from_the_runs, migrations.RunPython.noop, elidable=True),
        migrations.AlterField(
            "runtag",
            "run_created_at",
            models.DateTimeField(help_text="The run's, which never changes: the history by tag is an index here."),
        ),
        migrations.RemoveIndex("runtag", "ix_run_tag_name"),
        migrations.AddIndex(
            "runtag", models.Index("name", F("run_created_at").desc(), F("run").desc(), name="ix_run_tag_newest")
        ),
    ]
