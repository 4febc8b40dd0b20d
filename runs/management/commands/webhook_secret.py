from typing import Any

from django.core.management.base import BaseCommand

from runs.services.webhook_delivery import webhook_secret


class Command(BaseCommand):
    help = "Show the secret that webhooks are signed with."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(webhook_secret().decode())
