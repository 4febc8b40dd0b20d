"""The training program's environment: an allow-list, so that no secret of the server reaches it."""

import os

from django.conf import settings

from runs.models import Run

_NAMES = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE",
        "TZ", "TERM", "LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        "ALL_PROXY", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
        "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM",
        "GLIBC_TUNABLES", "MALLOC_ARENA_MAX",
    }
)  # fmt: skip
_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "ROCM_",
    "TPU_",
    "LIBTPU_",
    "JAX_",
    "XLA_",
    "TF_CPP_",
    "HF_",
    "HUGGINGFACE_",
)


def trainer_environment(run: Run) -> dict[str, str]:
    """Return the environment of a trainer: PATH, HOME, accelerators, JAX, Hugging Face, proxies and
    certificates; the run's id; caches that outlive the run."""
    allowed = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _NAMES or name.startswith(_PREFIXES)
    }
    caches = settings.TUNIXRT_VAR_DIR / "cache"
    allowed.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "jax"))
    allowed["TUNIXRT_CACHE_DIR"] = str(caches / "tokens")
    allowed["TUNIXRT_RUN_ID"] = str(run.run_id)
    return allowed
