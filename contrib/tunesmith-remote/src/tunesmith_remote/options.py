"""Options of the mirror: the table ``[remote]``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith.text import redact


class RemoteOptions(Options):
    """Table ``[remote]``: where runs are mirrored while they train. It does not change a run."""

    url: str | None = Field(
        None,
        description=(
            "Place for runs, such as s3://bucket/runs; each has a folder there with the name of "
            "its run folder. Unset: a run is not mirrored. Credentials and endpoint come from the "
            "environment."
        ),
    )

    @field_validator("url")
    @classmethod
    def is_url_without_secrets(cls, url: str | None) -> str | None:
        return None if url is None else check_url(url)


def check_url(url: str) -> str:
    """Return the URL without slashes at its end.

    Raises:
        ValueError: it is not the URL of one place, or holds a secret.
    """
    scheme, separator, place = url.partition("://")
    if not separator or not scheme or not place.strip("/") or "::" in url:
        raise ValueError("must be like s3://bucket/path")
    if redact(url) != url:
        raise ValueError("holds a secret, which belongs into the environment")
    return url.rstrip("/")


REMOTE: TableOffer[Any] = TableOffer(
    name="remote",
    summary="the place where runs are mirrored while they train",
    config=RemoteOptions,
)
