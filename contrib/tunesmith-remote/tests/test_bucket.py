"""Errors of stores: what is wrong, where, and no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith_remote.bucket import Bucket, describe


def test_an_object_is_created_once(url: str) -> None:
    bucket = Bucket(url)
    assert bucket.read("a") is None and bucket.list_sizes("folder") == {}
    assert bucket.create("folder/a", b"first") and not bucket.create("folder/a", b"second")
    assert bucket.create("folder/a", b"first")  # as by a request that is repeated
    assert bucket.read("folder/a") == b"first" and bucket.list_sizes("folder") == {"a": 5}
    bucket.delete("folder/a")
    bucket.delete("folder/a")
    assert bucket.list_sizes("folder") == {}


def test_what_another_machine_writes_after_a_listing_is_read(s3: str) -> None:
    """S3 libraries remember listings."""
    import boto3

    bucket = Bucket("s3://bucket/listed")
    bucket.write("a", b"a")
    assert bucket.list_sizes("") == {"a": 1}
    boto3.client("s3").put_object(Bucket="bucket", Key="listed/b", Body=b"other")
    assert bucket.read("b") == b"other"
    assert bucket.create("b", b"other") and not bucket.create("b", b"own")
    assert bucket.list_sizes("") == {"a": 1, "b": 5}


def test_a_file_or_object_that_is_gone_is_no_error_of_the_store(url: str, tmp_path: Path) -> None:
    assert not Bucket(url).download("gone", tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        Bucket(url).upload(tmp_path / "gone", "objects/a")


def test_a_bucket_that_does_not_exist_is_named(s3: str, tmp_path: Path) -> None:
    bucket = Bucket("s3://nowhere/runs")
    with pytest.raises(EnvironmentProblem, match=r"s3://nowhere/runs/a: .*bucket does not exist"):
        bucket.write("a", b"")


def test_a_store_that_does_not_answer_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(EnvironmentProblem, match=r"s3://bucket/runs/objects: .*127\.0\.0\.1:9"):
            Bucket("s3://bucket/runs").list_sizes("objects")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("nosuch://place/runs", UsageError, "Protocol not known"),
        ("runs", UsageError, "must look like s3://bucket/path"),
        ("ftp://me:password1@host/runs", UsageError, r"redacted:password"),
        ("gs://bucket/runs", EnvironmentProblem, "gcsfs"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(
    url: str, error: type[Exception], text: str
) -> None:
    if url.startswith("gs:"):
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(error, match=text):
        Bucket(url)


def test_an_error_is_described_without_secrets() -> None:
    error = OSError("no access for AKIAZZ01234567890QQQ\nat http://me:password1@host")
    text = describe(error)
    assert text.startswith("OSError: no access for [redacted:aws_key]") and "\n" not in text
    assert "password1" not in text and describe(OSError()) == "OSError"
