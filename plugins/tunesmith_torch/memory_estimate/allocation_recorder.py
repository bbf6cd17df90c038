"""Notes what a program allocates while it runs, on tensors with or without numbers.

A dispatch mode sees every operation below autograd. A new storage is an allocation, its collection
the end of it; views share their base's storage and cost nothing. In *flat* phases (the optimizer,
which goes from parameter to parameter) an event belongs to the layer of the parameter that it is
about; in all others to the layer that is being computed.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tunesmith_torch.memory_estimate.timeline import Event, Place, Timeline

Workspace = Callable[[Sequence[Any]], int]
"""Bytes that an operation's kernel takes for itself while it runs, from its arguments."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records a timeline of allocations."""

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
        self._owners: dict[int, int] = {}
        self._count = 0
        self._finalizers: list[Any] = []

    @contextmanager
    def phase(self, name: str, *, flat: bool = False) -> Iterator[None]:
        """What is recorded inside happens in this phase."""
        before = self._phase, self._flat
        self._phase, self._flat, self.layer = name, flat, -1
        try:
            yield
        finally:
            self._phase, self._flat = before
            self.layer = -1

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what happens inside. Garbage is collected when nobody looks, not in between."""
        was = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            with self:
                yield
        finally:
            for finalizer in self._finalizers:
                finalizer.detach()
            if was:
                gc.enable()

    def own(self, tensor: Tensor, label: str, layer: int = -1, size: int | None = None) -> None:
        """Note a tensor that is there already, and which layer it belongs to."""
        self._note(tensor, label, layer, size)

    def name(self, tensors: Iterable[Tensor | None], label: str) -> None:
        """Say what blocks that were seen before are for."""
        for tensor in tensors:
            if tensor is not None:
                block = self._blocks.get(_key(tensor))
                if block is not None:
                    self.labels[block] = label

    def layer_of(self, tensor: Tensor) -> int:
        """The layer that a tensor belongs to."""
        block = self._blocks.get(_key(tensor))
        return -1 if block is None else self._owners[block]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        needed = self._workspaces.get(func._schema.name if hasattr(func, "_schema") else "")
        extra = needed(args) if needed is not None else 0
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self._note(out, "", self._owner(args, 0))
        elif isinstance(out, (list, tuple)):
            for i, part in enumerate(out):
                for tensor in tree_iter(part):
                    if isinstance(tensor, Tensor):
                        self._note(tensor, "", self._owner(args, i))
        if extra:
            self._transient(extra)
        return out

    def _owner(self, args: Sequence[Any], index: int) -> int:
        if not self._flat:
            return self.layer
        first = args[0] if args else None
        if isinstance(first, (list, tuple)) and first:
            first = first[min(index, len(first) - 1)]
        return self.layer_of(first) if isinstance(first, Tensor) else -1

    def _note(self, tensor: Tensor, label: str, layer: int, size: int | None = None) -> None:
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
        self._owners[block] = layer
        rounded = -(-size // self._rounding) * self._rounding
        self.timeline.add(self._place(block), Event(block, rounded, label))
        self._finalizers.append(weakref.finalize(storage, self._gone, key))
        self._finalizers[-1].atexit = False

    def _gone(self, key: int) -> None:
        block = self._blocks.pop(key)
        self.timeline.add(self._place(block), Event(block, -1))

    def _transient(self, size: int) -> None:
        block = self._count
        self._count += 1
        self._owners[block] = self.layer
        place = self._place(block)
        self.timeline.add(place, Event(block, size, "temporaries"))
        self.timeline.add(place, Event(block, -1))

    def _place(self, block: int) -> Place:
        return Place(self._phase, self._owners[block] if self._flat else self.layer)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def watch_layers(layers: Sequence[nn.Module], recorder: Recorder) -> list[Any]:
    """Tell the recorder which layer is being computed, forward, again, and backward.

    Backward reaches a layer when the gradient by its output is known. Returns handles to remove.
    """
    handles = []

    def enter(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            recorder.layer = number

        return hook

    def leave(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            if number == len(layers) - 1 and not _in_backward():
                recorder.layer = -1
            if hidden.requires_grad and not _in_backward():
                hidden.register_hook(_mover(recorder, number))

        return hook

    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(enter(number)))
        handles.append(layer.register_forward_hook(leave(number)))
    return handles


def _mover(recorder: Recorder, number: int) -> Callable[[Tensor], None]:
    def move(gradient: Tensor) -> None:
        recorder.layer = number

    return move


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)
