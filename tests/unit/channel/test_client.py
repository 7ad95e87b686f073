"""The user's end: verified first, then only the verified key, through every way in."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from channel_world import IMAGE, TOKEN, Application, launch_document, public_pem
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from verified_world import VerifiedWorld, new_key

from kokon.channel.client import Address, AttestedPeer, capture_answer, image_digest, parse_address
from kokon.channel.mint import make_certificate
from kokon.channel.protocol import ALPN
from kokon.channel.proxy import LocalProxy, parse_listen
from kokon.channel.serve import AttestedServer, Limits
from kokon.channel.tls import TlsStream, server_context
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import UserTrust
from kokon.channel.verify import Verification
from kokon.errors import DeniedError, KokonError, MalformedError, UnreachableError, UntrustedError, UsageError
from kokon.launch.document import ImageRef


def test_address_is_read() -> None:
    assert parse_address("https://clinic.example:8443/") == Address("clinic.example", 8443)
    assert parse_address("https://[::1]") == Address("::1", 443)
    assert str(Address("::1", 443)) == "https://[::1]:443"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "clinic",
        "http://a:1",
        "https://",
        "https://a:0",
        "https://a:x",
        "https://a/path",
        "https://u@a",
        "https://a?q",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(url)
    assert caught.value.code == "url-malformed"


def test_expected_image_must_be_a_digest() -> None:
    assert image_digest(f"127.0.0.1:5000/demo/clinic@{IMAGE}") == image_digest(IMAGE) == IMAGE
    for reference in ("demo/clinic", "demo/clinic:latest", "demo@sha256:12"):
        with pytest.raises(UsageError) as caught:
            image_digest(reference)
        assert caught.value.code == "image-not-pinned"


def test_data_flows_after_verification(world: VerifiedWorld) -> None:
    peer = world.peer(world.start())
    stream = peer.open()
    stream.write(b"hello", 5)
    assert stream.read(10, 5) == b"hello"
    stream.close()


def test_verification_is_kept_and_renewed(world: VerifiedWorld) -> None:
    guest = world.guest()
    peer = world.peer(world.start(guest), max_age=timedelta(minutes=5))
    peer.open().close()
    peer.open().close()
    assert len(guest.asked) == 1
    world.now += timedelta(minutes=5)
    peer.open().close()
    assert len(guest.asked) == 2
    world.now -= timedelta(minutes=1)  # a clock that was set back
    peer.open().close()
    assert len(guest.asked) == 3


def test_image_once_verified_must_stay(world: VerifiedWorld) -> None:
    """The host puts another sealed image of the same author in the place of the one that the user was shown."""
    url = world.start()
    peer, anybody = world.peer(url), world.peer(url)
    assert peer.current().image == IMAGE
    other = "sha256:" + "d" * 64
    image = ImageRef("http://127.0.0.1:5000", "demo/other", other, public_pem(world.author))
    world.document = launch_document(public_pem(world.author), image=image)
    restarted(world, url, world.guest(statement=world.statement(subject=other)))
    with pytest.raises(UntrustedError):
        peer.open()
    with pytest.raises(UntrustedError) as caught:
        peer.open()
    assert caught.value.found == "image-not-expected"
    assert anybody.current().image == other


def restarted(world: VerifiedWorld, url: str, guest: object = None) -> None:
    """Another server with a key of its own takes the address over."""
    world.servers[-1].close()
    time.sleep(0.1)
    world.start(guest or world.guest(), port=parse_address(url).port)  # type: ignore[arg-type]


def test_certificate_swapped_between_attestation_and_data_is_refused(world: VerifiedWorld) -> None:
    url = world.start()
    peer = world.peer(url)
    peer.current()
    restarted(world, url)
    with pytest.raises(UntrustedError) as caught:
        peer.open()
    assert caught.value.code == "peer-key-changed"
    assert world.app.connections <= 1
    peer.open().close()  # an honest restart: the new key was verified in full this time


def test_data_connection_to_a_foreign_enclave_is_refused(world: VerifiedWorld) -> None:
    url = world.start()
    peer = world.peer(url)
    peer.current()
    restarted(world, url, world.guest(world.context(measurement=b"\1" * 48)))
    codes = []
    for _ in range(2):
        with pytest.raises(UntrustedError) as caught:
            peer.open()
        codes.append(caught.value.code)
    assert codes == ["peer-key-changed", "peer-not-verified"]


def test_data_connection_without_evidence_is_refused(world: VerifiedWorld) -> None:
    url = world.start()
    peer = world.peer(url)
    peer.current()
    world.servers[-1].close()
    time.sleep(0.1)
    ordinary = ordinary_server(lambda stream: None, port=parse_address(url).port)
    assert ordinary == parse_address(url).port
    with pytest.raises(MalformedError) as caught:
        peer.open()
    assert caught.value.code == "certificate-without-evidence"


def test_verified_key_whose_evidence_fails_later_is_refused(world: VerifiedWorld) -> None:
    trust = world.trust
    key = new_key()
    peer = world.peer(world.start(key=key), trust=trust)
    peer.current()
    peer._trust = UserTrust(trust.authors)  # the root is no longer accepted
    with pytest.raises(UntrustedError) as caught:
        peer.open()
    assert caught.value.code == "peer-not-verified"


def ordinary_server(converse: Callable[[TlsStream], None], protocols: tuple[str, ...] = (), port: int = 0) -> int:
    """A TLS server with a certificate that anybody can make, which `converse`s with one client."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from test_certificate import NOW

    key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ordinary")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    context = server_context(
        ssl.DER_cert_to_PEM_cert(certificate.public_bytes(Encoding.DER)),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        protocols,
    )
    listener = socket.create_server(("127.0.0.1", port))

    def run() -> None:
        with listener:
            stream = TlsStream(listener.accept()[0], context, server_side=True)
            try:
                stream.handshake(5)
                converse(stream)
            except KokonError:
                pass
            stream.close()

    threading.Thread(target=run, daemon=True).start()
    return int(listener.getsockname()[1])


def test_ordinary_server_is_refused(world: VerifiedWorld) -> None:
    with pytest.raises(UntrustedError) as caught:
        world.peer(f"https://127.0.0.1:{ordinary_server(lambda stream: None)}").verify()
    assert caught.value.code == "peer-not-attested"


@pytest.mark.parametrize(
    ("raw", "kind", "code"),
    [
        (b"\x00\x10\x00\x01", MalformedError, "frame-too-large"),
        (b"\xff\xff\xff\xff", MalformedError, "frame-too-large"),
        (b"\0\0\0\2{}", MalformedError, "field-missing"),
        (b"\0\0\0\2[]", MalformedError, "frame-malformed"),
        (b'\0\0\0\x28{"error":{"code":"busy","message":"no"}}', DeniedError, "peer-refused"),
        (b"", UnreachableError, "peer-closed"),
        (b"\0\0\0\x09{", UnreachableError, "peer-closed"),
    ],
)
def test_bad_answers_are_refused(world: VerifiedWorld, raw: bytes, kind: type[KokonError], code: str) -> None:
    def converse(stream: TlsStream) -> None:
        stream.read(1000, 5)
        stream.write(raw, 5)

    with pytest.raises(kind) as caught:
        world.peer(f"https://127.0.0.1:{ordinary_server(converse, (ALPN,))}").verify()
    assert caught.value.code == code


def test_answer_that_trickles_is_given_up(world: VerifiedWorld) -> None:
    def converse(stream: TlsStream) -> None:
        stream.read(1000, 5)
        for byte in b"\0\0\1\0" + b" " * 60:
            stream.write(bytes([byte]), 5)
            time.sleep(0.05)

    port = ordinary_server(converse, (ALPN,))
    peer = AttestedPeer(f"https://127.0.0.1:{port}", world.trust, timeout=0.5)
    with pytest.raises(UnreachableError) as caught:
        peer.verify()
    assert caught.value.code == "peer-timeout"


def test_anybody_may_capture_an_answer_that_proves_nothing(world: VerifiedWorld) -> None:
    answer = capture_answer(world.start(), b"c" * 32)
    assert answer.runtime.nonce == b"c" * 32
    assert answer.document == world.document


def test_peer_without_tls_is_said(world: VerifiedWorld) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_plainly() -> None:
        with listener.accept()[0] as sock:
            sock.recv(4096)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer_plainly, daemon=True).start()
    with listener, pytest.raises(UnreachableError) as caught:
        world.peer(f"https://127.0.0.1:{listener.getsockname()[1]}").verify()
    assert caught.value.code == "tls-failed"


def test_nobody_there_is_said(world: VerifiedWorld) -> None:
    with pytest.raises(UnreachableError) as caught:
        world.peer("https://127.0.0.1:1").verify()
    assert caught.value.code == "peer-unreachable"


def test_logs_are_read_after_verification(world: VerifiedWorld) -> None:
    url = world.start()
    asked: list[str | None] = []

    def token(verification: Verification) -> str:
        asked.append(verification.workload)
        return TOKEN

    assert b"".join(world.peer(url).logs(token)) == b"one\n" + b"x" * 100_000
    assert b"".join(world.peer(url).logs(token, follow=True))
    assert asked == ["clinic", "clinic"]
    with pytest.raises(DeniedError) as caught:
        list(world.peer(url).logs(lambda _verification: "wrong"))
    assert (caught.value.code, caught.value.found) == ("peer-refused", "log-token-wrong")
    assert world.peer(url).status() == {"phase": "serving"}


def test_log_token_is_not_even_asked_for_before_verification(world: VerifiedWorld) -> None:
    url = world.start(world.guest(world.context(measurement=b"\1" * 48)))

    def token(_verification: Verification) -> str:
        raise AssertionError("asked for the token")

    with pytest.raises(UntrustedError):
        list(world.peer(url).logs(token))
    with pytest.raises(UntrustedError):
        world.peer(url).status()


@pytest.mark.parametrize("text", ["127.0.0.1:9000", "localhost:0", "[::1]:80"])
def test_loopback_addresses_may_be_listened_on(text: str) -> None:
    host, port = parse_listen(text)
    assert f"{host}:{port}" == text.replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("9000", "listen-malformed"),
        ("127.0.0.1:", "listen-malformed"),
        ("127.0.0.1:99999", "listen-malformed"),
        ("0.0.0.0:80", "listen-not-loopback"),
        ("[::]:80", "listen-not-loopback"),
        ("example.com:80", "listen-not-loopback"),
    ],
)
def test_other_listeners_are_refused(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert caught.value.code == code


def proxied(peer: AttestedPeer) -> tuple[LocalProxy, tuple[str, int], list[KokonError]]:
    reports: list[KokonError] = []
    proxy = LocalProxy(peer, reports.append)
    address = proxy.listen("127.0.0.1", 0)
    threading.Thread(target=proxy.serve, daemon=True).start()
    return proxy, address, reports


def test_proxy_tunnels_each_connection_with_half_close(world: VerifiedWorld) -> None:
    from channel_world import shout

    world.app = Application(shout)
    proxy, address, reports = proxied(world.peer(world.start()))
    for word in (b"one", b"two" * 50_000):
        with socket.create_connection(address) as sock:
            sock.sendall(word)
            sock.shutdown(socket.SHUT_WR)
            received = b""
            while part := sock.recv(65536):
                received += part
            assert received == word.upper()
    assert world.app.connections == 2
    assert reports == []
    with pytest.raises(KokonError) as caught:
        LocalProxy(world.peer("https://a"), reports.append).listen(*address)
    assert caught.value.code == "port-taken"
    proxy.close()
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=1)


def test_proxy_passes_nothing_to_a_guest_that_is_not_verified(world: VerifiedWorld) -> None:
    url = world.start(world.guest(world.context(measurement=b"\1" * 48)))
    proxy, address, reports = proxied(world.peer(url))
    with socket.create_connection(address) as sock:
        sock.sendall(b"patient 7")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(10) == b""
    assert [error.code for error in reports] == ["peer-not-verified"]
    assert world.app.connections == 0
    proxy.close()


def http_app(sock: socket.socket) -> None:
    """A tiny HTTP/1.1 application that keeps connections alive."""
    data = b""
    while part := sock.recv(65536):
        data += part
        while b"\r\n\r\n" in data:
            head, _, data = data.partition(b"\r\n\r\n")
            body = head.split(b" ")[1]
            if body == b"/cut":
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                return
            if body == b"/slow":
                time.sleep(1)
            if body == b"/away":
                sock.sendall(b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n")
            else:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_httpx_client_uses_the_attested_channel(world: VerifiedWorld) -> None:
    world.app = Application(http_app)
    url = world.start()
    with httpx2.Client(transport=AttestedTransport(world.peer(url)), base_url=url, follow_redirects=True) as client:
        assert client.get("/patients/1").text == "/patients/1"
        assert client.get("/patients/2").text == "/patients/2"
        assert world.app.connections == 1  # kept alive
        for other in ("https://evil.example/", url.replace("https", "http")):
            with pytest.raises(UntrustedError) as caught:
                client.get(other)
            assert caught.value.code == "origin-not-attested"
        with pytest.raises(UntrustedError):
            client.get("/away")
        with pytest.raises(httpx2.RemoteProtocolError):
            client.get("/cut")
        with pytest.raises(httpx2.ReadTimeout):
            client.get("/slow", timeout=0.2)


def test_httpx_client_refuses_an_unverified_guest(world: VerifiedWorld) -> None:
    url = world.start(world.guest(world.context(measurement=b"\1" * 48)))
    with httpx2.Client(transport=AttestedTransport(world.peer(url))) as client:
        with pytest.raises(UntrustedError) as caught:
            client.get(url)
        assert caught.value.code == "peer-not-verified"
    assert world.app.connections == 0
    with (
        httpx2.Client(transport=AttestedTransport(world.peer("https://127.0.0.1:1"))) as client,
        pytest.raises(httpx2.ConnectError, match="peer-unreachable"),
    ):
        client.get("https://127.0.0.1:1/")


def test_example_runs(world: VerifiedWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    from kokon.channel.trust import write_trust

    world.app = Application(http_app)
    url = world.start()
    write_trust(tmp_path / "trust.json", world.trust)
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "attested_requests.py"))
    example["main"]([url, "/patients/1", "--trust", str(tmp_path / "trust.json")])
    assert "/patients/1" in capsys.readouterr().out


def test_server_keeps_answering_while_the_application_is_busy(world: VerifiedWorld) -> None:
    world.app = Application(lambda sock: time.sleep(2))
    guest = world.guest()
    key = new_key()
    certificate = make_certificate(key, guest.evidence_for, world.now)
    server = AttestedServer(guest, key, certificate, world.app.connect, limits=Limits(connections=4))
    world.servers.append(server)
    url = "https://{}:{}".format(*server.start("127.0.0.1", 0))
    peer = world.peer(url)
    stream = peer.open()
    assert peer.verify().ok
    stream.close()
