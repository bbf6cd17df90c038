"""The address of an endpoint, and the token that is sent there: what is allowed."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from tunesmith.errors import EnvironmentProblem

__all__ = ["TOKEN_VARIABLE", "URL", "check_endpoint", "read_token"]

URL = r"^https?://[^\s@?#]+$"
"""Addresses up to ``/v1``: without user, password and query, which would be shown and stored."""
TOKEN_VARIABLE = r"^[A-Z_][A-Z0-9_]*$"  # noqa: S105 - names of variables, no token


def check_endpoint(url: str, token_variable: str | None) -> None:
    """Check the address of an endpoint and the name of the variable with its token.

    Raises:
        ValueError: one of them has another form, or others could read the token on its way.
    """
    if not re.fullmatch(URL, url):
        raise ValueError("must be like https://host/v1, without user, password, ? and #")
    if token_variable is None:
        return
    if not re.fullmatch(TOKEN_VARIABLE, token_variable):
        raise ValueError("the token's variable has capitals, digits and _: it is a name, no token")
    if not _is_private(url):
        raise ValueError("a token is sent by https only, or to this machine")


def _is_private(url: str) -> bool:
    """Return True if nobody on the way can read what is sent."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def read_token(variable: str | None) -> str:
    """Return the token in an environment variable; empty without a variable.

    Raises:
        EnvironmentProblem: the variable is not set, or holds what no header can.
    """
    if variable is None:
        return ""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise EnvironmentProblem(f"the environment variable {variable} is not set")
    if not (token.isascii() and token.isprintable()):
        raise EnvironmentProblem(f"the environment variable {variable} holds no token")
    return token
