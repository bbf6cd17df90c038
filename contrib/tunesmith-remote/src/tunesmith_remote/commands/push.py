"""``tunesmith remote push``: copy new files of a run folder to a bucket."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import RunFolder
from tunesmith.text import format_bytes, format_count
from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_remote.snapshot import find_mirror


@click.command("push")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("url", metavar="[URL]", required=False)
@common_options
def command(run: Path, url: str | None) -> None:
    """Copy new files of a run folder to URL, such as s3://bucket/runs/tickets.

    Without URL, the run is pushed to the same URL as the last time. The run may be training at the
    same time. Credentials and endpoint come from environment variables such as AWS_PROFILE and
    AWS_ENDPOINT_URL.
    """
    from tunesmith_remote.bucket import Bucket
    from tunesmith_remote.push import push_run

    mirror = find_mirror(RunFolder.open(run).path)
    place = url or (mirror and mirror.url)
    if not place:
        raise UsageError(
            f"{run}: this run was never pushed", hint="add a URL, such as s3://bucket/runs/NAME"
        )
    bucket = Bucket(place)
    pushed = push_run(run, bucket)
    for name, reason in pushed.damaged.items():
        render.print_note(
            f"warning: {name} is damaged and was not pushed: {reason}", style="warning"
        )
    files = format_count(len(pushed.snapshot.files), "file")
    render.print_text(
        f"pushed snapshot {pushed.snapshot.number} to {bucket.url}: {files}, "
        f"{format_bytes(pushed.uploaded)} uploaded"
    )
