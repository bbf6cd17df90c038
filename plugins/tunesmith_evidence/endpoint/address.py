"""Validate the address of an endpoint, and read its access token."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from tunesmith.errors import EnvironmentProblem

__all__ = ["TOKEN_VARIABLE", "URL_PATTERN", "check_endpoint", "is_endpoint", "read_token"]

URL_PATTERN = r"^https?://[^\s@?#]+$"
"""Matches http and https addresses without a user, password, query or fragment, because these would
be logged."""
TOKEN_VARIABLE = r"^[A-Z_][A-Z0-9_]*$"  # noqa: S105 - a variable's name, not a token


def is_endpoint(reference: str) -> bool:
    """Return True if a model reference is a web address."""
    return reference.startswith(("https://", "http://"))


def check_endpoint(url: str, token_variable: str | None) -> None:
    """Check the address of an endpoint, and the name of the environment variable with its token.

    Raises:
        ValueError: the address or the name is malformed, or the token would be sent unencrypted.
    """
    if not re.fullmatch(URL_PATTERN, url):
        raise ValueError("must look like https://host/v1, without a user, password, ? or #")
    if token_variable is None:
        return
    if not re.fullmatch(TOKEN_VARIABLE, token_variable):
        raise ValueError(
            "must be the name of an environment variable (capitals, digits and _), not the "
            "token itself"
        )
    if not _is_private(url):
        raise ValueError("a token needs an https address, or an endpoint on this machine")


def _is_private(url: str) -> bool:
    """Return True if nobody else can read the traffic: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def read_token(variable: str | None) -> str:
    """Return the token in an environment variable, or "" if ``variable`` is None.

    Raises:
        EnvironmentProblem: the variable is not set, or contains characters that a header cannot.
    """
    if variable is None:
        return ""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise EnvironmentProblem(
            f"the environment variable {variable} is not set",
            hint="set the variable to the endpoint's token before you start the command",
        )
    if not (token.isascii() and token.isprintable()):
        raise EnvironmentProblem(
            f"the environment variable {variable} does not contain a valid token: only printable "
            "ASCII characters are allowed"
        )
    return token
