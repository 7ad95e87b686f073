"""The guest's pull client against a registry that is broken or hostile."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kokon.errors import DeniedError, HostError, KokonError, UnreachableError, UntrustedError, UsageError
from kokon.image.fetch import Fetcher, hexdigest
from kokon.image.manifest import INDEX_TYPE, MANIFEST_LIMIT
from support.scripted import Answer, ScriptedServer

BLOB = b"ciphertext" * 1000
DIGEST = hexdigest(BLOB)


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> KokonError:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def always(answer: Answer) -> Callable[[str, str], Answer]:
    return lambda method, path: answer


def test_statuses() -> None:
    for status, kind, code in (
        (401, DeniedError, "registry-denied"),
        (403, DeniedError, "registry-denied"),
        (500, UnreachableError, "registry-error"),
        (302, UnreachableError, "registry-error"),
    ):
        with ScriptedServer(always(Answer(status))) as server, Fetcher(server.url, "a/b") as fetcher:
            refused(kind, code, lambda: fetcher.tagged("x"))
    with ScriptedServer(always(Answer(404))) as server, Fetcher(server.url, "a/b") as fetcher:
        assert fetcher.tagged("x") is None
        assert fetcher.referrers(DIGEST) is None
        refused(UnreachableError, "image-not-found", lambda: fetcher.manifest(DIGEST))
        refused(UntrustedError, "blob-digest-mismatch", lambda: fetcher.blob(DIGEST, 10, 10))
        assert ("GET", f"/v2/a/b/referrers/{DIGEST}") in server.seen
        assert ("GET", f"/v2/a/b/manifests/{DIGEST.replace(':', '-')}") in server.seen


def test_another_manifest_and_another_blob() -> None:
    with ScriptedServer(always(Answer(200, b"{}"))) as server, Fetcher(server.url, "a/b") as fetcher:
        refused(UntrustedError, "image-digest-mismatch", lambda: fetcher.manifest(DIGEST))
        refused(UntrustedError, "blob-digest-mismatch", lambda: fetcher.blob(DIGEST, 2, 10))
        refused(UntrustedError, "blob-digest-mismatch", lambda: fetcher.blob(DIGEST, 11, 10))
        assert fetcher.blob(hexdigest(b"{}"), 2, 10) == b"{}"


def test_answers_without_end() -> None:
    large = Answer(200, bytes(MANIFEST_LIMIT + 1))
    with ScriptedServer(always(large)) as server, Fetcher(server.url, "a/b") as fetcher:
        refused(UnreachableError, "registry-error", lambda: fetcher.tagged("x"))


def test_referrers_api_counts_only_if_it_is_an_index() -> None:
    def script(method: str, path: str) -> Answer:
        if "/referrers/" in path:
            return Answer(200, b"page", {"Content-Type": "text/html"})
        return Answer(200, b"index", {"Content-Type": INDEX_TYPE})

    with ScriptedServer(script) as server, Fetcher(server.url, "a/b") as fetcher:
        assert fetcher.referrers(DIGEST) == b"index"
    with (
        ScriptedServer(always(Answer(200, b"api", {"Content-Type": INDEX_TYPE}))) as server,
        Fetcher(server.url, "a/b") as fetcher,
    ):
        assert fetcher.referrers(DIGEST) == b"api"


def test_redirects_are_followed_but_not_forever() -> None:
    def script(method: str, path: str) -> Answer:
        if path == "/storage/blob?sig=1":
            return Answer(200, BLOB)
        return Answer(307, b"", {"Location": "/storage/blob?sig=1"})

    with ScriptedServer(script) as server, Fetcher(server.url, "a/b") as fetcher:
        assert fetcher.blob(DIGEST, len(BLOB), len(BLOB)) == BLOB
    with ScriptedServer(always(Answer(307, b"", {"Location": "/again"}))) as server:
        fetcher = Fetcher(server.url, "a/b")
        refused(UnreachableError, "registry-error", lambda: fetcher.tagged("x"))
        assert len(server.seen) == 6
    with ScriptedServer(always(Answer(307, b"", {"Location": "file:///etc/passwd"}))) as server:
        fetcher = Fetcher(server.url, "a/b")
        refused(UsageError, "registry-url", lambda: fetcher.tagged("x"))


def test_transfer_that_breaks_off_is_tried_again(tmp_path: Path) -> None:
    left = [Answer(200, BLOB, cut=100), Answer(200, BLOB, cut=200, chunked=True), Answer(200, BLOB)]
    progress: list[int] = []
    with (
        ScriptedServer(lambda method, path: left.pop(0)) as server,
        Fetcher(server.url, "a/b") as fetcher,
    ):
        fetcher.blob_to_file(DIGEST, len(BLOB), tmp_path / "f", lambda done, total: progress.append(done))
    assert (tmp_path / "f").read_bytes() == BLOB
    assert progress[-1] == len(BLOB)


@pytest.mark.parametrize("chunked", [True, False])
def test_transfer_that_always_breaks_off(tmp_path: Path, chunked: bool) -> None:
    broken = Answer(200, BLOB, cut=100, chunked=chunked)
    with ScriptedServer(always(broken)) as server, Fetcher(server.url, "a/b") as fetcher:
        refused(
            UnreachableError,
            "registry-unreachable",
            lambda: fetcher.blob_to_file(DIGEST, len(BLOB), tmp_path / "f"),
        )
        refused(UnreachableError, "registry-unreachable", lambda: fetcher.tagged("x"))
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("body", [BLOB[:-1], BLOB + b"x", BLOB[:-1] + b"X", BLOB * 500])
def test_another_layer(tmp_path: Path, body: bytes) -> None:
    with ScriptedServer(always(Answer(200, body))) as server, Fetcher(server.url, "a/b") as fetcher:
        refused(
            UntrustedError,
            "layer-digest-mismatch",
            lambda: fetcher.blob_to_file(DIGEST, len(BLOB), tmp_path / "f"),
        )
    assert not (tmp_path / "f").exists()


def test_nowhere_to_put_it(tmp_path: Path) -> None:
    with ScriptedServer(always(Answer(200, BLOB))) as server, Fetcher(server.url, "a/b") as fetcher:
        refused(
            HostError,
            "disk-failed",
            lambda: fetcher.blob_to_file(DIGEST, len(BLOB), tmp_path / "absent/f"),
        )


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        error = refused(
            UnreachableError,
            "registry-unreachable",
            lambda: Fetcher(f"http://127.0.0.1:{port}", "a").tagged("x"),
        )
        assert error.hint


def test_idle_connection_that_the_server_closed_is_replaced() -> None:
    with ScriptedServer(always(Answer(200, b"{}"))) as server, Fetcher(server.url, "a") as fetcher:
        assert fetcher.tagged("x") is not None
        for connection in fetcher._connections.values():
            assert connection.sock is not None
            connection.sock.shutdown(socket.SHUT_RDWR)
        assert fetcher.tagged("x") is not None


@pytest.mark.parametrize(
    "url", ["ftp://h", "h:5000", "http://", "http://h:port", "http://u:p@h", "http://h:99999", "http://[::1"]
)
def test_urls(url: str) -> None:
    refused(UsageError, "registry-url", lambda: Fetcher(url, "a"))


def test_tls_is_checked_and_never_left() -> None:
    with ScriptedServer(always(Answer(200, b"{}"))) as server:
        for scheme in ("https", "HTTPS"):
            fetcher = Fetcher(f"{scheme}://127.0.0.1:{server.port}", "a")
            error = refused(UnreachableError, "registry-unreachable", partial(fetcher.tagged, "x"))
            assert isinstance(error.__cause__, ssl.SSLError)
    from kokon.image.fetch import _redirect

    refused(UnreachableError, "registry-error", lambda: _redirect("https://a/b", "http://a/b"))
    refused(UnreachableError, "registry-error", lambda: _redirect("HTTPS://a/b", "http://a/b"))
