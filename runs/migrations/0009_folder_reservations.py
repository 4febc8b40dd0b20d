import django.db.models.deletion
from django.db import migrations, models

# The very rule that requests are held to: a copy of its own would reserve other names than these look for.
from runs.services.reservations import folder_keys


def reserve_what_runs_have(apps, schema_editor):
    database = schema_editor.connection.alias
    runs = apps.get_model("runs", "Run").objects.using(database)
    reservation = apps.get_model("runs", "FolderReservation")
    chosen = runs.filter(mode="local").exclude(output_dir="").values_list("run_id", "output_dir")
    rows = []
    for run_id, path in chosen.iterator():
        if path != str(run_id):
            keys = folder_keys(path)
            rows += [reservation(run_id=run_id, key=key, own=key == keys[-1]) for key in keys]
    reservation.objects.using(database).bulk_create(rows, batch_size=1000)


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0008_by_host'),
    ]

    operations = [
        migrations.CreateModel(
            name='FolderReservation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(help_text='Hash of the path; the same for names that a file system may confuse.', max_length=64)),
                ('own', models.BooleanField()),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='reservations', to='runs.run')),
            ],
            options={
                'indexes': [models.Index(fields=['key'], name='ix_folder_reservation_key')],
            },
        ),
        migrations.RunPython(reserve_what_runs_have, migrations.RunPython.noop),
    ]
