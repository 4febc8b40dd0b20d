"""What a training measured."""

from django.db import models

from runs.models.run import Run


class MetricSeries(models.Model):
    """All points of one metric of one run, summed up; the points are in chunks."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metric_series")
    name = models.CharField(max_length=128)
    count = models.PositiveIntegerField(default=0)
    first = models.FloatField(null=True, help_text="Null: not a finite number.")
    last = models.FloatField(null=True)
    minimum = models.FloatField(null=True, help_text="Of the finite values.")
    maximum = models.FloatField(null=True)
    last_step = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "metric series"
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="uq_metric_series")]

    def __str__(self) -> str:
        return self.name


class MetricChunk(models.Model):
    """Up to ``CHUNK_POINTS`` points: little-endian int64 steps, float64 times, float64 values (NaN
    allowed)."""

    series = models.ForeignKey(MetricSeries, on_delete=models.CASCADE, related_name="chunks")
    number = models.PositiveIntegerField()
    count = models.PositiveIntegerField()
    first_step = models.BigIntegerField()
    last_step = models.BigIntegerField()
    minimum = models.FloatField(null=True, help_text="Of the finite values.")
    maximum = models.FloatField(null=True)
    minimum_step = models.BigIntegerField(null=True)
    maximum_step = models.BigIntegerField(null=True)
    not_finite = models.PositiveIntegerField(default=0)
    steps = models.BinaryField()
    times = models.BinaryField()
    values = models.BinaryField()

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["series", "number"], name="uq_metric_chunk")]

    def __str__(self) -> str:
        return f"{self.series_id}[{self.number}]"
