import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

ROLES = ("viewer", "researcher", "operator")

# As in 0001: whoever deactivates an account, or takes its password away, and however, ends its API tokens for good.
CREATE = {
    "sqlite": [
        """
        CREATE TRIGGER tunixrt_end_tokens AFTER UPDATE OF is_active, password ON auth_user
        WHEN OLD.is_active <> NEW.is_active OR (OLD.password <> NEW.password AND NEW.password LIKE '!%')
        BEGIN
            DELETE FROM tunixrt_apitoken WHERE user_id = NEW.id;
        END
        """
    ],
    "postgresql": [
        """
        CREATE FUNCTION tunixrt_end_tokens() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            DELETE FROM tunixrt_apitoken WHERE user_id = NEW.id;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER tunixrt_end_tokens AFTER UPDATE OF is_active, password ON auth_user
        FOR EACH ROW
        WHEN (OLD.is_active <> NEW.is_active OR (OLD.password <> NEW.password AND NEW.password LIKE '!%'))
        EXECUTE FUNCTION tunixrt_end_tokens()
        """,
    ],
}
DROP = {
    "sqlite": ["DROP TRIGGER tunixrt_end_tokens"],
    "postgresql": ["DROP TRIGGER tunixrt_end_tokens ON auth_user", "DROP FUNCTION tunixrt_end_tokens()"],
}
COLUMNS = "digest, token_key, user_id, created, expiry"


def create_trigger(apps, schema_editor):
    for statement in CREATE[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def drop_trigger(apps, schema_editor):
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def make_groups(apps, schema_editor):
    for name in ROLES:
        apps.get_model("auth", "Group").objects.get_or_create(name=name)


def remove_groups(apps, schema_editor):
    apps.get_model("auth", "Group").objects.filter(name__in=ROLES).delete()


def take_over_tokens(apps, schema_editor):
    """Tokens of before go on to work."""
    schema_editor.execute(
        f"INSERT INTO tunixrt_apitoken ({COLUMNS}, name, read_only) SELECT {COLUMNS}, '', %s FROM knox_authtoken", [False]
    )
    schema_editor.execute("DELETE FROM knox_authtoken")


def give_tokens_back(apps, schema_editor):
    """All but those that may only read: before, every token could do what its account can."""
    schema_editor.execute(
        f"INSERT INTO knox_authtoken ({COLUMNS}) SELECT {COLUMNS} FROM tunixrt_apitoken WHERE read_only = %s", [False]
    )


class Migration(migrations.Migration):
    dependencies = [
        ("tunixrt", "0001_account_sessions"),
        ("knox", "0009_extend_authtoken_field"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="LoginAttempts",
            fields=[
                (
                    "bucket",
                    models.CharField(
                        help_text="A hash of who tried, and from where.", max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("count", models.PositiveIntegerField()),
                ("until", models.DateTimeField(db_index=True, help_text="When counting begins anew.")),
            ],
        ),
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                ("digest", models.CharField(max_length=128, primary_key=True, serialize=False)),
                ("token_key", models.CharField(db_index=True, max_length=25)),
                ("created", models.DateTimeField(auto_now_add=True)),
                ("expiry", models.DateTimeField(blank=True, null=True)),
                ("name", models.CharField(blank=True, help_text="What it is for.", max_length=100)),
                (
                    "read_only",
                    models.BooleanField(default=False, help_text="Programs can read with it and change nothing."),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="auth_token_set",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "API token",
                "verbose_name_plural": "API tokens",
            },
        ),
        migrations.RunPython(create_trigger, drop_trigger),
        migrations.RunPython(make_groups, remove_groups),
        migrations.RunPython(take_over_tokens, give_tokens_back),
    ]
