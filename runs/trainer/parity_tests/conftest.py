"""Parity with ``transformers`` on PyTorch. Needs torch, which the runtime itself does not."""

import sys
from pathlib import Path

# Appended, never put first: `datasets` must mean Hugging Face's library here.
sys.path.append(str(Path(__file__).resolve().parents[3]))

import jax
import pytest
import torch

# The reference is float32 without shortcuts, on both sides.
jax.config.update("jax_default_matmul_precision", "highest")
torch.set_grad_enabled(False)
torch.set_num_threads(2)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the tiny checkpoints of a session."""
    return tmp_path_factory.mktemp("checkpoints")
