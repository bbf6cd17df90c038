"""Download all files of a model, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi

from tunesmith.errors import UsageError
from tunesmith_evidence.report.model_card import CARD
from tunesmith_plugins.commands.publish.hub import MODEL_FILES, explain_errors


def download(api: HfApi, repository: str, revision: str | None, target: Path) -> list[str]:
    """Download the files of a model to the new folder ``target``, and return their names.

    Raises:
        UsageError: the model does not exist, or has neither safetensors nor GGUF files.
        EnvironmentProblem: the Hub cannot be reached, or refused the request.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with explain_errors(repository), TemporaryDirectory(dir=target.parent) as temporary:
        info = api.model_info(repository, revision=revision)
        names = [file.rfilename for file in info.siblings or ()]
        chosen = [name for name in names if MODEL_FILES.fullmatch(name) or name == CARD]
        if not any(name.endswith((".safetensors", ".gguf")) for name in chosen):
            raise UsageError(
                f"{repository}: contains no safetensors or GGUF files",
                hint="other weight formats can contain code, so they are not downloaded",
            )
        folder = Path(temporary) / "model"
        for name in chosen:
            api.hf_hub_download(repository, name, revision=info.sha, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        folder.rename(target)
    return chosen
