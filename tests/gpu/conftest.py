"""The device that these tests compute on: a simulated GPU everywhere, a real one where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from simulated_cuda import Gpu, RecordCuda, simulated_cuda

from tunesmith_torch.testing.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, whose heads are as wide as kernels of a GPU need them."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def real_gpu() -> torch.device:
    """A GPU that torch can use; without one the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA GPU on this machine")
    return torch.device("cuda", 0)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    """The device ``cuda`` inside the test, and what the program asks of it."""
    if request.param == "simulated":
        with simulated_cuda() as device:
            yield device
    else:
        request.getfixturevalue("real_gpu")
        with RecordCuda() as recorder:
            yield recorder.gpu
