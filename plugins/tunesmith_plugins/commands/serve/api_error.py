"""Define errors in the format of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS = {401: "authentication_error", 403: "permission_error", 503: "overloaded_error"}


class ApiError(Exception):
    """An error to return as the response to a request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code = param, code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the body of the error response."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def kind(self) -> str:
        """The error type that OpenAI's API uses for this status."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        return KINDS.get(self.status, other)
