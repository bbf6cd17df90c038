"""Sign a bill of materials with an elliptic-curve key. No service is contacted."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import UsageError


def sign(path: Path, key: Path) -> Path:
    """Sign a file with a private key, and return the path of the signature beside it.

    Raises:
        UsageError: the extra ``sign`` is not installed, or the key cannot be used.
    """
    try:
        from model_signing import signing
    except ImportError as error:
        hint = "install tunesmith-bom with the extra `sign`"
        raise UsageError(f"--sign: {error}", hint=hint) from None
    signature = path.with_name(f"{path.name}.sig")
    try:
        signing.Config().use_elliptic_key_signer(private_key=key).sign(path, signature)
    except (OSError, ValueError, TypeError) as error:
        hint = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        raise UsageError(f"{key}: cannot be used to sign: {error}"[:300], hint=hint) from None
    return signature
