"""Timelines of allocations and frees, which can be extended to a model with more layers.

The layers of a language model are alike, so a trace of five layers is enough for eighty. Every
event has a position: the *phase* of the step and the layer (-1 outside the layers). Consecutive
events at one position form a *run*. To stretch a timeline to L layers, the middle layer's runs are
repeated, in ascending order in a forward phase and in descending order in a backward phase::

    phase       0.forward                              0.backward
    traced     |-1|0|1|    2     | 3 | 4 |-1|         | 4 | 3 |    2     |1|0|-1|
    stretched  |-1|0|1|2|3|..|L-3|L-2|L-1|-1|         |L-1|L-2|L-3|..|3|2|1|0|-1|

If a run frees a block of the same layer, or of a neighboring layer, its copy frees the copy of that
block at the same distance in layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

TRACED_LAYERS = 5
"""Number of layers to trace: the first, the last, the middle layer, and its two neighbors.

The middle layer may only be repeated if it and its neighbors allocate the same.
"""
_MIDDLE_LAYER = 2


class AllocationEvent(NamedTuple):
    """The allocation of a block, or its free if ``size`` is -1."""

    block: int
    size: int
    """Size in bytes, or -1 for a free."""
    label: str = ""
    """The component that the block belongs to; empty if not known yet."""


class StepPosition(NamedTuple):
    """The position of an event: the phase of the step, and the layer (-1 outside the layers)."""

    phase: str
    layer: int = -1


@dataclass
class EventRun:
    """Consecutive events at one position."""

    position: StepPosition
    events: list[AllocationEvent] = field(default_factory=list)


class NonUniformLayersError(Exception):
    """Raised if the middle layers allocate differently, so all layers must be traced."""


@dataclass
class Timeline:
    """A sequence of runs of events, in order of time."""

    runs: list[EventRun] = field(default_factory=list)

    def add(self, position: StepPosition, event: AllocationEvent) -> None:
        """Append an event at a position."""
        if not self.runs or self.runs[-1].position != position:
            self.runs.append(EventRun(position))
        self.runs[-1].events.append(event)

    def __iter__(self) -> Iterator[tuple[StepPosition, AllocationEvent]]:
        return ((run.position, event) for run in self.runs for event in run.events)

    def allocation_curve(self) -> Iterator[tuple[StepPosition, int]]:
        """Yield the position of each event and the bytes allocated after it."""
        sizes: dict[int, int] = {}
        allocated = 0
        for position, event in self:
            if event.size >= 0:
                sizes[event.block] = event.size
                allocated += event.size
            else:
                allocated -= sizes.pop(event.block)
            yield position, allocated

    def peak_bytes(self) -> int:
        """Return the highest number of bytes that are allocated at the same time."""
        return max((allocated for _, allocated in self.allocation_curve()), default=0)

    def peak_by_label(self) -> dict[str, int]:
        """Return the bytes allocated at the peak, by label."""
        live: dict[int, tuple[int, str]] = {}
        allocated = peak = 0
        live_at_peak: dict[int, tuple[int, str]] = {}
        # Copying the live blocks at every new maximum would be slow, so copy at the next free.
        peak_is_live = False
        for _, event in self:
            if event.size >= 0:
                live[event.block] = event.size, event.label
                allocated += event.size
                peak_is_live = peak_is_live or allocated > peak
                peak = max(peak, allocated)
                continue
            if peak_is_live:
                live_at_peak, peak_is_live = dict(live), False
            allocated -= live.pop(event.block)[0]
        by_label: dict[str, int] = {}
        for size, label in (live if peak_is_live else live_at_peak).values():
            by_label[label] = by_label.get(label, 0) + size
        return by_label

    def with_block_labels(self, labels: Mapping[int, str]) -> Timeline:
        """Return the timeline with a label for every block, given or derived from its lifetime.

        A block that a forward pass leaves for the backward pass is an activation. A block of the
        head belongs to the logits. Other blocks are temporaries.
        """
        allocated_at: dict[int, StepPosition] = {}
        by_block = dict(labels)
        for position, event in self:
            if event.size >= 0:
                allocated_at[event.block] = position
                if event.label:
                    by_block.setdefault(event.block, event.label)
            elif event.block not in by_block:
                by_block[event.block] = _label_from_lifetime(allocated_at[event.block], position)
        labeled = Timeline()
        for position, event in self:
            label = by_block.get(event.block, "temporaries") if event.size >= 0 else ""
            labeled.add(position, event._replace(label=label))
        return labeled

    def scale_label(self, label: str, factor: float) -> Timeline:
        """Return the timeline with the sizes of one label's blocks multiplied by a factor."""
        scaled = Timeline()
        for position, event in self:
            if event.label == label:
                event = event._replace(size=round(event.size * factor))
            scaled.add(position, event)
        return scaled

    def with_block(self, label: str, size: int, part: str) -> Timeline:
        """Return the timeline with an extra block in all phases whose names contain ``part``.

        The block is allocated when such a phase starts, and freed when another phase follows.
        """
        return self.with_block_of(label, lambda position: size if part in position.phase else 0)

    def with_block_of(self, label: str, size_at: Callable[[StepPosition], int]) -> Timeline:
        """Return the timeline with an extra block whose size depends on the position."""
        numbers, live, has, changed = count(-1, -1), 0, 0, Timeline()
        for run in self.runs:
            if (size := size_at(run.position)) != has:
                if has:
                    changed.add(run.position, AllocationEvent(live, -1))
                if size:
                    live = next(numbers)
                    changed.add(run.position, AllocationEvent(live, size, label))
                has = size
            for event in run.events:
                changed.add(run.position, event)
        return changed

    def repeat_step(self, prefix: str, new_prefix: str) -> Timeline:
        """Return the timeline with its step repeated.

        The step consists of the phases whose names start with ``prefix``; the names of their copies
        start with ``new_prefix``. Blocks that the step never frees, such as AdamW's moments and
        cached masks, live on in the second step and are not allocated again.
        """
        step = [run for run in self.runs if run.position.phase.startswith(prefix)]
        freed = {event.block for run in step for event in run.events if event.size < 0}
        new_block = count(max(event.block for _, event in self) + 1)
        copies: dict[int, int] = {}
        repeated = Timeline()
        for run in self.runs:
            repeated.runs.append(run)
            if run is not step[-1]:
                continue
            for position, event in Timeline(step):
                if event.size >= 0 and event.block in freed:
                    copies[event.block] = next(new_block)
                if event.block in copies:
                    phase = new_prefix + position.phase.removeprefix(prefix)
                    copy = event._replace(block=copies[event.block])
                    repeated.add(StepPosition(phase, position.layer), copy)
        return repeated

    def stretch_to_layers(self, layers: int) -> Timeline:
        """Return the timeline for ``layers`` layers; this one must have :data:`TRACED_LAYERS`.

        Raises:
            NonUniformLayersError: the middle layers differ, so none of them can be repeated.
        """
        return _LayerRepeater(self, layers).timeline()


class _AllocationSite(NamedTuple):
    """The place in a timeline where a block is allocated."""

    position: StepPosition
    occurrence: int
    """Index of the run among the runs at its position."""
    ordinal: int
    """Index of the allocation within its run."""


class _LayerRepeater:
    """Copies a timeline and repeats the middle layer's runs."""

    def __init__(self, source: Timeline, layers: int) -> None:
        if layers < TRACED_LAYERS:
            raise NonUniformLayersError(f"{layers} layers are too few to repeat one")
        self.layers = layers
        self.numbered_runs = _number_occurrences(source.runs)
        self.sites: dict[int, _AllocationSite] = {}
        self.by_position: dict[tuple[StepPosition, int], EventRun] = {}
        for run, occurrence in self.numbered_runs:
            self.by_position[run.position, occurrence] = run
            allocations = (event for event in run.events if event.size >= 0)
            for ordinal, event in enumerate(allocations):
                self.sites[event.block] = _AllocationSite(run.position, occurrence, ordinal)
        self.out = Timeline()
        self.copies: dict[tuple[_AllocationSite, int], int] = {}
        """The new block for each traced site and layer of the deeper model."""
        self.copies_of: dict[int, list[int]] = {}
        """All new blocks for each traced block."""
        self.live: set[int] = set()

    def timeline(self) -> Timeline:
        self._check_uniform()
        descends = self._descending_phases()
        for run, occurrence in self.numbered_runs:
            position = run.position
            if position.layer != _MIDDLE_LAYER:
                self._copy_run(run, occurrence, self._target_layer(position.layer))
                continue
            middle_layers = range(_MIDDLE_LAYER, self.layers - _MIDDLE_LAYER)
            descending = descends[position.phase, occurrence]
            for layer in reversed(middle_layers) if descending else middle_layers:
                self._copy_run(run, occurrence, layer)
        return self.out

    def _target_layer(self, layer: int) -> int:
        """Return a traced layer's index in the deeper model; not for the middle layer."""
        return layer if layer <= 1 else layer + self.layers - TRACED_LAYERS

    def _descending_phases(self) -> dict[tuple[str, int], bool]:
        """Return, by phase and occurrence, whether the layers come in descending order."""
        index = {(run.position, n): i for i, (run, n) in enumerate(self.numbered_runs)}
        descends = {}
        for run, occurrence in self.numbered_runs:
            phase, layer = run.position
            if layer == _MIDDLE_LAYER:
                before, after = (index.get((StepPosition(phase, x), occurrence)) for x in (1, 3))
                if before is None or after is None:
                    raise NonUniformLayersError(f"{phase}: the middle layer has no neighbors")
                descends[phase, occurrence] = before > after
        return descends

    def _check_uniform(self) -> None:
        """Raise an error unless the middle layers allocate and free blocks of equal sizes."""
        for (position, occurrence), run in self.by_position.items():
            if position.layer != _MIDDLE_LAYER:
                continue
            signature = self._signature(run)
            for other in (1, 3):
                neighbor = self.by_position.get((StepPosition(position.phase, other), occurrence))
                if neighbor is None or self._signature(neighbor) != signature:
                    raise NonUniformLayersError(
                        f"{position.phase}: layers {other} and {_MIDDLE_LAYER} differ"
                    )

    def _signature(self, run: EventRun) -> list[object]:
        """Return the sizes that a run allocates, and the sites that it frees in the same layer."""
        signature: list[object] = []
        for event in run.events:
            if event.size >= 0:
                signature.append(event.size)
                continue
            site = self.sites[event.block]
            if site.position.layer == run.position.layer:
                signature.append((site.position.phase, site.occurrence, site.ordinal))
        return signature

    def _copy_run(self, run: EventRun, occurrence: int, layer: int) -> None:
        """Append a run's events with new blocks, at a layer of the deeper model."""
        position = StepPosition(run.position.phase, layer if run.position.layer >= 0 else -1)
        ordinal = 0
        for event in run.events:
            if event.size >= 0:
                block = len(self.copies)
                self.copies[_AllocationSite(run.position, occurrence, ordinal), layer] = block
                self.copies_of.setdefault(event.block, []).append(block)
                self.live.add(block)
                self.out.add(position, AllocationEvent(block, event.size, event.label))
                ordinal += 1
                continue
            for block in self._freed_blocks(event.block, run, layer):
                # Several copies of a run may free the same block; the first copy does.
                if block in self.live:
                    self.live.remove(block)
                    self.out.add(position, AllocationEvent(block, -1))

    def _freed_blocks(self, traced_block: int, run: EventRun, layer: int) -> Iterable[int]:
        """Return the new blocks that the copy of a run at ``layer`` frees for a traced block."""
        site = self.sites[traced_block]
        allocating_layer, freeing_layer = site.position.layer, run.position.layer
        all_copies = self.copies_of.get(traced_block, [])
        if _MIDDLE_LAYER not in (allocating_layer, freeing_layer):
            return all_copies
        if freeing_layer not in (1, 2, 3):  # something outside frees the blocks of all layers
            return all_copies
        if allocating_layer not in (1, 2, 3):  # a single block: the first copy to run frees it
            last = self.layers - _MIDDLE_LAYER - 1
            return all_copies if layer in (_MIDDLE_LAYER, last) else []
        target = layer + allocating_layer - freeing_layer
        if target == 1:
            traced_layer = 1
        elif target == self.layers - _MIDDLE_LAYER:
            traced_layer = 3
        else:
            traced_layer = _MIDDLE_LAYER
        target_site = site._replace(position=StepPosition(site.position.phase, traced_layer))
        return [self.copies[target_site, target]] if (target_site, target) in self.copies else []


def _label_from_lifetime(allocated_at: StepPosition, freed_at: StepPosition) -> str:
    """Return a block's component, derived from when it is allocated and freed."""
    if ".forward" not in allocated_at.phase:
        return "temporaries"
    if allocated_at.layer >= 0:
        return "activations" if ".backward" in freed_at.phase else "temporaries"
    return "logits" if ".head" in allocated_at.phase else "activations"


def _number_occurrences(runs: Sequence[EventRun]) -> list[tuple[EventRun, int]]:
    """Return each run with the number of earlier runs at its position."""
    seen: dict[StepPosition, int] = {}
    numbered = []
    for run in runs:
        numbered.append((run, seen.get(run.position, 0)))
        seen[run.position] = seen.get(run.position, 0) + 1
    return numbered
