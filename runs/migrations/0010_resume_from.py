import django.db.models.deletion
from django.db import migrations, models


def name_the_source(apps, schema_editor):
    """Until now a run that resumed did so from the run it retried."""
    runs = apps.get_model("runs", "Run").objects.using(schema_editor.connection.alias)
    runs.filter(resume=True, retry_of__isnull=False).update(resume_from=models.F("retry_of"))


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0009_folder_reservations'),
    ]

    operations = [
        migrations.AlterField(
            model_name='run',
            name='resume',
            field=models.BooleanField(default=False, help_text='Go on from the last checkpoint of resume_from.'),
        ),
        migrations.AddField(
            model_name='run',
            name='resume_from',
            field=models.ForeignKey(db_index=False, help_text='Whose last checkpoint it goes on from: retry_of, or the nearest run before it that has one.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='heirs', to='runs.run'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('resume_from'), condition=models.Q(('resume_from__isnull', False)), name='ix_tunix_runs_heirs'),
        ),
        migrations.RunPython(name_the_source, migrations.RunPython.noop),
    ]
