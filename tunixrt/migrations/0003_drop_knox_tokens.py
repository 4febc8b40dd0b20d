from django.db import migrations


def drop_table(apps, schema_editor):
    """Tokens are in tunixrt_apitoken (KNOX_TOKEN_MODEL). No model has the table of
    django-rest-knox, so ``flush`` would stumble over its foreign key."""
    schema_editor.delete_model(apps.get_model("knox", "AuthToken"))


def make_table(apps, schema_editor):
    schema_editor.create_model(apps.get_model("knox", "AuthToken"))


class Migration(migrations.Migration):
    dependencies = [
        ("tunixrt", "0001_squashed_0002_roles_tokens_logins"),
        ("knox", "0009_extend_authtoken_field"),
    ]

    operations = [
        migrations.RunPython(drop_table, make_table),
    ]
