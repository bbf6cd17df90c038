"""Serve extension ``adapters``: every adapter of a folder, over one base model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.contracts import TextModel
from tunesmith.errors import TunesmithError
from tunesmith.offers import ServeExtensionOffer
from tunesmith.options import Options
from tunesmith_cli import render
from tunesmith_cli.serving import ServeExtension

CONFIG = "adapter_config.json"


class AdaptersOptions(Options):
    """Table ``[adapters]``."""

    folder: str = Field(
        "adapters",
        description="Folder whose subfolders, or links to them, are adapters or run folders; their "
        "names are the names of the models.",
    )


class Adapters(ServeExtension):
    """Serves the adapters that are in the folder now: new ones are loaded, missing ones removed."""

    def __init__(self, options: AdaptersOptions) -> None:
        self._folder = Path(options.folder)
        self._stamps: dict[str, int] = {}
        """Times of change of the adapters that were loaded, or could not be loaded."""
        self._served: dict[str, TextModel] = {}

    def change_models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel | None]:
        found = find_adapters(self._folder)
        stamps = {name: (path / CONFIG).stat().st_mtime_ns for name, path in found.items()}
        changes: dict[str, TextModel | None] = {
            name: None for name in self._served if stamps.get(name) != self._stamps[name]
        }
        for name in changes:
            del self._served[name]
        for name in [n for n in stamps if stamps[n] != self._stamps.get(n)]:
            try:
                model = load(found[name])
            except (TunesmithError, OSError, ValueError) as error:
                render.print_note(f"adapters: cannot load {found[name]}: {error}", style="bad")
                continue
            for other in [*self._served.values()][:1]:
                share_weights(model, other)
            changes[name] = self._served[name] = model
        self._stamps = stamps
        return changes


def find_adapters(folder: Path) -> dict[str, Path]:
    """Return the adapters in a folder by name; a run folder's adapter has the run's name."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        for candidate in (path, path / "adapter"):
            if (candidate / CONFIG).is_file():
                found[path.name] = candidate
                break
    return found


def share_weights(model: Any, other: Any) -> None:
    """Let a model use the tensors of another one wherever both have equal weights.

    Two adapters over the same base then need the base's memory only once.
    """
    import torch

    named = dict(other.model.named_parameters())
    for name, parameter in model.model.named_parameters():
        equal = named.get(name)
        if equal is not None and torch.equal(parameter, equal):
            parameter.data = equal.data


ADAPTERS: ServeExtensionOffer[AdaptersOptions] = ServeExtensionOffer(
    name="adapters",
    summary="the adapters of a folder, loaded and unloaded while the server runs",
    config=AdaptersOptions,
    build=Adapters,
)
