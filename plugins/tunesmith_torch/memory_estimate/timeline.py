"""What a program allocates and frees, in order; and the same for a deeper model.

The layers of a language model are alike, so a trace of five of them says what eighty do. Every
event knows in which *phase* of the step it happened and in which layer; neighbours of one place
form a *run*. To stretch a timeline, the runs of the middle layer are repeated, ascending where the
phase goes up through the layers (forward) and descending where it goes down (backward), and what a
copy frees is what stands at the same distance from it: its own, or its neighbour's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

TRACED = 5
"""Layers that are traced: first, last, the middle one, and one on each side that is like it."""
_MIDDLE = 2


class Event(NamedTuple):
    """An allocation, or with ``size`` -1 the end of one."""

    block: int
    size: int
    label: str = ""
    """What the block is for; empty where nothing is known but when it was made."""


class Place(NamedTuple):
    """When something happens: phase of the step, and layer (-1: outside of all)."""

    phase: str
    layer: int = -1


@dataclass
class Run:
    """Neighbouring events of one place."""

    place: Place
    events: list[Event] = field(default_factory=list)


class NotUniform(Exception):
    """The middle layers do not do the same: only a trace of all layers tells what they do."""


@dataclass
class Timeline:
    """Runs in order."""

    runs: list[Run] = field(default_factory=list)

    def add(self, place: Place, event: Event) -> None:
        """Append an event."""
        if not self.runs or self.runs[-1].place != place:
            self.runs.append(Run(place))
        self.runs[-1].events.append(event)

    def __iter__(self) -> Iterator[tuple[Place, Event]]:
        return ((run.place, event) for run in self.runs for event in run.events)

    def curve(self) -> Iterator[tuple[Place, int]]:
        """Bytes that are allocated after each event."""
        sizes: dict[int, int] = {}
        held = 0
        for place, event in self:
            if event.size >= 0:
                sizes[event.block] = event.size
                held += event.size
            else:
                held -= sizes.pop(event.block)
            yield place, held

    def peak(self) -> int:
        """Most bytes allocated at once."""
        return max((held for _, held in self.curve()), default=0)

    def at_peak(self) -> dict[str, int]:
        """What was allocated at the peak, by label."""
        live: dict[int, tuple[int, str]] = {}
        held = most = 0
        best: dict[int, tuple[int, str]] = {}
        stale = False
        for _, event in self:
            if event.size >= 0:
                live[event.block] = event.size, event.label
                held += event.size
                stale = stale or held > most
                most = max(most, held)
                continue
            if stale:  # the peak is over with the first block that goes
                best, stale = dict(live), False
            held -= live.pop(event.block)[0]
        found: dict[str, int] = {}
        for size, label in (live if stale else best).values():
            found[label] = found.get(label, 0) + size
        return found

    def labelled(self, labels: Mapping[int, str]) -> Timeline:
        """The same with every block's label: the given one, or what its lifetime tells.

        What a forward pass leaves for backward is an activation, or, outside of all layers and
        after them, the head's; the rest is temporary.
        """
        born: dict[int, Place] = {}
        found = dict(labels)
        for place, event in self:
            if event.size >= 0:
                born[event.block] = place
                if event.label:
                    found.setdefault(event.block, event.label)
            elif event.block not in found:
                found[event.block] = _told(born[event.block], place)
        out = Timeline()
        for place, event in self:
            label = found.get(event.block, "temporaries") if event.size >= 0 else ""
            out.add(place, event._replace(label=label))
        return out

    def scaled(self, label: str, factor: float) -> Timeline:
        """The same with the blocks of one label of another size."""
        out = Timeline()
        for place, event in self:
            if event.label == label:
                event = event._replace(size=round(event.size * factor))
            out.add(place, event)
        return out

    def again(self, before: str, after: str) -> Timeline:
        """The same with its step once more: the phases that begin so, under other names.

        What the step made for good (AdamW's means, masks that are remembered) is there by then, and
        not made again.
        """
        step = [run for run in self.runs if run.place.phase.startswith(before)]
        ended = {event.block for run in step for event in run.events if event.size < 0}
        number = count(max(event.block for _, event in self) + 1)
        copies: dict[int, int] = {}
        out = Timeline()
        for run in self.runs:
            out.runs.append(run)
            if run is not step[-1]:
                continue
            for place, event in Timeline(step):
                if event.size >= 0 and event.block in ended:
                    copies[event.block] = next(number)
                if event.block in copies:
                    there = Place(after + place.phase.removeprefix(before), place.layer)
                    out.add(there, event._replace(block=copies[event.block]))
        return out

    def stretched(self, layers: int) -> Timeline:
        """The timeline of a model of so many layers, from that of :data:`TRACED`.

        Raises:
            NotUniform: the middle layers differ, so there is nothing to repeat.
        """
        return _Stretching(self, layers).timeline()


class _Home(NamedTuple):
    """Where a block was allocated: which run of its place, and the how-manyth in it."""

    place: Place
    nth: int
    ordinal: int


class _Stretching:
    """Repeats the middle layer's runs."""

    def __init__(self, source: Timeline, layers: int) -> None:
        if layers < TRACED:
            raise NotUniform(f"{layers} layers are too few to repeat one")
        self.layers = layers
        self.numbered = _numbered(source.runs)
        self.homes: dict[int, _Home] = {}
        self.by_place: dict[tuple[Place, int], Run] = {}
        for run, nth in self.numbered:
            self.by_place[run.place, nth] = run
            made = (event for event in run.events if event.size >= 0)
            for ordinal, event in enumerate(made):
                self.homes[event.block] = _Home(run.place, nth, ordinal)
        self.out = Timeline()
        self.blocks: dict[tuple[_Home, int], int] = {}
        self.live: set[int] = set()
        self.by_block: dict[int, list[int]] = {}

    def timeline(self) -> Timeline:
        self._check()
        groups = self._groups()
        for run, nth in self.numbered:
            place = run.place
            if place.layer != _MIDDLE:
                self._emit(run, nth, self._real(place.layer))
                continue
            order = range(_MIDDLE, self.layers - _MIDDLE)
            descending = groups[place.phase, nth]
            for layer in reversed(order) if descending else order:
                self._emit(run, nth, layer)
        return self.out

    def _real(self, layer: int) -> int:
        """A traced layer's number in the deeper model."""
        return layer if layer <= 1 else layer + self.layers - TRACED

    def _groups(self) -> dict[tuple[str, int], bool]:
        """Whether the layers of a phase come in descending order, by phase and run."""
        at = {(run.place, nth): i for i, (run, nth) in enumerate(self.numbered)}
        found = {}
        for run, nth in self.numbered:
            phase, layer = run.place
            if layer == _MIDDLE:
                before, after = (at.get((Place(phase, x), nth)) for x in (1, 3))
                if before is None or after is None:
                    raise NotUniform(f"{phase}: the middle layer has no neighbours")
                found[phase, nth] = before > after
        return found

    def _check(self) -> None:
        """The three middle layers allocate and free the same."""
        for (place, nth), run in self.by_place.items():
            if place.layer != _MIDDLE:
                continue
            mine = self._signature(run)
            for other in (1, 3):
                twin = self.by_place.get((Place(place.phase, other), nth))
                if twin is None or self._signature(twin) != mine:
                    raise NotUniform(f"{place.phase}: layers {other} and {_MIDDLE} differ")

    def _signature(self, run: Run) -> list[object]:
        layer = run.place.layer
        found: list[object] = []
        for event in run.events:
            if event.size >= 0:
                found.append(event.size)
                continue
            home = self.homes[event.block]
            near = abs(home.place.layer - layer) <= 1 and home.place.layer >= 0
            if near and 1 <= layer + (home.place.layer - layer) <= 3:
                found.append((home.place.phase, home.place.layer - layer, home.nth, home.ordinal))
        return [item for item in found if not isinstance(item, tuple) or item[1] == 0]

    def _emit(self, run: Run, nth: int, layer: int) -> None:
        place = Place(run.place.phase, layer if run.place.layer >= 0 else -1)
        ordinal = 0
        for event in run.events:
            if event.size >= 0:
                block = len(self.blocks)
                self.blocks[_Home(run.place, nth, ordinal), layer] = block
                self.by_block.setdefault(event.block, []).append(block)
                self.live.add(block)
                self.out.add(place, Event(block, event.size, event.label))
                ordinal += 1
                continue
            for block in self._freed(self.homes[event.block], event.block, run, layer):
                if block in self.live:
                    self.live.remove(block)
                    self.out.add(place, Event(block, -1))

    def _freed(self, home: _Home, traced: int, run: Run, layer: int) -> Iterable[int]:
        """The blocks of the deeper model that are meant."""
        made, here = home.place.layer, run.place.layer
        if here != _MIDDLE and made != _MIDDLE:
            return self.by_block.get(traced, [])
        if here not in (1, 2, 3):  # the end of something that all layers had
            return self.by_block.get(traced, [])
        if made not in (1, 2, 3):
            last = self.layers - _MIDDLE - 1
            return self.by_block.get(traced, []) if layer in (_MIDDLE, last) else []
        target = layer + made - here
        twin = 1 if target == 1 else 3 if target == self.layers - _MIDDLE else _MIDDLE
        key = _Home(Place(home.place.phase, twin), home.nth, home.ordinal), target
        return [self.blocks[key]] if key in self.blocks else []


def _told(born: Place, died: Place) -> str:
    """What a block was for, from the first and the last moment of its life."""
    if ".forward" not in born.phase:
        return "temporaries"
    if born.layer >= 0:
        return "activations" if ".backward" in died.phase else "temporaries"
    return "logits" if ".head" in born.phase else "activations"


def _numbered(runs: Sequence[Run]) -> list[tuple[Run, int]]:
    """Each run with how many of its place came before it."""
    seen: dict[Place, int] = {}
    found = []
    for run in runs:
        found.append((run, seen.get(run.place, 0)))
        seen[run.place] = seen.get(run.place, 0) + 1
    return found
