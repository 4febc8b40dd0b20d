"""Settings, read once from the environment. docs/settings.md lists every variable; with none set
the system runs on SQLite and loopback. environs names the variable it cannot read.
"""

import contextlib
import os
import shlex
import socket
import sys
import tempfile
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key
from environs import Env, EnvValidationError

from tunixrt.judges import read_judges

BASE_DIR = Path(__file__).resolve().parent.parent

env = Env()
env.read_env(env.str("TUNIXRT_ENV_FILE", str(BASE_DIR / ".env")), recurse=False)


def _kept_secret_key(path: Path) -> str:
    """Return the secret key of local mode without SECRET_KEY: make one and keep it for the next
    start, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # made with mode 0600
            file.write(get_random_secret_key())
            file.flush()
            with contextlib.suppress(FileExistsError):  # another process was first: its key counts
                os.link(file.name, path)
    return path.read_text()


# --- The system as a whole ------------------------------------------------------------------------

TUNIXRT_VAR_DIR = Path(env.str("TUNIXRT_VAR_DIR", str(BASE_DIR / "var"))).resolve()
DEBUG = env.bool("DEBUG", False)
# Local mode: one person on this machine. Requests from loopback need no login and act as the user
# `local`.
TUNIXRT_LOCAL_MODE = env.bool("TUNIXRT_LOCAL_MODE", True)
TUNIXRT_BIND = env.str("TUNIXRT_BIND", "127.0.0.1:8000")
TUNIXRT_WEB_WORKERS = env.int("TUNIXRT_WEB_WORKERS", 1)
# What several workers have in common: the files with which they count (tunixrt/shares.py), the
# cache, the metrics. `manage.py web` empties it.
TUNIXRT_WEB_SHARED = (
    TUNIXRT_VAR_DIR / "web" / (TUNIXRT_BIND.rpartition(":")[2] or "0")
    if TUNIXRT_WEB_WORKERS > 1
    else None
)
TUNIXRT_WEB_THREADS = env.int("TUNIXRT_WEB_THREADS", 4)  # of each worker
# Live streams at once; each costs a sleeping thread. Beyond that pages read piece by piece.
TUNIXRT_MAX_STREAMS = env.int("TUNIXRT_MAX_STREAMS", 200)
# What one account may have of it. In local mode all are the same account.
TUNIXRT_STREAMS_PER_ACCOUNT = env.int(
    "TUNIXRT_STREAMS_PER_ACCOUNT",
    TUNIXRT_MAX_STREAMS if TUNIXRT_LOCAL_MODE else max(1, TUNIXRT_MAX_STREAMS // 5),
)
# Searches that may read every row: so many at once, one of each account, each for at most so long.
TUNIXRT_SEARCHES = max(1, TUNIXRT_WEB_THREADS - 2)
TUNIXRT_SEARCH_SECONDS = env.float("TUNIXRT_SEARCH_SECONDS", 10.0)

SECRET_KEY = env.str("SECRET_KEY", "")
TUNIXRT_SECRET_KEY_FILE = None  # where the key is kept if the environment has none
if not SECRET_KEY:
    if not TUNIXRT_LOCAL_MODE:
        raise ImproperlyConfigured("SECRET_KEY must be set when TUNIXRT_LOCAL_MODE is false.")
    TUNIXRT_SECRET_KEY_FILE = TUNIXRT_VAR_DIR / "secret_key"
    SECRET_KEY = _kept_secret_key(TUNIXRT_SECRET_KEY_FILE)

ALLOWED_HOSTS = env.list(
    "ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"] if TUNIXRT_LOCAL_MODE else []
)
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])

INSTALLED_APPS = [
    "tunixrt",  # first: its createsuperuser takes the place of Django's
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_prometheus",
    "django_q",
    "rest_framework",
    "knox",
    "datasets",
    "runs",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "tunixrt.head.HeadMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "tunixrt.pages_only.WhiteNoiseMiddleware",
    "tunixrt.errors.RefusalMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tunixrt.local_mode.LocalModeMiddleware",
    "tunixrt.whose.WhoseMiddleware",
    "tunixrt.pages_only.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tunixrt.pages_only.HtmxMiddleware",
    "tunixrt.security.ContentSecurityPolicyMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "tunixrt.urls"
WSGI_APPLICATION = "tunixrt.wsgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Database -------------------------------------------------------------------------------------

if env.str("DATABASE_URL", ""):
    try:
        DATABASES = {"default": env.dj_db_url("DATABASE_URL")}
    except EnvValidationError:
        # environs' own sentence does not say what to do; the value holds a password and is not
        # shown.
        raise ImproperlyConfigured(
            "DATABASE_URL is not the address of a database. It reads"
            " postgresql://user:password@host:5432/name, with special characters of the password"
            " percent-encoded, or postgresql:///name, and PGHOST, PGUSER, PGPASSWORD … say the"
            " rest."
        ) from None
else:
    TUNIXRT_VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(TUNIXRT_VAR_DIR / "tunixrt.sqlite3"),
        }
    }
_database = DATABASES["default"]
# Opening a connection costs more than most queries: each thread keeps its own.
_database["CONN_MAX_AGE"] = 600
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database["OPTIONS"] = {
        "timeout": 20,  # seconds a writer waits for the other one
        # take the write lock first: no deadlock on the way from reading to writing
        "transaction_mode": "IMMEDIATE",
        # secure_delete: what is erased later must not be left on a page that was freed before, as
        # by a merge of the index of words; many builds of SQLite do it by default
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-64000; PRAGMA"
            " mmap_size=268435456; PRAGMA secure_delete=ON;"
        ),
    }
else:
    _database["CONN_HEALTH_CHECKS"] = True  # a pool cannot be used: django-q2 forks
    _database.setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Queue ----------------------------------------------------------------------------------------

# Tasks are short (they start and attend, they never train), and one that is lost or delivered twice
# does no harm: the attendant looks for pending runs as well, and a run is claimed once. The
# attendant is woken when one waits, so the task workers need not look often.
Q_CLUSTER = {
    "name": "tunixrt",
    "label": "Background tasks",
    "orm": "default",
    "workers": env.int("TUNIXRT_TASK_WORKERS", 2),
    "poll": env.float("TUNIXRT_QUEUE_POLL_SECONDS", 2.0),
    "bulk": 1,
    "queue_limit": 2,
    "timeout": 60,
    "retry": 120,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "catch_up": False,
    "recycle": 10_000,
}

# --- API ------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tunixrt.api.authentication.TokenAuthentication",
        "tunixrt.api.authentication.LocalAuthentication",
        "tunixrt.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["tunixrt.api.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "tunixrt.api.renderers.JSONRenderer",
        "tunixrt.api.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "tunixrt.api.negotiation.ShortNegotiation",
    "EXCEPTION_HANDLER": "tunixrt.api.errors.exception_handler",
    "DEFAULT_THROTTLE_CLASSES": (
        ["tunixrt.api.throttling.AccountRateThrottle"] if env.str("TUNIXRT_API_RATE", "") else []
    ),
    "DEFAULT_THROTTLE_RATES": {"user": env.str("TUNIXRT_API_RATE", "") or None},
    "NUM_PROXIES": 0,
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
KNOX_TOKEN_MODEL = "tunixrt.ApiToken"
REST_KNOX = {"TOKEN_TTL": None, "AUTH_HEADER_PREFIX": "Token"}

# Nothing is cached but the requests that TUNIXRT_API_RATE counts: a small file for each account.
if TUNIXRT_WEB_SHARED:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(TUNIXRT_WEB_SHARED / "cache"),
            "OPTIONS": {"MAX_ENTRIES": 10_000},
        }
    }

# Largest bodies in bytes: JSON requests, and uploads of datasets.
TUNIXRT_API_MAX_BODY_BYTES = env.int("TUNIXRT_API_MAX_BODY_BYTES", 5 * 1024 * 1024)
TUNIXRT_UPLOAD_MAX_BYTES = env.int("TUNIXRT_UPLOAD_MAX_BYTES", 2 * 1024**3)
TUNIXRT_UNPACKED_MAX_BYTES = env.int("TUNIXRT_UNPACKED_MAX_BYTES", 16 * 1024**3)
TUNIXRT_IMPORTS_AT_ONCE = env.int("TUNIXRT_IMPORTS_AT_ONCE", 2)
DATA_UPLOAD_MAX_MEMORY_SIZE = TUNIXRT_API_MAX_BODY_BYTES

# --- People and browsers --------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "tunixrt.logins.LimitBackend",  # first: it refuses before a password is looked at
    "django.contrib.auth.backends.ModelBackend",
    "tunixrt.roles.RoleBackend",
]
# Failed logins within fifteen minutes: of one account from one address, and from one address.
TUNIXRT_LOGIN_ATTEMPTS = env.int("TUNIXRT_LOGIN_ATTEMPTS", 10)
TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS = env.int("TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS", 100)
# Addresses and networks that read /metrics without a token.
TUNIXRT_METRICS_ALLOW: list[str] = env.list("TUNIXRT_METRICS_ALLOW", [])

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
    {"NAME": "tunixrt.passwords.DifferentCharactersValidator"},
    {"NAME": "tunixrt.passwords.RevokeTokens"},
]
SESSION_ENGINE = "tunixrt.sessions"
CSRF_FAILURE_VIEW = "tunixrt.errors.csrf_failure"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "runs:history"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = TUNIXRT_VAR_DIR / "static"
# WhiteNoise warns at every start about one that is missing
STATIC_ROOT.mkdir(parents=True, exist_ok=True)
WHITENOISE_USE_FINDERS = True  # no collectstatic step between a clone and the first page
WHITENOISE_AUTOREFRESH = DEBUG

X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# The server itself speaks HTTP; a proxy that ends TLS says so in X-Forwarded-Proto. Only then there
# is an HTTPS to redirect to.
TUNIXRT_BEHIND_PROXY = env.bool("TUNIXRT_BEHIND_PROXY", False)
if TUNIXRT_BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
TUNIXRT_TLS = env.bool("TUNIXRT_TLS", TUNIXRT_BEHIND_PROXY)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = TUNIXRT_TLS
# An hour, for this name alone: browsers hold to it, also when the operator has taken HTTPS away.
# Subdomains and preload lists concern servers that are not ours to decide about; the proxy can
# promise more.
SECURE_HSTS_SECONDS = env.int("TUNIXRT_HSTS_SECONDS", 3600 if TUNIXRT_TLS else 0)
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^metrics$"]

# --- Runs -----------------------------------------------------------------------------------------

# Everything a run writes lives below this folder.
TUNIX_OUTPUT_ROOT = Path(env.str("TUNIX_OUTPUT_ROOT", str(TUNIXRT_VAR_DIR / "output"))).resolve()
# Folders that may hold local models.
TUNIX_MODEL_ROOTS = [
    Path(path).resolve() for path in env.list("TUNIX_MODEL_ROOTS", [str(BASE_DIR / "models")])
]
# Folders whose files every account that may make datasets may import.
_data_roots: list[str] = env.list("TUNIX_DATA_ROOTS", [])
TUNIX_DATA_ROOTS = [Path(path).resolve() for path in _data_roots]
# Folders of operators whose functions may score outputs, in the training program's scoring process.
_scorer_roots: list[str] = env.list("TUNIX_SCORER_ROOTS", [])
TUNIX_SCORER_ROOTS = [Path(path).resolve() for path in _scorer_roots]
# Models behind an OpenAI-compatible address that judge outputs. Their keys stay in this process.
try:
    TUNIX_JUDGES = read_judges(env.json("TUNIX_JUDGES", {}), os.environ)
except (ValueError, EnvValidationError) as error:
    # the value may hold keys and is not shown
    what = "is not JSON" if isinstance(error, EnvValidationError) else str(error)
    raise ImproperlyConfigured(f"TUNIX_JUDGES: {what}.") from None
# The interpreter that has the training runtime, and the command it runs; empty: the project's own
# trainer.
TUNIX_PYTHON = env.str("TUNIX_PYTHON", sys.executable)
TUNIX_COMMAND = shlex.split(env.str("TUNIX_COMMAND", ""))
# Runs that one account may have waiting in the queue.
TUNIX_QUEUED_PER_ACCOUNT = env.int("TUNIX_QUEUED_PER_ACCOUNT", 1000)
TUNIX_SYNC_TIMEOUT_SECONDS = env.float("TUNIX_SYNC_TIMEOUT_SECONDS", 30.0)
TUNIX_RUN_TIMEOUT_SECONDS = env.float("TUNIX_RUN_TIMEOUT_SECONDS", None)
# Of a queued dry run with depth, which has a slot: the chat template of a model can loop.
TUNIX_DRY_RUN_TIMEOUT_SECONDS = env.float("TUNIX_DRY_RUN_TIMEOUT_SECONDS", 3600.0)
TUNIX_OUTPUT_MAX_BYTES = env.int("TUNIX_OUTPUT_MAX_BYTES", 10_240)
# Trainings at once on this host.
TUNIX_SLOTS = env.int("TUNIX_SLOTS", 1)
TUNIX_STOP_WAIT_SECONDS = env.float("TUNIX_STOP_WAIT_SECONDS", 30.0)
TUNIX_TERM_GRACE_SECONDS = env.float("TUNIX_TERM_GRACE_SECONDS", 10.0)
# Whether the trainings of this host stop, and save, when its attendant does; None: where they may
# be killed with it.
TUNIX_STOP_WITH_ATTENDANT = env.bool("TUNIX_STOP_WITH_ATTENDANT", None)
TUNIX_HOST_NAME = env.str("TUNIX_HOST_NAME", socket.gethostname())
TUNIX_HOST_SILENT_SECONDS = env.float("TUNIX_HOST_SILENT_SECONDS", 60.0)
TUNIX_HOST_LOST_SECONDS = env.float("TUNIX_HOST_LOST_SECONDS", 900.0)
# Where the end of every run is told, beside the place its request names; and what the messages are
# signed with.
TUNIX_WEBHOOK_URL = env.str("TUNIX_WEBHOOK_URL", "")
TUNIX_WEBHOOK_SECRET = env.str("TUNIX_WEBHOOK_SECRET", "")
TUNIX_WEBHOOK_ALLOW_PRIVATE = env.bool("TUNIX_WEBHOOK_ALLOW_PRIVATE", False)
# Retention is off unless switched on; with no number it keeps 30 days.
TUNIX_RETENTION = env.bool("TUNIX_RETENTION", False)
TUNIX_RETENTION_DAYS = env.float("TUNIX_RETENTION_DAYS", None)
TUNIX_RETENTION_RUNS = env.int("TUNIX_RETENTION_RUNS", None)
if TUNIX_RETENTION and TUNIX_RETENTION_DAYS is None and TUNIX_RETENTION_RUNS is None:
    TUNIX_RETENTION_DAYS = 30.0
TUNIX_TRASH_HOURS = env.float("TUNIX_TRASH_HOURS", 24.0)
# What the runs of one owner may take on disk, in GB; 0: no limit.
TUNIX_OWNER_DISK_QUOTA_GB = env.float("TUNIX_OWNER_DISK_QUOTA_GB", 0.0)
# Database writes on the request path slower than this are logged.
TUNIX_SLOW_WRITE_MS = env.float("TUNIX_SLOW_WRITE_MS", 250.0)

# --- Log ------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    # A refusal (4xx) is a line in the log. A fault of the server (5xx) keeps its traceback.
    "filters": {"refusals": {"()": "tunixrt.logs.RefusalsWithoutTraceback"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "plain", "filters": ["refusals"]}
    },
    "root": {"handlers": ["console"], "level": env.str("TUNIXRT_LOG_LEVEL", "INFO")},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "django-q": {"level": "WARNING"},  # it has a line for every task
    },
}
