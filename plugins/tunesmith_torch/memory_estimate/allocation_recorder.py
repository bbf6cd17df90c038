"""Record the memory allocations of a program while it runs, on real or fake tensors.

A dispatch mode sees every operation below autograd. A new storage is an allocation, and its garbage
collection is the free; views share their base's storage and cost nothing.

Each event belongs to a layer. Normally that is the layer being computed. In *flat* phases, such as
the optimizer step, which visits parameter after parameter, it is the parameter's layer.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tunesmith_torch.memory_estimate.timeline import AllocationEvent, StepPosition, Timeline

Workspace = Callable[[Sequence[Any]], int]
"""A function that returns an operation's workspace in bytes, given its arguments."""


class AllocationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that records a timeline of allocations.

    ``workspaces`` gives the workspaces of kernels by operation, which no dispatch mode can see.
    Sizes are rounded up to multiples of ``rounding`` bytes, as allocators do.
    """

    def __init__(self, workspaces: Mapping[str, Workspace], rounding: int = 512) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.timeline = Timeline()
        self.labels: dict[int, str] = {}
        self.layer = -1
        self._phase = "before"
        self._flat = True
        self._workspaces = workspaces
        self._rounding = rounding
        self._blocks: dict[int, int] = {}
        self._block_layers: dict[int, int] = {}
        self._count = 0
        self._finalizers: list[Any] = []

    @contextmanager
    def phase(self, name: str, *, flat: bool = False) -> Iterator[None]:
        """Assign the events inside the block to a phase.

        In a ``flat`` phase, the result of an operation belongs to the layer of its first argument.
        """
        outer = self._phase, self._flat
        self._phase, self._flat, self.layer = name, flat, -1
        try:
            yield
        finally:
            self._phase, self._flat = outer
            self.layer = -1

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the events inside the block.

        Automatic garbage collection is off: running at random moments, it would move the frees of
        reference cycles.
        """
        was_enabled = gc.isenabled()
        gc.disable()
        # Freezing lets collections inside the block skip all earlier objects. If the process has
        # frozen objects itself, nothing is frozen here: gc.unfreeze() would release those too.
        is_frozen = gc.get_freeze_count() > 0
        if not is_frozen:
            gc.freeze()
        try:
            with self:
                yield
        finally:
            for finalizer in self._finalizers:
                finalizer.detach()
            if not is_frozen:
                gc.unfreeze()
            if was_enabled:
                gc.enable()

    def record_existing(
        self, tensor: Tensor, label: str, layer: int = -1, size: int | None = None
    ) -> None:
        """Record an existing tensor as a block of the given layer.

        ``size``: its size in bytes, if that is not the size of the tensor's storage.
        """
        self._record_storage(tensor, label, layer, size)

    def label_blocks(self, tensors: Iterable[Tensor | None], label: str) -> None:
        """Give the blocks of recorded tensors a label, such as ``weights``."""
        for tensor in tensors:
            if tensor is not None:
                block = self._blocks.get(_storage_key(tensor))
                if block is not None:
                    self.labels[block] = label

    def layer_of(self, tensor: Tensor) -> int:
        """Return the number of the layer that a tensor belongs to, or -1."""
        block = self._blocks.get(_storage_key(tensor))
        return -1 if block is None else self._block_layers[block]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            # These are two thirds of all calls. They allocate nothing, so answer them as FakeTensor
            # would.
            in_kernel = args[0].fake_mode.in_kernel_invocation
            return torch.device("meta") if in_kernel else args[0].fake_device
        workspace = self._workspaces.get(func._schema.name if hasattr(func, "_schema") else "")
        workspace_bytes = workspace(args) if workspace is not None else 0
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self._record_storage(out, "", self._layer_for(args, 0))
        elif isinstance(out, (list, tuple)):
            for i, part in enumerate(out):
                for tensor in tree_iter(part):
                    if isinstance(tensor, Tensor):
                        self._record_storage(tensor, "", self._layer_for(args, i))
        if workspace_bytes:
            self._record_workspace(workspace_bytes)
        return out

    def _layer_for(self, args: Sequence[Any], index: int) -> int:
        """Return the layer of an operation's result; in flat phases, its first argument's layer."""
        if not self._flat:
            return self.layer
        first = args[0] if args else None
        if isinstance(first, (list, tuple)) and first:  # a foreach operation
            first = first[min(index, len(first) - 1)]
        return self.layer_of(first) if isinstance(first, Tensor) else -1

    def _record_storage(
        self, tensor: Tensor, label: str, layer: int, size: int | None = None
    ) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._blocks:
            return
        size = storage.nbytes() if size is None else size
        if size == 0:
            return
        block = self._count
        self._count += 1
        self._blocks[key] = block
        self._block_layers[block] = layer
        rounded = -(-size // self._rounding) * self._rounding
        self.timeline.add(self._position(block), AllocationEvent(block, rounded, label))
        self._finalizers.append(weakref.finalize(storage, self._record_free, key))
        self._finalizers[-1].atexit = False

    def _record_free(self, key: int) -> None:
        # Another storage may get this address later, so forget it together with the block.
        block = self._blocks.pop(key)
        self.timeline.add(self._position(block), AllocationEvent(block, -1))

    def _record_workspace(self, size: int) -> None:
        block = self._count
        self._count += 1
        self._block_layers[block] = self.layer
        position = self._position(block)
        self.timeline.add(position, AllocationEvent(block, size, "temporaries"))
        self.timeline.add(position, AllocationEvent(block, -1))

    def _position(self, block: int) -> StepPosition:
        return StepPosition(self._phase, self._block_layers[block] if self._flat else self.layer)


def _storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def track_layers(layers: Sequence[nn.Module], recorder: AllocationRecorder) -> list[Any]:
    """Set the recorder's layer during the forward pass, recomputation, and the backward pass.

    The backward pass enters a layer when the gradient of the layer's output is known.

    Returns:
        The handles for removing the hooks.
    """
    handles = []

    def enter(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            recorder.layer = number

        return hook

    def leave(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            # A recomputed forward runs inside the backward pass, which already has its hooks.
            if number == len(layers) - 1 and not _in_backward():
                recorder.layer = -1
            if hidden.requires_grad and not _in_backward():
                hidden.register_hook(_layer_setter(recorder, number))

        return hook

    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(enter(number)))
        handles.append(layer.register_forward_hook(leave(number)))
    return handles


def _layer_setter(recorder: AllocationRecorder, number: int) -> Callable[[Tensor], None]:
    def set_layer(gradient: Tensor) -> None:
        recorder.layer = number

    return set_layer


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)
