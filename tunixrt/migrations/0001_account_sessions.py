import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

# Whoever deactivates an account, and however (admin, save(), update(), SQL), ends its sessions for good; activating it ends those
# that a login at that very moment may have left. No signal tells of update() and SQL, so the database does it.
CREATE = {
    "sqlite": [
        """
        CREATE TRIGGER tunixrt_end_sessions AFTER UPDATE OF is_active ON auth_user
        WHEN OLD.is_active <> NEW.is_active
        BEGIN
            DELETE FROM tunixrt_session WHERE account_id = NEW.id;
        END
        """
    ],
    "postgresql": [
        """
        CREATE FUNCTION tunixrt_end_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            DELETE FROM tunixrt_session WHERE account_id = NEW.id;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER tunixrt_end_sessions AFTER UPDATE OF is_active ON auth_user
        FOR EACH ROW WHEN (OLD.is_active <> NEW.is_active) EXECUTE FUNCTION tunixrt_end_sessions()
        """,
    ],
}
DROP = {
    "sqlite": ["DROP TRIGGER tunixrt_end_sessions"],
    "postgresql": ["DROP TRIGGER tunixrt_end_sessions ON auth_user", "DROP FUNCTION tunixrt_end_sessions()"],
}


def create_trigger(apps, schema_editor):
    for statement in CREATE[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def drop_trigger(apps, schema_editor):
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="AccountSession",
            fields=[
                ("session_key", models.CharField(max_length=40, primary_key=True, serialize=False, verbose_name="session key")),
                ("session_data", models.TextField(verbose_name="session data")),
                ("expire_date", models.DateTimeField(db_index=True, verbose_name="expire date")),
                (
                    "account",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "session",
                "verbose_name_plural": "sessions",
                "db_table": "tunixrt_session",
                "abstract": False,
            },
        ),
        migrations.RunPython(create_trigger, drop_trigger),
    ]
