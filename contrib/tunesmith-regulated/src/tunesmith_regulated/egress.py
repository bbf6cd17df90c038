"""Find where the data of a run could leave the machine; connections are not blocked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tunesmith.offers import BUILTIN_DISTRIBUTION
from tunesmith_data import find_offline_variable
from tunesmith_regulated.search import list_texts

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def find_egress(
    plan: Mapping[str, Any], plugins: Sequence[Mapping[str, Any]], allowed: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield where a run may send data: the key of the run file, a message and a hint."""
    for key, text in list_texts(plan):
        if _URL.match(text) and not _is_local(text):
            yield key, "names another machine; a regulated run stays on this one", "use a file"
    for plugin in plugins:
        distribution = plugin["distribution"]
        if distribution not in (BUILTIN_DISTRIBUTION, "tunesmith-regulated", *allowed):
            hint = f"the owner of the policy can add {distribution!r} to `plugins`"
            yield "plugins", f"{plugin['name']} is not allowed by the policy", hint
    if find_offline_variable() is None:
        what = "hubs may be contacted, because offline mode is not on"
        yield "model.base", what, "set TUNESMITH_OFFLINE=1"


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme.partition("+")[0].lower() in ("file", "sqlite"):
        return not parts.netloc
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"
