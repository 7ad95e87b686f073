"""TLS of the server: versions, groups, clients' certificates that come and go, and hostile handshakes. Real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from web_factory import WAIT, make_certificate, request, running, server_identity, tls_peer

from kokon.errors import MalformedError, UsageError
from kokon.provisioning.tls import TlsIdentity
from kokon.provisioning.web import groups, tls
from kokon.provisioning.web.groups import GROUPS, is_hybrid, key_exchange_groups
from kokon.provisioning.web.pool import ConnectionLimits
from kokon.provisioning.web.tls import ServerTls, TlsOptions, server_context


@pytest.fixture(scope="module")
def identity() -> Iterator[TlsIdentity]:
    with server_identity() as identity:
        yield identity


def client(identity: TlsIdentity, certificate: bytes | None = None, key: bytes = b"", directory=None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=identity.certificate)
    if certificate is not None:
        path = directory / "client.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context


def public_key(der: bytes) -> bytes:
    key = x509.load_der_x509_certificate(der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def exchange(run, context: ssl.SSLContext) -> dict:
    import json

    with contextlib.closing(tls_peer(run, context, request())) as peer:
        return json.loads(peer.response()[2])


# -- versions and groups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old_guests", "works"), [(False, False), (True, True)])
def test_old_versions_only_if_wanted(identity, old_guests: bool, works: bool) -> None:
    context = client(identity)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with running(tls=ServerTls(identity, TlsOptions(old_guests=old_guests))) as run:
        if works:
            assert exchange(run, context)["scheme"] == "https"
        else:
            with pytest.raises(ssl.SSLError):
                exchange(run, context)
        assert exchange(run, client(identity))["scheme"] == "https"


def test_no_session_is_resumed(identity) -> None:
    with (
        running(tls=ServerTls(identity)) as run,
        contextlib.closing(tls_peer(run, client(identity), request())) as peer,
    ):
        peer.response()
        assert peer.socket.version() == "TLSv1.3"
        assert not peer.socket.session.has_ticket
        assert peer.socket.selected_alpn_protocol() is None


def test_groups_are_those_that_the_context_has(identity) -> None:
    context = server_context(identity)
    found = key_exchange_groups(context)
    assert {"X25519", "secp256r1", "secp384r1"} <= set(found)
    assert is_hybrid(context) == (ssl.OPENSSL_VERSION_INFO >= (3, 5))
    assert ("X25519MLKEM768" in found) == is_hybrid(context)
    context.set_ecdh_curve("secp384r1")
    assert key_exchange_groups(context) == ("secp384r1",)
    assert not is_hybrid(context)


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_only_believed_if_the_server_names_it(name: str) -> None:
    def retry(extension: bytes, random: bytes = groups._RETRY) -> bytes:
        hello = b"\x03\x03" + random + b"\0" + b"\x13\x01\0" + len(extension).to_bytes(2, "big") + extension
        message = b"\x02" + len(hello).to_bytes(3, "big") + hello
        return b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message

    number = GROUPS[name].to_bytes(2, "big")
    versions = b"\0\x2b\0\x02\x03\x04"
    assert groups._selected(retry(versions + b"\0\x33\0\x02" + number)) == GROUPS[name]
    assert groups._selected(retry(versions)) is None
    assert groups._selected(retry(versions + b"\0\x33\0\x02" + number, bytes(32))) is None
    assert groups._selected(b"\x15\x03\x03\0\x02\x02\x28") is None


@given(st.binary(max_size=200))
def test_any_answer_is_read_without_failing(data: bytes) -> None:
    groups._selected(data)
    groups._selected(b"\x16\x03\x03\0\0\x02\0\0\0\x03\x03" + groups._RETRY + data)


# -- certificates of clients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_enrolled_clients_are_known_and_all_others_served_without(identity, tmp_path, loop: str) -> None:
    der, pem, key = make_certificate()
    context = client(identity, pem, key, tmp_path)
    server = ServerTls(identity)
    with running(tls=server, loop=loop) as run:
        assert exchange(run, context)["peer"] is None  # nobody is enrolled, nobody is asked
        assert server.enroll([der])
        assert not server.enroll([der])
        told = exchange(run, context)
        assert told["peer"] == der.hex()
        assert told["spki"] == hashlib.sha256(public_key(der)).hexdigest()
        assert (exchange(run, client(identity))["peer"], exchange(run, client(identity))["spki"]) == (None, None)
        with contextlib.closing(tls_peer(run, context, request())) as before:
            before.response()
            other, _, _ = make_certificate("another")
            assert server.enroll([other])
            before.send(request())  # connections that are open stay as they were
            assert before.response()[0] == 200
        with pytest.raises((ssl.SSLError, EOFError)):
            exchange(run, context)
        run.wait_for_note("certificate-refused")
        assert exchange(run, client(identity))["peer"] is None
        assert server.enroll([])
        assert exchange(run, context)["peer"] is None


def test_a_client_that_is_not_enrolled_is_refused_in_the_handshake(identity, tmp_path) -> None:
    enrolled, _, _ = make_certificate()
    _, pem, key = make_certificate()  # the same name, and not the same key
    server = ServerTls(identity)
    server.enroll([enrolled])
    with running(tls=server) as run:
        with pytest.raises((ssl.SSLError, EOFError)):
            exchange(run, client(identity, pem, key, tmp_path))
        run.wait_for_note("certificate-refused")
        assert run.server.server_state.total_requests == 0


def test_an_enrolled_certificate_that_has_expired_is_refused(identity, tmp_path) -> None:
    der, pem, key = make_certificate(days=-1)
    server = ServerTls(identity)
    server.enroll([der])
    with running(tls=server) as run:
        with pytest.raises((ssl.SSLError, EOFError)):
            exchange(run, client(identity, pem, key, tmp_path))
        run.wait_for_note("certificate-refused")


def test_authorities_are_not_enrolled_since_they_could_enroll_others(identity) -> None:
    server = ServerTls(identity)
    good, _, _ = make_certificate()
    server.enroll([good])
    before = server.context
    for ca in (True, None):
        with pytest.raises(UsageError) as caught:
            server.enroll([good, make_certificate(ca=ca)[0]])
        assert caught.value.code == "client-certificate-authority"
    assert server.context is before


def test_a_key_is_only_told_of_what_has_one() -> None:
    assert tls.key_digest(b"nonsense") is None
    assert tls.check_client_certificate(make_certificate()[0]).subject is not None


@pytest.mark.parametrize("data", [b"", b"nonsense", bytes(tls.CERTIFICATE_LIMIT + 1)])
def test_what_is_no_certificate_is_not_enrolled(identity, data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        ServerTls(identity).enroll([data])
    assert caught.value.code == "client-certificate-malformed"


def test_too_many_certificates(identity, monkeypatch) -> None:
    monkeypatch.setattr(tls, "ENROLLED_LIMIT", 1)
    with pytest.raises(UsageError) as caught:
        ServerTls(identity).enroll([make_certificate()[0], make_certificate()[0]])
    assert caught.value.code == "client-certificates-too-many"


def test_another_certificate_of_the_server_while_running(identity) -> None:
    server = ServerTls(identity)
    with server_identity() as new:
        with running(tls=server) as run:
            assert exchange(run, client(identity))
            server.renew(new)
            assert exchange(run, client(new))
            with pytest.raises(ssl.SSLError):
                exchange(run, client(identity))
        bad = TlsIdentity(identity.key_file, new.certificate_file, new.certificate)
        with pytest.raises(MalformedError) as caught:
            server.renew(bad)
        assert caught.value.code == "key-file-malformed"


# -- hostile handshakes ------------------------------------------------------------------------------------------------

MALFORMED = {
    "plain-http": request(),
    "zeros": bytes(100),
    "record-too-long": b"\x16\x03\x01\xff\xff" + bytes(70000),
    "cut-hello": bytes.fromhex("16030100f4010000f00303") + bytes(20),
    "alert": bytes.fromhex("15030100020228"),
    "application-data-first": bytes.fromhex("1703030010") + bytes(16),
    "sslv2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16),
}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_malformed_tls_disturbs_nobody_and_is_not_logged(identity, loop: str, caplog) -> None:
    context = client(identity)
    with running(tls=ServerTls(identity), loop=loop) as run:
        with contextlib.closing(tls_peer(run, context, request())) as neighbour:
            neighbour.response()
            for name, data in MALFORMED.items():
                peer = run.peer()
                with contextlib.suppress(OSError):
                    peer.send(data)
                    peer.socket.shutdown(socket.SHUT_WR)
                assert b"200 OK" not in peer.rest(), name
                peer.close()
                neighbour.send(request())
                assert neighbour.response()[0] == 200, name
        while run.server.pool.size:
            threading.Event().wait(0.01)
        assert run.notes.count("handshake-failed") == len(MALFORMED)
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_handshakes_that_are_not_gone_on_with_are_cut_off_or_make_place(identity, loop: str) -> None:
    limits = ConnectionLimits(connections=5, handshake_seconds=60)
    with running(tls=ServerTls(identity), limits=limits, loop=loop) as run:
        hello = bytes.fromhex("16030100f4010000f00303")
        stuck = [run.peer(hello) for _ in range(20)]
        assert exchange(run, client(identity))["path"] == "/"
        assert run.server.pool.size <= 5
        assert stuck[0].rest() == b""
        for peer in stuck:
            peer.close()
    with running(tls=ServerTls(identity), limits=ConnectionLimits(handshake_seconds=0.2), loop=loop) as run:
        with contextlib.closing(run.peer()) as silent:
            assert silent.rest() == b""
        run.wait_for_note("handshake-failed")


def test_a_request_right_behind_the_handshake_is_not_lost(identity) -> None:
    """The client's last message of the handshake and its request may come in one packet."""
    with running(tls=ServerTls(identity)) as run:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hidden = client(identity).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        peer = run.peer()
        with contextlib.closing(peer):
            while True:
                try:
                    hidden.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    peer.send(outgoing.read())
                    incoming.write(peer.socket.recv(65536))
            hidden.write(request(path="/early"))
            peer.send(outgoing.read())
            peer.socket.settimeout(WAIT)
            while True:
                try:
                    assert b"/early" in hidden.read(65536)
                    break
                except ssl.SSLWantReadError:
                    incoming.write(peer.socket.recv(65536))
