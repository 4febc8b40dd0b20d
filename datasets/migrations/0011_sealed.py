import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import F, Q


class Migration(migrations.Migration):
    dependencies = [
        ("datasets", "0010_overlap_positions"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="dataset",
            name="sealed_at",
            field=models.DateTimeField(
                editable=False,
                help_text="Only operators read its examples since then.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="trace",
            name="sealed_at",
            field=models.DateTimeField(
                editable=False,
                help_text="In a sealed dataset since then: only operators read it.",
                null=True,
            ),
        ),
        migrations.RemoveIndex(model_name="trace", name="ix_traces_newest"),
        migrations.AddIndex(
            model_name="trace",
            index=models.Index(
                F("created_at").desc(), F("id").desc(), F("sealed_at"), name="ix_traces_listed"
            ),
        ),
        migrations.AddIndex(
            model_name="trace",
            index=models.Index(
                condition=Q(sealed_at__isnull=False),
                fields=["content_hash"],
                name="ix_traces_sealed",
            ),
        ),
        migrations.CreateModel(
            name="SealedLook",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField()),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "dataset",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="datasets.dataset",
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="sealedlook",
            constraint=models.UniqueConstraint(
                fields=("dataset", "account"), name="uq_sealed_look"
            ),
        ),
    ]
