from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "runs"

    def ready(self) -> None:
        from django.core.signals import request_finished  # noqa: PLC0415 - models exist only now

        from datasets.files.folders import root_checks  # noqa: PLC0415
        from datasets.imports.importing import submitted  # noqa: PLC0415
        from runs.queries.prometheus import RunCollector  # noqa: PLC0415
        from runs.services.output_root import root_problem  # noqa: PLC0415
        from runs.services.telemetry import flush_after_request  # noqa: PLC0415
        from runs.services.wakeup import wake_for_import  # noqa: PLC0415
        from tunixrt.metrics import stored  # noqa: PLC0415

        request_finished.connect(flush_after_request, dispatch_uid="runs.services.telemetry")
        stored.register(RunCollector())
        root_checks.append(root_problem)
        submitted.connect(wake_for_import, dispatch_uid="runs.services.wakeup")
