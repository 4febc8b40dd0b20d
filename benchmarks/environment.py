"""The environment of the programs that a benchmark starts."""

import os

OURS = (
    "TUNIX_",
    "TUNIXRT_",
    "DATABASE_URL",
    "SECRET_KEY",
    "DEBUG",
    "ALLOWED_HOSTS",
    "DJANGO_",
    "COVERAGE_",
    "MAKE",
    "MFLAGS",
)


def without_our_settings() -> dict[str, str]:
    """Return the environment of this process without settings of tunixrt, coverage and make."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
