"""Combinations of settings that cannot work, said at start (docs/settings.md lists the ids)."""

import importlib.util
import shlex
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

SETTINGS = "tunixrt"  # the tag of all checks that need nothing but the settings


def bind_host() -> str:
    return settings.TUNIXRT_BIND.rpartition(":")[0].strip("[]") or settings.TUNIXRT_BIND


def _is_loopback_name(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@register(SETTINGS, Tags.security)
def check_local_mode(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.TUNIXRT_LOCAL_MODE and not _is_loopback_name(bind_host()):
        return [
            Error(
                "Local mode needs no login, so it may listen on loopback only, not on"
                f" {settings.TUNIXRT_BIND}.",
                hint=(
                    "Set TUNIXRT_LOCAL_MODE=false (with SECRET_KEY and ALLOWED_HOSTS), or"
                    " TUNIXRT_BIND=127.0.0.1:8000."
                ),
                id="tunixrt.E001",
            )
        ]
    return []


@register(SETTINGS, Tags.security)
def check_local_names(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    foreign = [host for host in settings.ALLOWED_HOSTS if not _is_loopback_name(host.strip("[]"))]
    if settings.TUNIXRT_LOCAL_MODE and foreign:
        return [
            Error(
                f"ALLOWED_HOSTS names {', '.join(foreign)} in local mode: a page of another site"
                " could act as the user `local` by giving its own name the address of this machine"
                " (DNS rebinding).",
                hint="Leave ALLOWED_HOSTS out, or set TUNIXRT_LOCAL_MODE=false.",
                id="tunixrt.E009",
            )
        ]
    return []


@register(SETTINGS, Tags.security)
def check_private_folders(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warn of folders with the database, the secret key or the runs' data that other accounts of
    the machine can read."""
    folders = {settings.TUNIXRT_VAR_DIR, settings.TUNIX_OUTPUT_ROOT}
    return [
        Warning(
            f"Other accounts of this machine can read {folder}.",
            hint=f"chmod go-rwx {shlex.quote(str(folder))}",
            id="tunixrt.W010",
        )
        for folder in sorted(folders)
        if folder.is_dir() and folder.stat().st_mode & 0o077
    ]


@register(SETTINGS, Tags.security)
def check_scorer_folders(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Find folders of scorers that others than operators can fill: what lies there is executed."""
    problems: list[CheckMessage] = []
    output = settings.TUNIX_OUTPUT_ROOT
    for folder in settings.TUNIX_SCORER_ROOTS:
        if folder.is_relative_to(output) or output.is_relative_to(folder):
            problems.append(
                Error(
                    f"TUNIX_SCORER_ROOTS names {folder}, and runs write to {output}: what they"
                    " write would be executed.",
                    hint="Keep scorers in a folder apart.",
                    id="tunixrt.E013",
                )
            )
        if folder.is_dir() and folder.stat().st_mode & 0o022:
            problems.append(
                Warning(
                    f"Other accounts of this machine can write to {folder}, whose files the"
                    " training program executes.",
                    hint=f"chmod go-w {shlex.quote(str(folder))}",
                    id="tunixrt.W011",
                )
            )
    return problems


@register(Tags.security)
def check_tls(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.TUNIXRT_TLS and not settings.TUNIXRT_BEHIND_PROXY:
        return [
            Error(
                "TUNIXRT_TLS redirects every request to HTTPS, which only a proxy before this"
                " server can speak.",
                hint=(
                    "Set TUNIXRT_BEHIND_PROXY=true if there is one that sets X-Forwarded-Proto,"
                    " else leave TUNIXRT_TLS out."
                ),
                id="tunixrt.E011",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def check_local_mode_deployed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.TUNIXRT_LOCAL_MODE:
        return [
            Warning(
                "Local mode is on: a client that reaches this server needs no login.",
                id="tunixrt.W002",
            )
        ]
    return []


@register(SETTINGS)
def check_datasets_module(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check that `datasets`, which is also Hugging Face's name, is ours in the web process."""
    spec = importlib.util.find_spec("datasets")
    ours = settings.BASE_DIR / "datasets"
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ours.resolve():
        return [
            Error(
                f"The module `datasets` is not the project's own: {spec.origin if spec else None}",
                id="tunixrt.E003",
            )
        ]
    return []


@register(SETTINGS)
def check_web_threads(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    needed = settings.TUNIX_SLOTS + 2
    if settings.TUNIXRT_WEB_WORKERS < 1:
        return [Error("TUNIXRT_WEB_WORKERS must be at least 1.", id="tunixrt.E012")]
    if needed > settings.TUNIXRT_WEB_THREADS:
        return [
            Error(
                f"{settings.TUNIXRT_WEB_THREADS} web threads of a worker are too few for"
                f" {settings.TUNIX_SLOTS} slots: runs in the request could hold them all.",
                hint=f"Set TUNIXRT_WEB_THREADS to at least {needed} (slots + 2).",
                id="tunixrt.E004",
            )
        ]
    return []


@register(SETTINGS)
def check_supervision_limits(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    for name in (
        "TUNIX_SYNC_TIMEOUT_SECONDS",
        "TUNIX_RUN_TIMEOUT_SECONDS",
        "TUNIX_DRY_RUN_TIMEOUT_SECONDS",
        "TUNIX_STOP_WAIT_SECONDS",
        "TUNIX_TERM_GRACE_SECONDS",
    ):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            problems.append(
                Error(f"{name} must be greater than 0, not {value}.", id="tunixrt.E005")
            )
    if settings.TUNIX_SLOTS < 0:
        problems.append(Error("TUNIX_SLOTS must not be negative.", id="tunixrt.E006"))
    if settings.TUNIX_OWNER_DISK_QUOTA_GB < 0:
        problems.append(
            Error(
                "TUNIX_OWNER_DISK_QUOTA_GB must not be negative; 0 is no limit.", id="tunixrt.E030"
            )
        )
    if settings.TUNIX_OUTPUT_MAX_BYTES < 256 or settings.TUNIX_OUTPUT_MAX_BYTES > 10_240:
        problems.append(
            Error("TUNIX_OUTPUT_MAX_BYTES must lie between 256 and 10240.", id="tunixrt.E007")
        )
    kept = {
        "TUNIX_RETENTION_DAYS": (settings.TUNIX_RETENTION_DAYS, 36_500),
        "TUNIX_RETENTION_RUNS": (settings.TUNIX_RETENTION_RUNS, 10**9),
        "TUNIX_TRASH_HOURS": (settings.TUNIX_TRASH_HOURS, 876_000),
    }
    for name, (value, most) in kept.items():
        if value is not None and not 0 <= value <= most:
            problems.append(Error(f"{name} must lie between 0 and {most:,}.", id="tunixrt.E031"))
    if settings.TUNIX_HOST_LOST_SECONDS <= settings.TUNIX_HOST_SILENT_SECONDS:
        problems.append(
            Error(
                "TUNIX_HOST_LOST_SECONDS must be greater than TUNIX_HOST_SILENT_SECONDS.",
                id="tunixrt.E008",
            )
        )
    return problems


@register(Tags.security)
def check_metrics_addresses(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    for text in settings.TUNIXRT_METRICS_ALLOW:
        try:
            ip_network(text)
        except ValueError as error:
            problems.append(
                Error(
                    f"TUNIXRT_METRICS_ALLOW: {error}.",
                    hint="Give addresses or networks: 192.0.2.7,198.51.100.0/24.",
                    id="tunixrt.E020",
                )
            )
    return problems


@register(SETTINGS, Tags.security)
def check_limits_of_accounts(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    limits = {
        "TUNIXRT_LOGIN_ATTEMPTS": settings.TUNIXRT_LOGIN_ATTEMPTS,
        "TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS": settings.TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS,
        "TUNIXRT_STREAMS_PER_ACCOUNT": settings.TUNIXRT_STREAMS_PER_ACCOUNT,
        "TUNIX_QUEUED_PER_ACCOUNT": settings.TUNIX_QUEUED_PER_ACCOUNT,
    }
    problems: list[CheckMessage] = [
        Error(f"{name} must be at least 1.", id="tunixrt.E021")
        for name, value in limits.items()
        if value < 1
    ]
    if settings.TUNIXRT_SEARCH_SECONDS <= 0:
        problems.append(Error("TUNIXRT_SEARCH_SECONDS must be greater than 0.", id="tunixrt.E021"))
    return problems
