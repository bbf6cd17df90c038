"""Run folders: one process at a time, an event log, checkpoints that are valid or not there.

::

    runs/2026-11-24_1402_tickets-lora_a1b2/
      run.toml                the resolved run file, written once
      lock                    held by the running process; never deleted
      events.jsonl            what the run said, one JSON object per line
      checkpoints/
        step-00000040/        files and MANIFEST.json
        .bad-step-00000060    failed verification, kept for a look, never read again
      artifact/               the result, committed like a checkpoint
      report/

Files that are whole or absent: :mod:`tunesmith.storage.atomic`. Folders that prove themselves:
:mod:`tunesmith.storage.manifest`. The log: :mod:`tunesmith.storage.event_log`. The public names
are all here.
"""

from tunesmith.storage.atomic import Disk, free_bytes, require_space, write_atomic
from tunesmith.storage.checkpoints import Checkpoint, Checkpoints
from tunesmith.storage.event_log import EventLog, read_events
from tunesmith.storage.manifest import (
    MANIFEST,
    FileSum,
    Manifest,
    Problem,
    commit_folder,
    read_manifest,
    verify,
)
from tunesmith.storage.run_folder import RunFolder
from tunesmith.storage.run_lock import Holder, Lock, lock

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "Checkpoints",
    "Disk",
    "EventLog",
    "FileSum",
    "Holder",
    "Lock",
    "Manifest",
    "Problem",
    "RunFolder",
    "commit_folder",
    "free_bytes",
    "lock",
    "read_events",
    "read_manifest",
    "require_space",
    "verify",
    "write_atomic",
]
