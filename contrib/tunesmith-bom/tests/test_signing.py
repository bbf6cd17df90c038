"""A signed file is verified offline, and each change of it or of its signature is found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunesmith.errors import UsageError
from tunesmith_bom.signing import sign


def write_keys(folder: Path) -> tuple[Path, Path]:
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from cryptography.hazmat.primitives import serialization as form

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "key.pem", folder / "key.pub"
    kind = form.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(form.Encoding.PEM, kind, form.NoEncryption()))
    kind = form.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, kind))
    return private, public


def is_valid(path: Path, signature: Path, key: Path) -> bool:
    verifying = pytest.importorskip("model_signing.verifying")
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=key).verify(path, signature)
    except Exception:
        return False
    return True


def test_changes_are_found(tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    private, public = write_keys(tmp_path)
    path = tmp_path / "bom.cdx.json"
    path.write_text('{"bomFormat": "CycloneDX"}')
    signature = sign(path, private)
    assert signature.name == "bom.cdx.json.sig" and is_valid(path, signature, public)
    (tmp_path / "other").mkdir()
    assert not is_valid(path, signature, write_keys(tmp_path / "other")[1])
    content = signature.read_text()
    signature.write_text(content.replace('"sig":"', '"sig":"A', 1))
    assert signature.read_text() != content and not is_valid(path, signature, public)
    signature.write_text(content)
    path.write_text('{"bomFormat": "CycloneDX "}')
    assert not is_valid(path, signature, public)


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    (tmp_path / "key.pem").write_text("no key")
    (tmp_path / "bom.json").write_text("{}")
    with pytest.raises(UsageError, match=r"key\.pem: cannot be used") as caught:
        sign(tmp_path / "bom.json", tmp_path / "key.pem")
    assert "openssl" in str(caught.value.hint) and not (tmp_path / "bom.json.sig").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match="--sign") as caught:
        sign(tmp_path / "bom.json", tmp_path / "key.pem")
    assert "extra" in str(caught.value.hint)
