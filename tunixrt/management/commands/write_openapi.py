"""``manage.py write_openapi``: write the description of the API to docs/openapi.yaml."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from tunixrt.api.schema import as_yaml


class Command(BaseCommand):
    help = "Write the OpenAPI document of the API to a file."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "path", nargs="?", type=Path, default=settings.BASE_DIR / "docs" / "openapi.yaml"
        )

    def handle(self, *args: Any, path: Path, **options: Any) -> None:
        path.write_bytes(as_yaml())
        self.stdout.write(f"Wrote {path}")
