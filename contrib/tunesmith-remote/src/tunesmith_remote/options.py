"""Define the options of the mirror, the ``[remote]`` table."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith.text import redact


class RemoteOptions(Options):
    """The ``[remote]`` table: where to mirror runs while they train. It does not change the run."""

    url: str | None = Field(
        None,
        description=(
            "Where to mirror runs, such as s3://bucket/runs. Each run gets a folder there, with "
            "the name of its run folder. Unset: runs are not mirrored. Credentials and endpoint "
            "come from the environment."
        ),
    )

    @field_validator("url")
    @classmethod
    def is_url_without_secrets(cls, url: str | None) -> str | None:
        return None if url is None else check_url(url)


def check_url(url: str) -> str:
    """Return the URL without trailing slashes.

    Raises:
        ValueError: the URL is malformed, or contains a secret.
    """
    scheme, separator, place = url.partition("://")
    if not separator or not scheme or not place.strip("/") or "::" in url:
        raise ValueError("must look like s3://bucket/path")
    if redact(url) != url:
        raise ValueError("must not contain a secret; use environment variables instead")
    return url.rstrip("/")


REMOTE: TableOffer[Any] = TableOffer(
    name="remote",
    summary="where runs are mirrored while they train",
    config=RemoteOptions,
)
