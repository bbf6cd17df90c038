"""The ``[remote]`` table."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tunesmith.options import from_table
from tunesmith_remote.options import RemoteOptions


def test_a_url_loses_its_last_slash() -> None:
    assert from_table(RemoteOptions, {"url": "s3://bucket/runs/"}).url == "s3://bucket/runs"
    assert from_table(RemoteOptions, {}).url is None
    assert from_table(RemoteOptions, {"url": "abfs://c@account.dfs/runs"}).url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("bucket/runs", "must look like s3://bucket/path"),
        ("s3://", "must look like"),
        ("", "must look like"),
        ("simplecache::s3://bucket/runs", "must look like"),
        ("ftp://me:password@host/runs", "must not contain a secret"),
        ("s3://AKIAZZ01234567890QQQ/runs", "must not contain a secret"),
    ],
)
def test_what_is_no_place_or_holds_a_secret_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        from_table(RemoteOptions, {"url": url})
