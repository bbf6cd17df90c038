"""The initial model, given in the option ``from``: an adapter or a full model to train further."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.events import JSON
from tunesmith.storage import verify_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith_torch.models.artifacts import detect_artifact_format
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.untrusted.foreign_code import read_json_object, refuse_foreign_code

__all__ = ["InitialModel", "adapter_base_folder", "find_adapter_base"]

LINEAGE_FILE = "initial_model.json"
"""File in a job's folder that identifies the model its training started from."""


@dataclass(frozen=True)
class InitialModel:
    """The artifact of an earlier run that training starts from."""

    path: Path
    format: Literal["adapter", "model"]

    @classmethod
    def from_options(cls, options: TrainingOptions, stage: str = "") -> InitialModel | None:
        """Return the model that the options name in ``from``, or None for the base model.

        Raises:
            UsageError, IntegrityError: see :meth:`find`.
        """
        location = options.initial_model
        return None if location is None else cls.find(location, stage)

    @classmethod
    def find(cls, location: str, stage: str = "", key: str = "technique.from") -> InitialModel:
        """Return the artifact in a run folder, or the artifact folder itself.

        In a run with stages, this is the artifact of ``stage``, otherwise that of the policy stage
        or the supervised stage. ``key`` is the option that names the folder, for messages.

        Raises:
            UsageError: the folder has no artifact.
            EnvironmentProblem: the artifact contains code.
            IntegrityError: its files differ from its manifest, or a link leads out of the folder.
        """
        folder = Path(location)
        folders = [folder, *(folder / name for name in (stage or "policy", "supervised"))]
        for candidate in (parent / name for parent in folders for name in ("", "adapter", "model")):
            names = ("adapter_config.json", "config.json")
            if any((candidate / name).is_file() for name in names):
                if not candidate.resolve().is_relative_to(folder.resolve()):
                    raise IntegrityError(
                        f"{key}: {candidate} is a symbolic link to {candidate.resolve()}, outside "
                        f"of {folder}",
                        hint="use that folder itself, if you trust it",
                    )
                refuse_foreign_code(candidate)
                problems = verify_folder(candidate) if (candidate / MANIFEST).is_file() else []
                if problems:
                    raise IntegrityError(f"{candidate}: {problems[0]}")
                return cls(candidate, detect_artifact_format(candidate))
        raise UsageError(
            f"{key}: no adapter or model in {folder}",
            hint="use the run folder of a finished run, or the adapter or model folder itself",
        )

    def lineage(self) -> JSON:
        """Return the facts that identify the model in events and reports."""
        return {"from": str(self.path), "from_format": self.format, "from_sha256": self.sha256()}

    def sha256(self) -> str:
        """Return a digest of the model's safetensors and JSON files, except the manifest."""
        digest = hashlib.sha256()
        for path in sorted(self.path.iterdir()):
            if path.suffix in (".safetensors", ".json") and path.name != MANIFEST:
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                digest.update(f"{path.name} {content}\n".encode())
        return digest.hexdigest()


def base_folder(model: Path, initial_model: InitialModel | None) -> Path:
    """Return the folder to load first: a full initial model, otherwise the base model."""
    return (
        initial_model.path
        if initial_model is not None and initial_model.format == "model"
        else model
    )


def adapter_base_folder(model: Path, adapter: Path, options: TrainingOptions) -> Path:
    """Return the folder of the weights that a trained adapter needs: an initial model or the base.

    An initial adapter is already combined with the trained one, so it only needs the base.

    Raises:
        UsageError: the initial model no longer exists.
    """
    path = adapter.parent / LINEAGE_FILE
    lineage = read_json_object(path) if path.is_file() else {}
    if options.initial_model is None or lineage.get("from_format") == "adapter":
        return model
    return base_folder(model, InitialModel.find(options.initial_model))


def find_adapter_base(adapter: Path, model: Path) -> Path:
    """Return the folder of the weights that an adapter was trained on, or ``model`` if unknown."""
    config = read_json_object(adapter / "adapter_config.json")
    named = Path(str(config.get("base_model_name_or_path") or ""))
    # After a run folder is moved, the recorded path is wrong, but the folder still has the model.
    moved = adapter.parent.parent / named.parent.name / named.name
    for folder in (named, moved):
        if (folder / "config.json").is_file():
            return folder
    return model
