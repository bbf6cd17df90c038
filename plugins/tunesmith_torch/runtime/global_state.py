"""The global state of torch and NumPy that an evaluator or a reporter must not change."""

from __future__ import annotations

from typing import Any

import numpy
import torch

from tunesmith.global_state import GlobalState, add_global_state


def preserve_torch_state() -> None:
    """Make the core restore torch's and NumPy's state after calls of evaluators and reporters.

    Called when a model is opened, not on import: importing the toolkit changes nothing.
    """
    for state in (
        GlobalState("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        GlobalState("torch's gradient mode", torch.is_grad_enabled, _set_gradient_mode),
        GlobalState("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        GlobalState(
            "torch's deterministic algorithms",
            _deterministic_algorithms,
            _use_deterministic_algorithms,
        ),
        GlobalState(
            "torch's random generator", _torch_generator, _restore_torch, is_reported=False
        ),
        GlobalState(
            "NumPy's random generator", _numpy_generator, _restore_numpy, is_reported=False
        ),
    ):
        add_global_state(state)


def _deterministic_algorithms() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _use_deterministic_algorithms(state: tuple[bool, bool]) -> None:
    enabled, warn_only = state
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _set_gradient_mode(enabled: bool) -> None:
    torch.set_grad_enabled(enabled)


def _torch_generator() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _restore_torch(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _numpy_generator() -> tuple[Any, ...]:
    name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
    return name, numpy.asarray(keys).tobytes(), position, has_gauss, gauss


def _restore_numpy(state: tuple[Any, ...]) -> None:
    name, keys, *rest = state
    numpy.random.set_state((name, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))
