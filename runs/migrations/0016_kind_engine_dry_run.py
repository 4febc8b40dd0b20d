"""What a run is: its kind, the engine that executes it, and whether it is a dry run. ``mode``, which
says the last two in one word, stays."""

from django.conf import settings
from django.db import migrations, models


def take_from_the_mode(apps, schema_editor):
    runs = apps.get_model("runs", "Run").objects.using(schema_editor.connection.alias)
    runs.filter(mode="dry-run").update(dry_run=True)


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0015_counter'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='run',
            name='ck_run_mode',
        ),
        migrations.RemoveConstraint(
            model_name='run',
            name='uq_run_output_dir',
        ),
        migrations.AddField(
            model_name='run',
            name='kind',
            field=models.CharField(default='sft', help_text='A name in runs.spec.kinds.KINDS, which decides about parameters and results.', max_length=64),
        ),
        migrations.AddField(
            model_name='run',
            name='engine',
            field=models.CharField(choices=[('local', 'Local')], default='local', max_length=64),
        ),
        migrations.AddField(
            model_name='run',
            name='dry_run',
            field=models.BooleanField(default=False, help_text='Checks everything and trains nothing.'),
            preserve_default=False,
        ),
        migrations.RunPython(take_from_the_mode, migrations.RunPython.noop),
        migrations.AlterField(
            model_name='run',
            name='mode',
            field=models.CharField(choices=[('dry-run', 'Dry Run'), ('local', 'Local')], editable=False, max_length=64),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('engine__in', ['local'])), name='ck_run_engine'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('dry_run', True), ('mode', 'dry-run')), models.Q(('dry_run', False), ('mode', models.F('engine'))), _connector='OR'), name='ck_run_mode'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.UniqueConstraint(condition=models.Q(('dry_run', False), models.Q(('output_dir', ''), _negated=True)), fields=('output_dir',), name='uq_run_output_dir'),
        ),
    ]
