"""The tables of runs as they were when fourteen migrations had been made, in one.

A database in which all of the fourteen are applied counts as having this one (``replaces``). What
they filled in of old rows (names, tags by age, folder reservations) has been filled in there.
"""

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
import runs.spec.naming
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ("runs", "0001_initial"),
        ("runs", "0002_automatic_retries"),
        ("runs", "0003_failed_and_saved_views"),
        ("runs", "0004_metric_series_plural"),
        ("runs", "0005_webhook_state"),
        ("runs", "0006_retries_by_a_partial_index"),
        ("runs", "0007_tags_by_age"),
        ("runs", "0008_by_host"),
        ("runs", "0009_folder_reservations"),
        ("runs", "0010_resume_from"),
        ("runs", "0011_extend_from_step"),
        ("runs", "0012_run_names"),
        ("runs", "0013_disk_use"),
        ("runs", "0014_waiting_by_owner"),
    ]

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
        ('django_q', '0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='DiskQuota',
            fields=[
                ('account', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='disk_quota', serialize=False, to=settings.AUTH_USER_MODEL)),
                ('gigabytes', models.FloatField(help_text="GB that the account's runs may take; 0: no limit.", validators=[django.core.validators.MinValueValidator(0)])),
            ],
        ),
        migrations.CreateModel(
            name='Host',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=255, unique=True)),
                ('boot_id', models.CharField(blank=True, max_length=64)),
                ('slots', models.PositiveIntegerField(default=1, help_text='Trainings at once.')),
                ('runtime_version', models.CharField(blank=True, help_text='google-tunix on this host; empty: none.', max_length=64)),
                ('heartbeat_at', models.DateTimeField(null=True)),
                ('started_at', models.DateTimeField(help_text='When the attendant started.', null=True)),
                ('canary_at', models.DateTimeField(help_text='When the task queue of this host last did a task.', null=True)),
                ('silent_since', models.DateTimeField(help_text='Another host saw no heartbeat since; its own beat clears it.', null=True)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='OutputRoot',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('single', models.BooleanField(default=True, editable=False, unique=True)),
            ],
        ),
        migrations.CreateModel(
            name='Tally',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('family', models.CharField(max_length=64)),
                ('label', models.CharField(max_length=128)),
                ('shard', models.PositiveSmallIntegerField(default=0)),
                ('count', models.BigIntegerField(default=0)),
                ('total', models.FloatField(default=0)),
            ],
            options={
                'verbose_name_plural': 'tallies',
                'constraints': [models.UniqueConstraint(fields=('family', 'label', 'shard'), name='uq_tally')],
            },
        ),
        migrations.CreateModel(
            name='Run',
            fields=[
                ('run_id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(default=runs.spec.naming.make_name, help_text='What people call it; not unique.', max_length=128)),
                ('dataset_key', models.CharField(max_length=256)),
                ('model_id', models.CharField(max_length=256)),
                ('mode', models.CharField(choices=[('dry-run', 'Dry Run'), ('local', 'Local')], max_length=64)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('running', 'Running'), ('cancelling', 'Cancelling'), ('completed', 'Completed'), ('failed', 'Failed'), ('timeout', 'Timeout'), ('cancelled', 'Cancelled')], default='pending', max_length=64)),
                ('exit_code', models.IntegerField(null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('queued_at', models.DateTimeField(help_text='When it was put into the queue; null for a run in the request.', null=True)),
                ('started_at', models.DateTimeField(null=True)),
                ('completed_at', models.DateTimeField(null=True)),
                ('duration_seconds', models.FloatField(null=True)),
                ('stdout', models.TextField(blank=True, help_text="The end of the output; the whole is in the run's folder.")),
                ('stderr', models.TextField(blank=True)),
                ('message', models.TextField(blank=True)),
                ('config', models.JSONField(default=dict, help_text='The whole request.')),
                ('output_dir', models.TextField(blank=True, help_text='Relative to the output root.')),
                ('notes', models.TextField(blank=True)),
                ('pinned', models.BooleanField(default=False, help_text='Never removed by retention.')),
                ('trashed_at', models.DateTimeField(null=True)),
                ('supervised', models.BooleanField(default=True, help_text='Runs as a process with a keeper: a training, or a dry run with depth.')),
                ('priority', models.SmallIntegerField(default=0, help_text='Higher starts earlier.')),
                ('process', models.JSONField(help_text='Keeper and trainer as recorded in keeper.json.', null=True)),
                ('attempt', models.PositiveIntegerField(default=1, help_text='Place in a chain of retries.')),
                ('automatic_retries', models.PositiveIntegerField(default=0, help_text='Automatic ones in its chain so far.')),
                ('resume', models.BooleanField(default=False, help_text='Resume from the last checkpoint of resume_from.')),
                ('extend_from_step', models.PositiveIntegerField(help_text='The step of the checkpoint that it extends; null: it is no extension.', null=True)),
                ('timeout_seconds', models.FloatField(help_text='Limit from the start of the training; null: none.', null=True)),
                ('cancel_requested_at', models.DateTimeField(null=True)),
                ('client_request_id', models.CharField(max_length=255, null=True)),
                ('request_hash', models.CharField(blank=True, max_length=64)),
                ('metrics_offset', models.BigIntegerField(default=0, help_text='Bytes of metrics.jsonl that are in the database.')),
                ('step', models.PositiveIntegerField(null=True)),
                ('total_steps', models.PositiveIntegerField(null=True)),
                ('last_loss', models.FloatField(null=True)),
                ('summary', models.JSONField(default=dict, help_text='result.json of the training program.')),
                ('disk_bytes', models.BigIntegerField(help_text='What its folder takes, measured when it ended, less what was removed since; null: not measured.', null=True)),
                ('host', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='runs', to='runs.host')),
                ('owner', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='runs', to=settings.AUTH_USER_MODEL)),
                ('resume_from', models.ForeignKey(db_index=False, help_text='Whose last checkpoint it resumes from: retry_of, or the nearest run before it that has one.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='heirs', to='runs.run')),
                ('retry_of', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='retries', to='runs.run')),
            ],
            options={
                'db_table': 'tunix_runs',
            },
        ),
        migrations.CreateModel(
            name='MetricSeries',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=128)),
                ('count', models.PositiveIntegerField(default=0)),
                ('first', models.FloatField(help_text='Null: not a finite number.', null=True)),
                ('last', models.FloatField(null=True)),
                ('minimum', models.FloatField(help_text='Of the finite values.', null=True)),
                ('maximum', models.FloatField(null=True)),
                ('last_step', models.BigIntegerField(default=0)),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='metric_series', to='runs.run')),
            ],
            options={
                'verbose_name_plural': 'metric series',
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='FolderReservation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(help_text='Hash of the path; the same for names that a file system may confuse.', max_length=64)),
                ('own', models.BooleanField()),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='reservations', to='runs.run')),
            ],
        ),
        migrations.CreateModel(
            name='RunEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('old', models.CharField(blank=True, max_length=64)),
                ('new', models.CharField(blank=True, max_length=64)),
                ('reason', models.TextField(blank=True)),
                ('by', models.CharField(help_text='A user name, or the part of the system that did it.', max_length=255)),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='events', to='runs.run')),
            ],
            options={
                'ordering': ['at', 'id'],
            },
        ),
        migrations.CreateModel(
            name='RunNameKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.BinaryField()),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='name_keys', to='runs.run')),
            ],
        ),
        migrations.CreateModel(
            name='RunTag',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('run_created_at', models.DateTimeField(help_text="The run's, which never changes: the history by tag is an index here.")),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tags', to='runs.run')),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='SavedView',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('query', models.TextField(help_text='Query string of the history, without the question mark.')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='saved_views', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='WebhookDelivery',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('url', models.URLField(max_length=2000)),
                ('payload', models.JSONField()),
                ('state', models.CharField(choices=[('waiting', 'Waiting'), ('delivered', 'Delivered'), ('given up', 'Given Up')], default='waiting', max_length=16)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('next_attempt_at', models.DateTimeField(null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='webhook_deliveries', to='runs.run')),
            ],
            options={
                'verbose_name_plural': 'webhook deliveries',
                'ordering': ['-created_at', '-id'],
            },
        ),
        migrations.CreateModel(
            name='WebhookAttempt',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('status_code', models.PositiveIntegerField(null=True)),
                ('error', models.TextField(blank=True)),
                ('seconds', models.FloatField()),
                ('delivery', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='log', to='runs.webhookdelivery')),
            ],
            options={
                'ordering': ['at', 'id'],
            },
        ),
        migrations.CreateModel(
            name='MetricChunk',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField()),
                ('count', models.PositiveIntegerField()),
                ('first_step', models.BigIntegerField()),
                ('last_step', models.BigIntegerField()),
                ('minimum', models.FloatField(help_text='Of the finite values.', null=True)),
                ('maximum', models.FloatField(null=True)),
                ('minimum_step', models.BigIntegerField(null=True)),
                ('maximum_step', models.BigIntegerField(null=True)),
                ('not_finite', models.PositiveIntegerField(default=0)),
                ('steps', models.BinaryField()),
                ('times', models.BinaryField()),
                ('values', models.BinaryField()),
                ('series', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='chunks', to='runs.metricseries')),
            ],
            options={
                'ordering': ['number'],
                'constraints': [models.UniqueConstraint(fields=('series', 'number'), name='uq_metric_chunk')],
            },
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['dataset_key'], name='ix_tunix_runs_dataset_key'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['started_at'], name='ix_tunix_runs_started_at'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('status'), models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_status_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('mode'), models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_mode_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('dataset_key'), models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_dataset_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('model_id'), models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_model_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('owner'), models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_owner_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('host'), models.OrderBy(models.F('created_at'), descending=True), models.OrderBy(models.F('run_id'), descending=True), name='ix_tunix_runs_host_newest'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('status'), models.F('supervised'), models.OrderBy(models.F('priority'), descending=True), models.F('created_at'), models.F('run_id'), name='ix_tunix_runs_claim'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('trashed_at__isnull', False)), fields=['trashed_at'], name='ix_tunix_runs_trash'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('host'), condition=models.Q(('status__in', ['running', 'cancelling'])), name='ix_tunix_runs_executing'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('retry_of'), condition=models.Q(('retry_of__isnull', False)), name='ix_tunix_runs_retries'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('resume_from'), condition=models.Q(('resume_from__isnull', False)), name='ix_tunix_runs_heirs'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('owner'), condition=models.Q(('status', 'pending')), name='ix_tunix_runs_waiting'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(models.F('status'), models.OrderBy(models.F('completed_at'), descending=True), condition=models.Q(('status__in', ['failed', 'timeout'])), name='ix_tunix_runs_failed'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('disk_bytes__isnull', False), ('trashed_at__isnull', True)), fields=['owner', 'disk_bytes', 'trashed_at'], name='ix_tunix_runs_disk'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('completed_at__isnull', False), ('disk_bytes__isnull', True)), fields=['completed_at'], name='ix_tunix_runs_unmeasured'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'running', 'cancelling', 'completed', 'failed', 'timeout', 'cancelled'])), name='ck_run_status'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('mode__in', ['dry-run', 'local'])), name='ck_run_mode'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('completed_at__isnull', False), ('status__in', ('completed', 'failed', 'timeout', 'cancelled'))), models.Q(('completed_at__isnull', True), ('status__in', ('pending', 'running', 'cancelling'))), _connector='OR'), name='ck_run_completed_at'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status__in', ('running', 'cancelling')), _negated=True), ('started_at__isnull', False), _connector='OR'), name='ck_run_started_at'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status', 'completed'), _negated=True), models.Q(('exit_code', 0), ('exit_code__isnull', False)), _connector='OR'), name='ck_run_completed_exit_code'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('status', 'completed'), ('exit_code__isnull', True), models.Q(('exit_code', 0), _negated=True), _connector='OR'), name='ck_run_exit_code_zero'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.UniqueConstraint(fields=('owner', 'client_request_id'), name='uq_run_client_request_id'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.UniqueConstraint(condition=models.Q(('mode', 'local'), models.Q(('output_dir', ''), _negated=True)), fields=('output_dir',), name='uq_run_output_dir'),
        ),
        migrations.AddConstraint(
            model_name='metricseries',
            constraint=models.UniqueConstraint(fields=('run', 'name'), name='uq_metric_series'),
        ),
        migrations.AddIndex(
            model_name='folderreservation',
            index=models.Index(fields=['key'], name='ix_folder_reservation_key'),
        ),
        migrations.AddIndex(
            model_name='runnamekey',
            index=models.Index(models.F('key'), models.F('run'), name='ix_run_name_key'),
        ),
        migrations.AddIndex(
            model_name='runtag',
            index=models.Index(models.F('name'), models.OrderBy(models.F('run_created_at'), descending=True), models.OrderBy(models.F('run'), descending=True), name='ix_run_tag_newest'),
        ),
        migrations.AddConstraint(
            model_name='runtag',
            constraint=models.UniqueConstraint(fields=('run', 'name'), name='uq_run_tag'),
        ),
        migrations.AddConstraint(
            model_name='savedview',
            constraint=models.UniqueConstraint(fields=('owner', 'name'), name='uq_saved_view'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(condition=models.Q(('state', 'waiting')), fields=['next_attempt_at'], name='ix_webhook_due'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(models.F('state'), models.OrderBy(models.F('id'), descending=True), name='ix_webhook_state'),
        ),
        # django-q2 keeps failed tasks for ever and has no index to read the latest ones by
        migrations.RunSQL(
            'CREATE INDEX "ix_django_q_task_stopped" ON "django_q_task" ("stopped" DESC)',
            'DROP INDEX "ix_django_q_task_stopped"',
        ),
    ]
