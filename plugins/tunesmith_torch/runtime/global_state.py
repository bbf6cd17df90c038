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
    add_global_state(
        GlobalState("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        GlobalState("torch's default device", torch.get_default_device, _set_default_device),
        GlobalState("torch's gradient mode", torch.is_grad_enabled, _set_gradient_mode),
        GlobalState("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        GlobalState(
            "torch's precision of matrix products",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        GlobalState(
            "torch's deterministic algorithms",
            _deterministic_algorithms,
            _use_deterministic_algorithms,
        ),
        GlobalState(
            "torch's random generators", _torch_generators, _restore_torch, is_reported=False
        ),
        GlobalState(
            "NumPy's random generator", _numpy_generator, _restore_numpy, is_reported=False
        ),
    )


def _deterministic_algorithms() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _use_deterministic_algorithms(state: tuple[bool, bool]) -> None:
    enabled, warn_only = state
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _set_default_device(device: torch.device) -> None:
    # None is the CPU too, without a mode that every call would go through.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_gradient_mode(enabled: bool) -> None:
    torch.set_grad_enabled(enabled)


def _torch_generators() -> list[bytes]:
    """Return the states of the generators: that of the CPU, and those of GPUs in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return [state.numpy().tobytes() for state in states]


def _restore_torch(states: list[bytes]) -> None:
    cpu, *gpus = (torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in states)
    torch.set_rng_state(cpu)
    if gpus:  # none: CUDA was not in use, and its generators are seeded before training
        torch.cuda.set_rng_state_all(gpus)


def _numpy_generator() -> tuple[Any, ...]:
    name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
    return name, numpy.asarray(keys).tobytes(), position, has_gauss, gauss


def _restore_numpy(state: tuple[Any, ...]) -> None:
    name, keys, *rest = state
    numpy.random.set_state((name, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))
