from django.apps import AppConfig


class TunixrtConfig(AppConfig):
    name = "tunixrt"

    def ready(self) -> None:
        from tunixrt import checks  # noqa: F401, PLC0415 - registers the system checks once apps are loaded
