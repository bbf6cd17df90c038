"""List the global torch and NumPy state that plugins must not change.

The core calls these functions with the imported library (``tunesmith.global_state``), so this
module imports neither of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.global_state import GlobalState

_CUDNN_FLAGS = ("enabled", "benchmark", "deterministic", "allow_tf32")
_AUTOCAST_DEVICES = ("cpu", "cuda")


def list_torch_states(torch: Any) -> Sequence[GlobalState]:
    """List the global state that affects torch's results; ``torch`` is the module."""
    own = _TorchState(torch)
    return [
        GlobalState("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        GlobalState("torch's default device", torch.get_default_device, own.restore_device),
        GlobalState("torch's gradient mode", torch.is_grad_enabled, own.restore_gradient_mode),
        GlobalState("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        GlobalState(
            "torch's precision of matrix products",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        GlobalState(
            "torch's deterministic algorithms", own.read_deterministic, own.restore_deterministic
        ),
        GlobalState("torch's settings of cuDNN", own.read_cudnn, own.restore_cudnn),
        GlobalState("torch's autocast", own.read_autocast, own.restore_autocast),
        GlobalState(
            "torch's random generators",
            own.read_generators,
            own.restore_generators,
            is_reported=False,
        ),
    ]


@dataclass(frozen=True)
class _TorchState:
    """Reads and restores state for which torch has no getter and setter."""

    torch: Any

    def restore_device(self, device: Any) -> None:
        # None also means the CPU, without installing a mode that slows down every call.
        self.torch.set_default_device(None if device.type == "cpu" else device)

    def restore_gradient_mode(self, enabled: bool) -> None:
        self.torch.set_grad_enabled(enabled)

    def read_deterministic(self) -> tuple[bool, bool]:
        torch = self.torch
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    def restore_deterministic(self, state: tuple[bool, bool]) -> None:
        self.torch.use_deterministic_algorithms(state[0], warn_only=state[1])

    def read_cudnn(self) -> list[bool]:
        return [getattr(self.torch.backends.cudnn, flag) for flag in _CUDNN_FLAGS]

    def restore_cudnn(self, values: list[bool]) -> None:
        for flag, value in zip(_CUDNN_FLAGS, values, strict=True):
            setattr(self.torch.backends.cudnn, flag, value)

    def read_autocast(self) -> list[tuple[bool, Any]]:
        torch = self.torch
        return [
            (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            for device in _AUTOCAST_DEVICES
        ]

    def restore_autocast(self, states: list[tuple[bool, Any]]) -> None:
        for device, (enabled, dtype) in zip(_AUTOCAST_DEVICES, states, strict=True):
            self.torch.set_autocast_enabled(device, enabled)
            self.torch.set_autocast_dtype(device, dtype)

    def read_generators(self) -> list[bytes]:
        """Return the states of the CPU's generator and of the generators of GPUs in use."""
        torch = self.torch
        states = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            states += torch.cuda.get_rng_state_all()
        return [state.numpy().tobytes() for state in states]

    def restore_generators(self, states: list[bytes]) -> None:
        torch = self.torch
        cpu, *gpus = (torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in states)
        torch.set_rng_state(cpu)
        if gpus:  # otherwise CUDA was not in use; training seeds its generators anyway
            torch.cuda.set_rng_state_all(gpus)


def list_numpy_states(numpy: Any) -> Sequence[GlobalState]:
    """List the global state that affects NumPy's results; ``numpy`` is the module."""

    def read_generator() -> tuple[Any, ...]:
        name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
        return name, numpy.asarray(keys).tobytes(), position, has_gauss, gauss

    def restore_generator(state: tuple[Any, ...]) -> None:
        name, keys, *rest = state
        numpy.random.set_state((name, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))

    return [
        GlobalState(
            "NumPy's handling of errors", numpy.geterr, lambda state: numpy.seterr(**state)
        ),
        GlobalState(
            "NumPy's random generator", read_generator, restore_generator, is_reported=False
        ),
    ]
