from django.apps import AppConfig


class TunixrtConfig(AppConfig):
    name = "tunixrt"

    def ready(self) -> None:
        from tunixrt import accounts, checks, logins  # noqa: F401, PLC0415 - register checks and receivers once apps are loaded
