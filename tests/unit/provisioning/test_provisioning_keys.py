from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import HostError, KokonError, MalformedError, StaleError, UsageError
from kokon.provisioning.keys import MASTER_KEY, OWNER_KEY, fingerprint, key_pem, open_keys, private_file, write_private
from kokon.provisioning.tls import TLS_CERTIFICATE, TLS_KEY, client_context, make_certificate, open_tls, server_context

NOW = datetime.now(UTC)


def test_keys_are_made_once_and_kept_from_others(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    first, second = open_keys(state, NOW), open_keys(state, NOW)
    assert first.master == second.master
    assert first.admin_token == second.admin_token
    assert fingerprint(first.owner.public_key()) == fingerprint(second.owner.public_key())
    assert state.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}
    assert first.admin_token not in repr(first)
    assert repr(first) == "ServerKeys()"


def test_servers_that_start_at_once_agree_on_the_key_that_stays(tmp_path: Path) -> None:
    """The other server writes its key between our look and our writing."""
    path = tmp_path / MASTER_KEY

    def late() -> bytes:
        write_private(path, b"o" * 32)
        return b"m" * 32

    assert private_file(path, late) == path.read_bytes() == b"o" * 32
    assert [entry.name for entry in tmp_path.iterdir()] == [MASTER_KEY]


def test_exposed_key_file_is_refused(tmp_path: Path) -> None:
    open_keys(tmp_path, NOW)
    (tmp_path / MASTER_KEY).chmod(0o640)
    with pytest.raises(UsageError) as caught:
        open_keys(tmp_path, NOW)
    assert caught.value.code == "key-file-exposed"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (MASTER_KEY, b"short"),
        (MASTER_KEY, b""),
        ("admin.token", b"no token\n"),
        (OWNER_KEY, b"-----BEGIN nonsense"),
        (OWNER_KEY, key_pem(ec.generate_private_key(ec.SECP384R1()))),
    ],
)
def test_malformed_key_files(tmp_path: Path, name: str, content: bytes) -> None:
    open_keys(tmp_path, NOW)
    write_private(tmp_path / name, content)
    with pytest.raises(MalformedError) as caught:
        open_keys(tmp_path, NOW)
    assert caught.value.code == "key-file-malformed"


def test_unusable_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        open_keys(tmp_path / "file", NOW)
    assert caught.value.code == "state-unusable"
    open_keys(tmp_path / "state", NOW)
    (tmp_path / "state" / MASTER_KEY).unlink()
    (tmp_path / "state" / MASTER_KEY).mkdir()
    with pytest.raises(HostError) as caught:
        open_keys(tmp_path / "state", NOW)
    assert caught.value.code == "state-unusable"


def test_tls_identity_is_stable_and_checked(tmp_path: Path) -> None:
    identity = open_tls(tmp_path, ["server.example", "192.0.2.1"], NOW)
    assert open_tls(tmp_path, ["server.example"], NOW) == identity
    assert server_context(identity).minimum_version == ssl.TLSVersion.TLSv1_2
    assert client_context(identity.certificate).verify_mode == ssl.CERT_REQUIRED
    cases: list[tuple[list[str], datetime, str, type[KokonError]]] = [
        (["other.example"], NOW, "tls-name-missing", UsageError),
        (["nämé"], NOW, "tls-name-malformed", UsageError),
        ([], NOW + timedelta(days=4000), "tls-expired", StaleError),
    ]
    for names, now, code, kind in cases:
        with pytest.raises(kind) as caught:
            open_tls(tmp_path, names, now)
        assert caught.value.code == code


def test_tls_files_that_do_not_fit(tmp_path: Path) -> None:
    open_tls(tmp_path, [], NOW)
    write_private(tmp_path / TLS_CERTIFICATE, make_certificate(ec.generate_private_key(ec.SECP256R1()), ["a"], NOW))
    with pytest.raises(MalformedError) as caught:
        open_tls(tmp_path, [], NOW)
    assert caught.value.code == "key-file-malformed"
    write_private(tmp_path / TLS_CERTIFICATE, b"nothing")
    with pytest.raises(MalformedError) as caught:
        open_tls(tmp_path, [], NOW)
    assert caught.value.code == "key-file-malformed"
    assert (tmp_path / TLS_KEY).exists()
    with pytest.raises(MalformedError) as caught:
        client_context("nothing")
    assert caught.value.code == "certificate-malformed"


def test_admin_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kokon.provisioning.client import read_access

    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        read_access()
    assert caught.value.code == "admin-access-missing"
    (tmp_path / "provision").mkdir()
    (tmp_path / "provision" / "admin.json").write_text(json.dumps({"url": "u", "token": "geheim", "certificate": "c"}))
    access = read_access()
    assert (access.url, access.token) == ("u", "geheim")
    assert "geheim" not in repr(access)
