from django.db import migrations, models
from django.db.models import F, Q


class Migration(migrations.Migration):
    dependencies = [("datasets", "0007_tombstones")]

    operations = [
        migrations.AddField(
            model_name="trace",
            name="archived_at",
            field=models.DateTimeField(
                editable=False, help_text="Hidden from lists since then.", null=True
            ),
        ),
        migrations.AddIndex(
            model_name="trace",
            index=models.Index(
                F("created_at").desc(),
                F("id").desc(),
                condition=Q(archived_at__isnull=False),
                name="ix_traces_archived",
            ),
        ),
    ]
