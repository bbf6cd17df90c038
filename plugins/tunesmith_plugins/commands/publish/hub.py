"""Functions shared by push and pull: check repository names, and explain Hub errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.text import one_line, redact
from tunesmith_data import find_offline_variable
from tunesmith_evidence.report.model_card import is_hub_name

MODEL_FILES = re.compile(
    r"[^/\\]+\.(safetensors|gguf|jinja|model)|Modelfile|(adapter_|generation_|tokenizer_|"
    r"processor_|preprocessor_)?config\.json|export\.json|tokenizer\.json|added_tokens\.json|"
    r"special_tokens_map\.json|vocab\.(json|txt)|merges\.txt|model\.safetensors\.index\.json"
)
"""Names of the files of a model; other files are neither uploaded nor downloaded."""


def require_hub_name(name: str) -> None:
    """Raise a UsageError unless the name has the form ``ORG/NAME``."""
    if not is_hub_name(name):
        raise UsageError(f"{one_line(name)!r} is not a repository name of the form ORG/NAME")


@contextmanager
def explain_errors(repository: str) -> Iterator[None]:
    """Convert Hub errors that are raised in the block to errors with a hint.

    Raises:
        UsageError: the repository does not exist, or is private.
        EnvironmentProblem: the Hub cannot be reached, refused the request, or is disabled by an
            environment variable.
    """
    if variable := find_offline_variable():
        raise EnvironmentProblem(f"{repository}: {variable} is set", hint=f"unset {variable}")
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    # Catch the HTTP library's base error; the library depends on the version of huggingface_hub.
    client_error: type[Exception] = HfHubHTTPError.__bases__[0]
    hint = "set HF_TOKEN to a token with the right permissions, or log in: hf auth login"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise EnvironmentProblem(
            f"{repository}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE"
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"{repository}: this model does not exist, or it is private", hint=hint
        ) from error
    except (HfHubHTTPError, client_error, OSError) as error:
        if getattr(error, "response", None) is None:
            hint = "check the network connection and the proxy settings"
        text = one_line(redact(str(error)), 200)
        raise EnvironmentProblem(
            f"{repository}: cannot access the Hub: {text}", hint=hint
        ) from error
