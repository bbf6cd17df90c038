"""Signatures with an elliptic-curve key: of a line of the log, and of a run folder.

No service is contacted. The libraries are imported late, because most runs do not need them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.storage import LEASE_FILE

SIGNATURE = "signature.json"
UNSIGNED = (SIGNATURE, "lock", LEASE_FILE, "export", "README.md")
"""Files that a run's signature does not cover: written later, or changed during the run."""


def sign_bytes(key: Path, content: bytes) -> str:
    """Return the signature of bytes (ECDSA with SHA-256, as Base64) with a private key."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded = _load(key, lambda content: load_pem_private_key(content, None))
    return base64.b64encode(loaded.sign(content, ECDSA(SHA256()))).decode()


def is_signed(key: Path, content: bytes, signature: str) -> bool:
    """Return True if the signature is of these bytes and of the owner of this public key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    loaded = _load(key, load_pem_public_key)
    try:
        loaded.verify(base64.b64decode(signature, validate=True), content, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _load(path: Path, parse: Callable[[bytes], Any]) -> Any:
    """Read a key; raise a UsageError if it cannot be used."""
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        loaded = parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: the key cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise UsageError(f"{path}: is not a key without a password, as PEM") from None
    if not isinstance(loaded, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        hint = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        raise UsageError(f"{path}: is not an elliptic-curve key", hint=hint)
    return loaded


def sign_folder(folder: Path, key: Path) -> str:
    """Sign all files of a run folder; return the SHA-256 of the signature file."""
    from model_signing import signing

    config = signing.Config().use_elliptic_key_signer(private_key=key)
    try:
        config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)
    except ValueError as error:
        raise UsageError(f"{folder}: cannot be signed: {error}") from None
    return digest_file(folder / SIGNATURE)


def find_change(folder: Path, key: Path) -> str:
    """Return how a run folder differs from its signature; empty if it does not."""
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    try:
        config.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
    except Exception as error:  # whatever a damaged file makes the parsers raise
        text = re.sub(r"[\[\]'\"\\]", "", " ".join(str(error).split()) or type(error).__name__)
        digests = r"Hash mismatch for (.+?): Expected .+?Actual .+?\)(?=, Hash mismatch for |$)"
        return f"{SIGNATURE} does not match: " + re.sub(digests, r"changed file: \1", text)
    return ""


def _hashing() -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
