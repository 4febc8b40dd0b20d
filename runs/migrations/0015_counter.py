from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0001_squashed_0014_waiting_by_owner'),
    ]

    operations = [
        migrations.RenameModel(old_name='Tally', new_name='Counter'),
        migrations.AlterModelOptions(name='counter', options={}),
    ]
