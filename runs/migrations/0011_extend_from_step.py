from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0010_resume_from'),
    ]

    operations = [
        migrations.AddField(
            model_name='run',
            name='extend_from_step',
            field=models.PositiveIntegerField(help_text='The step of the checkpoint that it extends; null: it is no extension.', null=True),
        ),
    ]
