"""The fence around plugins: how the core calls their code and checks what they return."""

from tunesmith.fence.calls import (
    SECONDS_VARIABLE,
    DataChangedError,
    PluginTimeout,
    attribute_errors_to,
    call_in_fence,
    check_unchanged,
    describe_error,
    fence,
    hook_seconds,
    is_of_user,
    isolate,
    note_if_slow,
    outside_fence,
    require_unchanged,
)

__all__ = [
    "SECONDS_VARIABLE",
    "DataChangedError",
    "PluginTimeout",
    "attribute_errors_to",
    "call_in_fence",
    "check_unchanged",
    "describe_error",
    "fence",
    "hook_seconds",
    "is_of_user",
    "isolate",
    "note_if_slow",
    "outside_fence",
    "require_unchanged",
]
