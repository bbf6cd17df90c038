"""Keep the files of distributions that pip will replace, and put them back."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import invalidate_caches, metadata
from pathlib import Path

from tunesmith_plugins.commands.plugin_install.pip import Change, run_pip


@dataclass
class FormerVersions:
    """Copies of the files of the distributions that changes replace, in a folder."""

    folder: Path
    changes: Sequence[Change]
    _copies: dict[Path, Path] = field(default_factory=dict)

    def keep(self) -> None:
        """Copy the files of the installed versions; nothing has to be downloaded again."""
        for change in self.changes:
            if change.before is not None:
                distribution = metadata.distribution(change.name)
                for file in distribution.files or ():
                    path = Path(str(distribution.locate_file(file))).resolve()
                    if path.is_file():
                        copy = self.folder / str(len(self._copies))
                        shutil.copy2(path, copy)
                        self._copies[path] = copy

    def restore(self) -> None:
        """Uninstall the new versions, and put the files of the former ones back."""
        invalidate_caches()
        present = [c.name for c in self.changes if _is_installed(c.name)]
        if present:
            run_pip(["uninstall", "--yes", *present])
        for path, copy in self._copies.items():
            if not (path.is_file() and filecmp.cmp(path, copy, shallow=False)):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(copy, path)
        invalidate_caches()


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
