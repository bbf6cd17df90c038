"""Choose the files of a model to upload, and upload them in one commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from tunesmith.errors import UsageError
from tunesmith_evidence.report.model_card import CARD
from tunesmith_plugins.commands.publish.hub import MODEL_FILES, explain_errors

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Upload:
    """A file to upload: its name in the repository, and its content."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def to_operation(self) -> CommitOperationAdd:
        """Return the commit operation that adds the file."""
        content = self.content if isinstance(self.content, bytes) else str(self.content)
        return CommitOperationAdd(path_in_repo=self.name, path_or_fileobj=content)


def choose_files(folder: Path, card: str, base: str | None) -> list[Upload]:
    """Return the files of a model folder to upload, the model card first.

    ``base`` replaces the name of the base model in an adapter's config.

    Raises:
        UsageError: the folder contains no weights.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    chosen = [file for file in files if MODEL_FILES.fullmatch(file.name)]
    if not any(file.suffix in (".safetensors", ".gguf") for file in chosen):
        raise UsageError(
            f"{folder}: contains no .safetensors or .gguf files, the only weight formats that "
            "can be uploaded",
            hint="finish the run, or export it with --to safetensors, gguf or vllm",
        )
    return [Upload(CARD, card.encode()), *(Upload(file.name, _read(file, base)) for file in chosen)]


def _read(file: Path, base: str | None) -> Path | bytes:
    if file.name != ADAPTER_CONFIG or base is None:
        return file
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    return json.dumps(config, indent=2, sort_keys=True).encode()


def upload(api: HfApi, repository: str, files: Sequence[Upload], *, public: bool) -> str:
    """Create the repository if needed, upload the files in one commit, and return the URL.

    Raises:
        UsageError: the repository is public, but ``public`` is False.
        EnvironmentProblem: the Hub cannot be reached, or refused the request.
    """
    with explain_errors(repository):
        if not public and _is_public(api, repository):
            raise UsageError(
                f"{repository} exists and is public",
                hint="upload to it with --public, or choose another name for a private repository",
            )
        api.create_repo(repository, private=not public, exist_ok=True)
        operations = [file.to_operation() for file in files]
        done = api.create_commit(repository, operations, commit_message="Upload with tunesmith")
    return str(done.commit_url)


def _is_public(api: HfApi, repository: str) -> bool:
    try:
        return not api.model_info(repository).private
    except RepositoryNotFoundError:
        return False
