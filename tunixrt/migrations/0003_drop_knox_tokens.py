from django.db import migrations


def drop_table(apps, schema_editor):
    """The tokens are in tunixrt_apitoken. No model has the table any more, so `flush` would stumble over its foreign key."""
    schema_editor.delete_model(apps.get_model("knox", "AuthToken"))


def make_table(apps, schema_editor):
    schema_editor.create_model(apps.get_model("knox", "AuthToken"))


class Migration(migrations.Migration):
    dependencies = [
        ("tunixrt", "0002_roles_tokens_logins"),
    ]

    operations = [
        migrations.RunPython(drop_table, make_table),
    ]
