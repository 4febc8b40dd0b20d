"""Settings: what the documents say of them is what the code reads; a wrong value is refused by its
variable's name."""

import ast
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tunixrt.tests.plugin import ROOT

DOCUMENT = (ROOT / "docs" / "settings.md").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
# An environment with nothing set but what Python, and its coverage, need.
BARE = {
    name: value
    for name, value in os.environ.items()
    if name == "PATH" or name.startswith("COVERAGE_")
}
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def code_defaults() -> dict[str, set[str | None]]:
    """Variable → its defaults as the documents write them; None where it is made at run time."""
    found: dict[str, set[str | None]] = {}
    for call in ast.walk(ast.parse((ROOT / "tunixrt" / "settings.py").read_text())):
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name("env"), attr=kind),
                args=[ast.Constant(str(name)), *rest],
            ) if kind != "read_env":
                found.setdefault(name, set()).add(written(rest[0]) if rest else None)
    return found


def written(default: ast.expr) -> str | None:
    try:
        value = eval(compile(ast.Expression(default), "default", "eval"), {"__builtins__": {}})
    except NameError:  # depends on the machine or on another setting
        return None
    if value in (None, "", []):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def compose_variables() -> set[str]:
    return set(re.findall(r"\$\{(\w+)", COMPOSE))


def documented() -> dict[str, str]:
    """Variable → what the column `default` says."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", DOCUMENT, re.MULTILINE))


def exemplified() -> dict[str, str]:
    return dict(re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))


def test_settings_are_found_in_the_code():
    defaults = code_defaults()

    assert defaults["TUNIXRT_WEB_THREADS"] == {"4"}
    assert defaults["TUNIX_HOST_NAME"] == {None}
    assert len(defaults) > 30


def test_every_variable_is_documented_and_every_documented_one_exists():
    assert set(documented()) == set(code_defaults()) | compose_variables()


def test_the_example_file_has_every_variable():
    # the file cannot name itself
    assert set(exemplified()) == set(code_defaults()) - {"TUNIXRT_ENV_FILE"} | compose_variables()


@pytest.mark.parametrize("name", sorted(code_defaults()))
def test_a_fixed_default_is_the_documented_one(name: str):
    for default in code_defaults()[name] - {None}:
        assert documented()[name] == f"`{default}`"
        assert exemplified()[name] == default


def test_only_the_settings_read_our_variables():
    for path in (
        path for app in ("tunixrt", "datasets", "runs") for path in (ROOT / app).rglob("*.py")
    ):
        if (
            "tests" in path.parts
            or path.name in ("settings.py", "healthcheck.py")
            or "trainer" in path.parts
        ):
            continue
        assert not re.search(
            r"(environ(\.get)?|getenv)[\[(]\s*['\"](TUNIX|SECRET|DATABASE|DEBUG)", path.read_text()
        ), path


def load(
    variables: dict[str, str], tmp_path: Path, show: str = "'loaded'"
) -> subprocess.CompletedProcess[str]:
    """Load the settings in a program of their own, with nothing else set, and print one of them."""
    return subprocess.run(
        [sys.executable, "-c", f"from tunixrt import settings; print({show})"],
        cwd=ROOT,
        env=BARE
        | {"TUNIXRT_ENV_FILE": "/dev/null", "TUNIXRT_VAR_DIR": str(tmp_path / "var")}
        | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_file_is_readable_with_every_line_in_force(tmp_path: Path):
    lines = [
        f"{name}={value}"
        for name, value in exemplified().items()
        if value and name != "TUNIXRT_VAR_DIR"
    ]
    (tmp_path / "all.env").write_text("\n".join(lines))

    loaded = load(
        {"TUNIXRT_ENV_FILE": str(tmp_path / "all.env")},
        tmp_path,
        "settings.TUNIX_HOST_NAME, settings.DATABASES",
    )

    assert loaded.returncode == 0, loaded.stderr
    assert "trainer-1" in loaded.stdout
    assert "postgresql" in loaded.stdout


def test_the_environment_goes_before_the_file(tmp_path: Path):
    (tmp_path / "an.env").write_text("TUNIX_SLOTS=2\nTUNIXRT_WEB_THREADS=9\n")

    loaded = load(
        {"TUNIXRT_ENV_FILE": str(tmp_path / "an.env"), "TUNIX_SLOTS": "3"},
        tmp_path,
        "settings.TUNIX_SLOTS, settings.TUNIXRT_WEB_THREADS",
    )

    assert loaded.stdout == "3 9\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEBUG", "perhaps"),
        ("TUNIXRT_WEB_THREADS", "many"),
        ("TUNIX_SYNC_TIMEOUT_SECONDS", "soon"),
        ("DATABASE_URL", "no address"),
        ("TUNIX_SLOTS", "1.5"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(tmp_path: Path, name: str, value: str):
    loaded = load({name: value}, tmp_path)

    assert loaded.returncode != 0
    assert name in loaded.stderr.splitlines()[-1]


def test_without_local_mode_the_secret_key_is_required(tmp_path: Path):
    loaded = load({"TUNIXRT_LOCAL_MODE": "false"}, tmp_path)

    assert loaded.returncode != 0
    assert "SECRET_KEY must be set" in loaded.stderr


def test_local_mode_makes_a_secret_key_and_keeps_it_to_itself(tmp_path: Path):
    first, second = (load({}, tmp_path, "settings.SECRET_KEY").stdout for _ in range(2))

    assert first == second
    assert len(first.strip()) >= 50
    assert stat.S_IMODE((tmp_path / "var" / "secret_key").stat().st_mode) == 0o600


def test_without_local_mode_everything_travels_over_tls(tmp_path: Path):
    shown = (
        "settings.SESSION_COOKIE_SECURE, settings.SECURE_SSL_REDIRECT,"
        " settings.SECURE_HSTS_SECONDS, settings.ALLOWED_HOSTS"
    )

    server = load(
        {"TUNIXRT_LOCAL_MODE": "false", "SECRET_KEY": "k" * 50, "TUNIXRT_BEHIND_PROXY": "true"},
        tmp_path,
        shown,
    )
    local = load({}, tmp_path, shown)

    assert server.stdout == "True True 3600 []\n"
    assert local.stdout == "False False 0 ['localhost', '127.0.0.1', '[::1]']\n"


def test_a_server_without_a_proxy_redirects_to_no_https(tmp_path: Path):
    """Nothing would answer there."""
    shown = (
        "settings.TUNIXRT_TLS, settings.SECURE_SSL_REDIRECT, settings.SESSION_COOKIE_SECURE,"
        " settings.SECURE_HSTS_SECONDS"
    )

    server = load({"TUNIXRT_LOCAL_MODE": "false", "SECRET_KEY": "k" * 50}, tmp_path, shown)

    assert server.stdout == "False False False 0\n"


def test_browsers_are_told_nothing_about_other_servers_of_the_domain(tmp_path: Path):
    shown = (
        "hasattr(settings, 'SECURE_HSTS_PRELOAD'), hasattr(settings,"
        " 'SECURE_HSTS_INCLUDE_SUBDOMAINS')"
    )

    assert (
        load(
            {"TUNIXRT_BEHIND_PROXY": "true", "TUNIXRT_HSTS_SECONDS": "31536000"}, tmp_path, shown
        ).stdout
        == "False False\n"
    )


def test_an_address_of_a_database_with_a_raw_password_is_refused_without_showing_it(tmp_path: Path):
    loaded = load(
        {"DATABASE_URL": "postgresql://tunixrt:s3cr/et#1@database:5432/tunixrt"}, tmp_path
    )

    assert loaded.returncode != 0
    assert "percent-encoded" in loaded.stderr
    assert "s3cr" not in loaded.stderr


def test_every_system_check_is_documented():
    in_code = {
        found
        for app in ("tunixrt", "datasets", "runs")
        for path in (ROOT / app).rglob("*.py")
        if "tests" not in path.parts
        for found in re.findall(r'"(tunixrt\.[EW]\d{3})"', path.read_text())
    }

    assert set(re.findall(r"^\| `(tunixrt\.[EW]\d{3})` \|", DOCUMENT, re.MULTILINE)) == in_code
