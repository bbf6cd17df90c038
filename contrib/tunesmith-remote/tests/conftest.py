"""Fixtures of every test: runs on a tiny model, and buckets of a local S3 server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before botocore is imported by anybody.
for name in [n for n in os.environ if n.startswith(("AWS_", "FSSPEC_"))]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

ACCESS_KEY, SECRET = "AKIAZZ01234567890QQQ", "s3cr3t/0123456789abcdefghijklmnopqrstu+w"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server, which the environment names; it has a bucket ``bucket``."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", str(tmp_path_factory.mktemp("aws") / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield address
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place in each of three stores, with nothing in it."""
    name = secrets.token_hex(4)
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://bucket/runs/{name}"
    return f"memory://runs/{name}" if request.param == "memory" else f"file://{tmp_path}/store/run"


@pytest.fixture
def memory_url() -> str:
    """A place in memory, with nothing in it."""
    return f"memory://runs/{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file of 64 steps and its rows."""
    from tunesmith_torch.testing.tiny_project import write_project

    folder = tmp_path_factory.mktemp("project")
    write_project(folder, tiny_model, epochs=4, every=8)
    return folder
