"""The server's own keys in its store, and the state directory that it is opened from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kokon.errors import KokonError
from kokon.provisioning.custody.master import make_master
from kokon.provisioning.database import Store
from kokon.provisioning.database.rings import RingLoader
from kokon.provisioning.keys import fingerprint, open_keys, read_key
from kokon.provisioning.state import Settings, read_settings, write_settings

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def opened(path: Path) -> Store:
    return Store.open(path, RingLoader(make_master()), sign=lambda *_: b"signed", clock=lambda: NOW)


def refused(code: str) -> Any:
    return pytest.raises(KokonError, match=rf"\[{code}\]")


def test_keys_are_made_once(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as store:
        keys = open_keys(store, ("server.example",), NOW)
        again = open_keys(store, (), NOW)
        assert again.certificate == keys.certificate
        assert fingerprint(again.owner.public_key()) == fingerprint(keys.owner.public_key())
        renewed = open_keys(store, ("other.example",), NOW, renew=True)
        assert renewed.certificate != keys.certificate
        assert fingerprint(renewed.owner.public_key()) == fingerprint(keys.owner.public_key())
        assert "PrivateKey object" not in repr(keys)


def test_a_certificate_for_other_names_or_times(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as store:
        open_keys(store, (), NOW)
        with refused("tls-name-missing"):
            open_keys(store, ("server.example",), NOW)
        with refused("tls-expired"):
            open_keys(store, (), NOW + timedelta(days=3651))
    with opened(tmp_path / "b.db") as store, refused("tls-name-malformed"):
        open_keys(store, ("sérver",), NOW)


def test_what_is_no_key_of_the_server() -> None:
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (
        b"",
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        ed25519.Ed25519PrivateKey.generate().private_bytes(*form),
        ec.generate_private_key(ec.SECP384R1()).private_bytes(*form),
    ):
        with refused("server-key-malformed"):
            read_key(pem)


def test_settings(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()
    written = Settings("postgresql://db/kokon", "/lib/p11.so", "token", "key")
    write_settings(tmp_path, written)
    assert read_settings(tmp_path) == written
    assert "postgresql" not in repr(written)
    assert (tmp_path / "settings.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "settings.json").write_text('{"version": 2}')
    with pytest.raises(KokonError):
        read_settings(tmp_path)


def test_the_state_of_an_older_version(tmp_path: Path) -> None:
    (tmp_path / "kokon.db").touch()
    with refused("state-older"):
        read_settings(tmp_path)
