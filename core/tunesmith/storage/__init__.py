"""Store runs on disk: a locked folder with an event log and checkpoints that survive crashes.

A run folder::

    runs/2026-11-24_1402_tickets-lora_a1b2/
      run.toml                the resolved run file, written once
      lock                    locked by the running process; never deleted
      lease                   names that process, which touches it and removes it at the end
      events.jsonl            the events of the run, one JSON object per line

      checkpoints/
        step-00000040/        files and MANIFEST.json
        .bad-step-00000060    failed verification: kept for inspection, never read again
      artifact/               the trained model, committed like a checkpoint
      report/

:mod:`tunesmith.storage.atomic` writes files, :mod:`tunesmith.storage.manifest` commits and verifies
folders, :mod:`tunesmith.storage.event_log` is the log, and :mod:`tunesmith.storage.run_lock` locks
the folder and removes what a crash left behind. This package exports all public names.
"""

from tunesmith.machine import free_bytes
from tunesmith.storage.atomic import Disk, write_atomic
from tunesmith.storage.checkpoints import Checkpoint, Checkpoints
from tunesmith.storage.event_log import EventLog, read_events, read_known_events
from tunesmith.storage.manifest import (
    MANIFEST,
    FileChecksum,
    FileProblem,
    Manifest,
    commit_folder,
    folder_size,
    is_inside,
    read_manifest,
    verify_folder,
)
from tunesmith.storage.run_folder import RunFolder, find_runs
from tunesmith.storage.run_lock import LEASE_FILE, LockHolder, lock, lock_to_read

__all__ = [
    "LEASE_FILE",
    "MANIFEST",
    "Checkpoint",
    "Checkpoints",
    "Disk",
    "EventLog",
    "FileChecksum",
    "FileProblem",
    "LockHolder",
    "Manifest",
    "RunFolder",
    "commit_folder",
    "find_runs",
    "folder_size",
    "free_bytes",
    "is_inside",
    "lock",
    "lock_to_read",
    "read_events",
    "read_known_events",
    "read_manifest",
    "verify_folder",
    "write_atomic",
]
