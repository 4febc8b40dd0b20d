"""Sessions, tokens and login attempts, with the triggers and roles that belong to them.

A database in which the two migrations of before are applied counts as having this one
(``replaces``): it has taken the tokens of django-rest-knox over. Its first migration depends on
this one, so what is done after it cannot be done here.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


ROLES = ("viewer", "researcher", "operator")

# Whoever deactivates an account, or takes its password away, and however (admin, save(), update(),
# SQL), ends its sessions and API tokens for good; activating it ends those that a login at that
# very moment may have left. No signal tells of update() and SQL, so the database does it.
CREATE = {
    "sqlite": [
        """
        CREATE TRIGGER tunixrt_end_sessions AFTER UPDATE OF is_active ON auth_user
        WHEN OLD.is_active <> NEW.is_active
        BEGIN
            DELETE FROM tunixrt_session WHERE account_id = NEW.id;
        END
        """,
        """
        CREATE TRIGGER tunixrt_end_tokens AFTER UPDATE OF is_active, password ON auth_user
        WHEN OLD.is_active <> NEW.is_active OR (OLD.password <> NEW.password AND NEW.password LIKE '!%')
        BEGIN
            DELETE FROM tunixrt_apitoken WHERE user_id = NEW.id;
        END
        """,
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
    "sqlite": ["DROP TRIGGER tunixrt_end_tokens", "DROP TRIGGER tunixrt_end_sessions"],
    "postgresql": [
        "DROP TRIGGER tunixrt_end_tokens ON auth_user",
        "DROP FUNCTION tunixrt_end_tokens()",
        "DROP TRIGGER tunixrt_end_sessions ON auth_user",
        "DROP FUNCTION tunixrt_end_sessions()",
    ],
}


def create_triggers(apps, schema_editor):
    for statement in CREATE[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def drop_triggers(apps, schema_editor):
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def make_groups(apps, schema_editor):
    for name in ROLES:
        apps.get_model("auth", "Group").objects.get_or_create(name=name)


def remove_groups(apps, schema_editor):
    apps.get_model("auth", "Group").objects.filter(name__in=ROLES).delete()


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ("tunixrt", "0001_account_sessions"),
        ("tunixrt", "0002_roles_tokens_logins"),
    ]

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='LoginAttempts',
            fields=[
                ('bucket', models.CharField(help_text='A hash of who tried, and from where.', max_length=64, primary_key=True, serialize=False)),
                ('count', models.PositiveIntegerField()),
                ('until', models.DateTimeField(db_index=True, help_text='When counting begins again.')),
            ],
        ),
        migrations.CreateModel(
            name='AccountSession',
            fields=[
                ('session_key', models.CharField(max_length=40, primary_key=True, serialize=False, verbose_name='session key')),
                ('session_data', models.TextField(verbose_name='session data')),
                ('expire_date', models.DateTimeField(db_index=True, verbose_name='expire date')),
                ('account', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'session',
                'verbose_name_plural': 'sessions',
                'db_table': 'tunixrt_session',
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='ApiToken',
            fields=[
                ('digest', models.CharField(max_length=128, primary_key=True, serialize=False)),
                ('token_key', models.CharField(db_index=True, max_length=25)),
                ('created', models.DateTimeField(auto_now_add=True)),
                ('expiry', models.DateTimeField(blank=True, null=True)),
                ('name', models.CharField(blank=True, help_text='What it is for.', max_length=100)),
                ('read_only', models.BooleanField(default=False, help_text='Programs can read with it and change nothing.')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='auth_token_set', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'API token',
                'verbose_name_plural': 'API tokens',
            },
        ),
        migrations.RunPython(create_triggers, drop_triggers),
        migrations.RunPython(make_groups, remove_groups),
    ]
