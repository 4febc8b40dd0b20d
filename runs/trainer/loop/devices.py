"""The devices of a training: processes, mesh, number type, memory, compilation cache."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runs.trainer.errors import ManifestProblem, RuntimeMissing

# whole weights · weights spread · tensor parallel, which google-tunix's models name, always 1
AXES = (
    "data",
    "fsdp",
    "tp",
)
BATCH_AXES = ("data", "fsdp")  # rows are spread over both


def start_devices() -> None:
    """Join the other processes, if the environment names a coordinator, and set the compilation
    cache.

    ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` are those of
    ``jax.distributed``; on clusters that JAX knows (Slurm, MPI, Cloud TPU) the first suffices.
    ``JAX_COMPILATION_CACHE_DIR`` is read by JAX itself; small programs are cached too, since a
    training has many.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    try:
        if os.environ.get("JAX_COORDINATOR_ADDRESS"):
            count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
            jax.distributed.initialize(
                num_processes=int(count) if count else None,
                process_id=int(index) if index else None,
            )
        jax.devices()
    except (RuntimeError, ValueError) as error:
        raise RuntimeMissing(f"JAX cannot use its devices: {error}") from error


def make_mesh(*, data_parallel: int | None, fsdp_parallel: int | None) -> jax.sharding.Mesh:
    """Return the mesh ``data × fsdp × tp`` over all devices. ``jax.make_mesh`` would make explicit
    axes, on which google-tunix fails.

    Raises:
        ManifestProblem: the product is not the number of devices.
    """
    devices = np.array(jax.devices())
    data = data_parallel or (
        len(devices) // fsdp_parallel if fsdp_parallel and len(devices) % fsdp_parallel == 0 else 1
    )
    fsdp = fsdp_parallel or len(devices) // data
    if data * fsdp != len(devices):
        raise ManifestProblem(
            f"data_parallel {data} × fsdp_parallel {fsdp} is not the number of devices,"
            f" {len(devices)}; leave one of them null, or set both so that their product is the"
            " number of devices"
        )
    return jax.sharding.Mesh(devices.reshape(data, fsdp, 1), AXES)


def choose_dtype(name: str) -> Any:
    """Return the dtype; ``auto`` is bfloat16 on TPUs and on GPUs that compute in it (capability 8.0
    and up), else float32."""
    if name != "auto":
        return jnp.dtype(name)
    device = jax.devices()[0]
    capable = device.platform == "tpu" or (
        device.platform == "gpu" and float(getattr(device, "compute_capability", "0") or 0) >= 8.0
    )
    return jnp.dtype("bfloat16" if capable else "float32")


def memory_in_use() -> int:
    """Return the bytes used now: of the first accelerator, or, on a CPU, resident memory of this
    process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return int(stats["bytes_in_use"])
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def release_freed_memory() -> None:
    """Return freed memory to the system. The C library (glibc; others have no such call)
    keeps it, in pieces too small for the next step's arrays: on CPUs the process grew by a third
    within its first fifty steps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and jax.default_backend() == "cpu":
        trim(0)


def memory_there() -> int:
    """Return the bytes that a training may use: memory of one accelerator, or what this machine (or
    its container) has free."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return machine_memory()


def machine_memory() -> int:
    """Return the available bytes of this machine, or of its container where that has less (control
    groups 2 and 1)."""
    available = 0
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            with open(limit, encoding="ascii") as top, open(usage, encoding="ascii") as now:
                available = min(available, int(top.read()) - int(now.read()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return available
