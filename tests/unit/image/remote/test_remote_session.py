"""The registry client against registries that hang, lie, cut, redirect and expire tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from kokon.errors import DeniedError, KokonError, UnreachableError, UntrustedError
from kokon.image.manifest import INDEX_TYPE, MANIFEST_LIMIT, MANIFEST_TYPE, parse_index
from kokon.image.registry import Registry, descriptor_of, extended_index, fallback_tag, hexdigest, manifest_bytes
from kokon.image.remote.settings import Pace, Patience
from kokon.wire import b64
from support.crooked import Asked, CrookedServer, Says
from support.registry import LocalRegistry

DATA = bytes(range(256)) * 5000
DIGEST = hexdigest(DATA)
USER = ("alice", "open sesame")
BASIC = "Basic " + b64(b"alice:open sesame")


class Waits:
    """Counts what the client would have slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def patience(self, **other: object) -> Patience:
        return Patience(sleep=self.slept.append, **{"read": 5, **other})  # type: ignore[arg-type]


def refused(kind: type[KokonError], code: str, action: Callable[[], object]) -> KokonError:
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code
    return caught.value


def client(server: CrookedServer, waits: Waits | None = None, **other: object) -> Registry:
    return Registry(server.url, auth=USER, patience=(waits or Waits()).patience(**other))


def whole(registry: Registry, size: int = len(DATA)) -> bytes:
    return b"".join(registry.blob("a", DIGEST, size))


# Tokens


class TokenService:
    """A registry with a token service; each token lasts for `uses` requests."""

    def __init__(self, uses: int = 1000, token_name: str = "token") -> None:
        self.uses, self.token_name, self.left, self.given = uses, token_name, 0, 0
        self.asked: list[Asked] = []
        self.server = CrookedServer(self.script)
        self.lock = threading.Lock()

    def script(self, asked: Asked) -> Says:
        with self.lock:
            if asked.path.startswith("/token"):
                self.asked.append(asked)
                if asked.method == "GET" and asked.login not in (BASIC, None):
                    return Says(403)
                self.given, self.left = self.given + 1, self.uses
                return Says(200, json.dumps({self.token_name: f"t{self.given}", "expires_in": 60}).encode())
            if asked.login != f"Bearer t{self.given}" or not self.left:
                realm = f'Bearer realm="{self.server.url}/token",service="reg, istry",scope="repository:a:pull"'
                return Says(401, b"{}", {"WWW-Authenticate": realm})
            self.left -= 1
        return self.served(asked)

    def served(self, asked: Asked) -> Says:
        if asked.method == "POST":
            return Says(202, headers={"Location": "/upload/0"})
        if asked.method == "PATCH":
            return Says(202, headers={"Location": "/upload/1"})
        return Says(201) if asked.method == "PUT" else Says(200, DATA)


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_token_is_asked_for_and_kept(name: str) -> None:
    service = TokenService(token_name=name)
    with service.server, client(service.server) as registry:
        assert whole(registry) == whole(registry) == DATA
    assert [asked.login for asked in service.asked] == [BASIC]
    query = httpx2.URL(service.asked[0].path).params
    assert query["service"] == "reg, istry"
    assert query.get_list("scope") == ["repository:a:pull"]


def test_a_token_that_expires_in_the_middle_of_a_push_is_renewed() -> None:
    service = TokenService(uses=2)
    with service.server, client(service.server, piece=100_000) as registry:
        chunks = [DATA[start : start + 50_000] for start in range(0, len(DATA), 50_000)]
        assert registry.upload("a", chunks) == (DIGEST, len(DATA))
    assert service.given > 5
    patched = [asked for asked in service.server.seen if asked.method == "PATCH" and asked.login]
    accepted = {asked.headers.get("content-range", "0"): asked.body for asked in patched}
    assert b"".join(accepted.values()) == DATA
    assert "repository:a:pull,push" in httpx2.URL(service.asked[0].path).params.get_list("scope")


def test_a_token_that_never_works_is_renewed_once() -> None:
    service = TokenService(uses=0)
    with service.server, client(service.server) as registry:
        refused(DeniedError, "registry-denied", lambda: registry.manifest("a", "t"))
        assert service.given == 1
        refused(DeniedError, "registry-denied", lambda: registry.manifest("a", "t"))
        assert service.given == 2


def test_an_identity_token_is_exchanged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = TokenService(token_name="access_token")
    with service.server as server:
        host = server.url.removeprefix("http://")
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"identitytoken": "refresh & me"}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        with Registry(server.url) as registry:
            assert whole(registry) == DATA
    form = httpx2.QueryParams(service.asked[0].body.decode())
    assert service.asked[0].method == "POST"
    assert form["grant_type"] == "refresh_token"
    assert form["refresh_token"] == "refresh & me"
    assert form["scope"] == "repository:a:pull"


def test_threads_share_one_token() -> None:
    service = TokenService()
    with service.server, client(service.server) as registry:
        threads = [threading.Thread(target=whole, args=(registry,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert service.given == 1


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (Says(500), UnreachableError, "token-service-failed"),
        (Says(401), DeniedError, "registry-denied"),
        (Says(302, headers={"Location": "http://127.0.0.1:1/"}), UnreachableError, "token-service-failed"),
        (Says(200, b"{}"), UnreachableError, "token-service-failed"),
        (Says(200, b"[]"), UnreachableError, "token-service-failed"),
        (Says(200, b'{"token":"a\\nX: y"}'), UnreachableError, "token-service-failed"),
        (Says(200, bytes(1 << 19)), UnreachableError, "token-service-failed"),
    ],
)
def test_token_services_that_fail(answer: Says, kind: type[KokonError], code: str) -> None:
    def script(asked: Asked) -> Says:
        if asked.path.startswith("/token"):
            return answer
        return Says(401, headers={"WWW-Authenticate": f'Bearer realm="{server.url}/token"'})

    with CrookedServer(script) as server, client(server) as registry:
        error = refused(kind, code, lambda: registry.manifest("a", "t"))
    assert "sesame" not in repr(error.as_dict())


def test_a_login_is_not_sent_to_a_token_service_without_tls() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.host == "registry.example"
        return httpx2.Response(401, headers={"WWW-Authenticate": 'Bearer realm="http://evil.example/token"'})

    with mocked(answer) as registry:
        refused(UntrustedError, "token-service-downgraded", lambda: registry.manifest("a", "t"))


def mocked(answer: Callable[[httpx2.Request], httpx2.Response]) -> Registry:
    return Registry("https://registry.example", auth=USER, client=httpx2.Client(transport=httpx2.MockTransport(answer)))


def test_a_password_is_sent_only_after_it_was_asked_for() -> None:
    def script(asked: Asked) -> Says:
        if asked.login == BASIC:
            return Says(200, DATA)
        return Says(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    with CrookedServer(script) as server, client(server) as registry:
        assert whole(registry) == DATA
    assert [asked.login for asked in server.seen] == [None, BASIC]
    with (
        CrookedServer(lambda _: Says(401, headers={"WWW-Authenticate": "Basic"})) as server,
        client(server) as registry,
    ):
        refused(DeniedError, "registry-denied", lambda: registry.manifest("a", "t"))
    assert [asked.login for asked in server.seen] == [None, BASIC]


# Redirects


def test_credentials_do_not_follow_a_redirect_and_do_not_come_back() -> None:
    def elsewhere(asked: Asked) -> Says:
        return Says(307, headers={"Location": f"{home.url}/back"})

    def script(asked: Asked) -> Says:
        if asked.path == "/back":
            return Says(200, DATA)
        if asked.login is None:
            return Says(401, headers={"WWW-Authenticate": "Basic"})
        return Says(307, headers={"Location": f"{foreign.url}/storage"})

    with CrookedServer(elsewhere) as foreign, CrookedServer(script) as home, client(home) as registry:
        assert whole(registry) == DATA
    assert [asked.login for asked in home.seen] == [None, BASIC, None]
    assert [asked.login for asked in foreign.seen] == [None]


def test_a_foreign_host_that_asks_for_a_login_gets_none() -> None:
    with (
        CrookedServer(lambda _: Says(401, headers={"WWW-Authenticate": "Basic"})) as foreign,
        CrookedServer(lambda _: Says(307, headers={"Location": foreign.url})) as home,
        client(home) as registry,
    ):
        refused(DeniedError, "registry-denied", lambda: registry.manifest("a", "t"))
    assert [asked.login for asked in foreign.seen] == [None]


@pytest.mark.parametrize("location", ["http://registry.example/x", "file:///etc/passwd", "ftp://x/y"])
def test_a_redirect_does_not_lead_away_from_tls(location: str) -> None:
    with mocked(lambda _: httpx2.Response(302, headers={"Location": location})) as registry:
        refused(UntrustedError, "redirect-downgraded", lambda: registry.manifest("a", "t"))


# Lies


@pytest.mark.parametrize(
    "says",
    [
        Says(200, DATA[:-1]),
        Says(200, DATA + b"x"),
        Says(200, DATA[:-1], length=None),
        Says(200, DATA + b"x", length=None),
        Says(200, DATA[:-1] + b"x"),
        Says(200, b"", length=1 << 40),
    ],
)
def test_blobs_that_are_not_what_they_should_be(says: Says) -> None:
    with CrookedServer(lambda _: says) as server, client(server) as registry:
        refused(UntrustedError, "blob-digest-mismatch", lambda: whole(registry))


def test_a_huge_manifest_is_refused_before_it_is_read() -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            taken.append(1)
            yield bytes(1 << 20)

    said = Says(200, length=100 << 20, hang=True)
    with CrookedServer(lambda _: said) as server, client(server) as registry:
        refused(UnreachableError, "registry-error", lambda: registry.manifest("a", "t"))
    with (
        CrookedServer(lambda _: Says(200, length=None, parts=endless())) as server,
        client(server) as registry,
    ):
        refused(UnreachableError, "registry-error", lambda: registry.manifest("a", "t"))
    assert len(taken) < 3 * MANIFEST_LIMIT >> 20


def test_a_registry_that_hangs() -> None:
    with (
        CrookedServer(lambda _: Says(200, DATA, hang=True)) as server,
        client(server, read=0.2) as registry,
    ):
        refused(UnreachableError, "registry-unreachable", lambda: registry.manifest("a", "t"))
        refused(UnreachableError, "registry-unreachable", lambda: whole(registry))


def test_a_registry_that_drips() -> None:
    times = iter(range(0, 10_000, 100))
    with (
        CrookedServer(lambda _: Says(200, DATA[:10], length=len(DATA))) as server,
        client(server, clock=lambda: next(times)) as registry,
    ):
        refused(UnreachableError, "registry-too-slow", lambda: registry.manifest("a", "t"))
        refused(UnreachableError, "registry-too-slow", lambda: whole(registry))


def test_the_pace_is_that_of_each_window() -> None:
    now = [0.0]
    pace = Pace(Patience(clock=lambda: now[0], window=10, rate=100))
    now[0] = 10
    pace.took(1_000_000)
    now[0] = 19
    pace.took(1)
    now[0] = 20
    refused(UnreachableError, "registry-too-slow", lambda: pace.took(1))


# Cuts and retries


def test_a_pull_goes_on_after_cuts() -> None:
    def script(asked: Asked) -> Says:
        start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        part = DATA[start : start + 400_000]
        headers = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
        return Says(206 if start else 200, part, headers, length=len(DATA) - start)

    with CrookedServer(script) as server, client(server, piece=300_000) as registry:
        assert whole(registry) == DATA
    assert [asked.headers.get("range") for asked in server.seen] == [
        None,
        "bytes=400000-",
        "bytes=800000-",
        "bytes=1200000-",
    ]


def test_a_pull_goes_on_where_ranges_are_ignored() -> None:
    answers = iter([Says(200, DATA[:500_000], length=len(DATA)), Says(200, DATA)])
    with CrookedServer(lambda _: next(answers)) as server, client(server) as registry:
        assert whole(registry) == DATA


@pytest.mark.parametrize("said", [f"bytes 7-{len(DATA) - 1}/{len(DATA)}", f"bytes 500000-{len(DATA)}/5", "", "bytes x"])
def test_a_pull_that_goes_on_elsewhere_is_refused(said: str) -> None:
    answers = iter(
        [
            Says(200, DATA[:500_000], length=len(DATA)),
            Says(206, DATA[500_000:], {"Content-Range": said}),
        ]
    )
    with CrookedServer(lambda _: next(answers)) as server, client(server) as registry:
        refused(UntrustedError, "blob-digest-mismatch", lambda: whole(registry))


def test_a_pull_that_is_cut_again_and_again_ends() -> None:
    waits = Waits()
    with CrookedServer(lambda _: Says(200, DATA[:10], length=len(DATA))) as server, client(server, waits) as registry:
        refused(UnreachableError, "registry-unreachable", lambda: whole(registry))
    assert len(server.seen) == 4
    assert waits.slept == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(("said", "waited"), [("7", 7), ("999999", 30), ("1e9", 0.2), ("-5", 0.2), ("soon", 0.2)])
def test_retry_after_is_heeded_and_bounded(said: str, waited: float) -> None:
    answers = iter([Says(429, headers={"Retry-After": said}), Says(200, b"{}")] * 2)
    waits = Waits()
    with CrookedServer(lambda _: next(answers)) as server, client(server, waits) as registry:
        assert registry.manifest("a", "t") == (b"{}", "")
        refused(UntrustedError, "blob-digest-mismatch", lambda: whole(registry))
    assert waits.slept == [waited, waited]


def test_a_registry_that_stays_busy() -> None:
    waits = Waits()
    with CrookedServer(lambda _: Says(503)) as server, client(server, waits) as registry:
        refused(UnreachableError, "registry-error", lambda: registry.manifest("a", "t"))
        refused(UnreachableError, "registry-error", lambda: whole(registry))
    assert waits.slept == [0.2, 0.4, 0.8] * 2


class Uploads:
    """Takes uploads, and cuts or fails where `faults` says so: by number of the PATCH, how much of it is kept."""

    def __init__(self, faults: dict[int, tuple[int, int]]) -> None:
        self.kept, self.faults, self.patches, self.puts = b"", faults, 0, 0

    def script(self, asked: Asked) -> Says:
        place = {"Location": "/upload", "Range": f"0-{max(len(self.kept) - 1, 0)}"}
        if asked.method == "POST":
            return Says(202, headers=place)
        if asked.method == "PATCH":
            self.patches += 1
            status, keep = self.faults.get(self.patches, (202, len(asked.body)))
            self.kept += asked.body[:keep]
            return Says(status, headers=place)
        if asked.method == "PUT":
            self.puts += 1
            return Says(404 if self.puts > 1 else self.faults.get(0, (201, 0))[0])
        return Says(204 if asked.method == "GET" else 200, headers=place)


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_a_push_goes_on_after_a_failure(kept: int) -> None:
    uploads = Uploads({3: (500, kept)})
    with CrookedServer(uploads.script) as server, client(server, piece=100_000) as registry:
        chunks = [DATA[start : start + 10_000] for start in range(0, len(DATA), 10_000)]
        assert registry.upload("a", chunks) == (DIGEST, len(DATA))
    assert uploads.kept == DATA


def test_an_end_of_a_push_whose_answer_is_lost() -> None:
    uploads = Uploads({0: (502, 0)})
    with CrookedServer(uploads.script) as server, client(server) as registry:
        assert registry.upload("a", [DATA]) == (DIGEST, len(DATA))
    assert [asked.method for asked in server.seen][-3:] == ["PUT", "PUT", "HEAD"]


def test_a_registry_that_loses_what_was_pushed() -> None:
    uploads = Uploads({2: (500, 0)})
    script = uploads.script

    def forgetful(asked: Asked) -> Says:
        if asked.method == "GET":
            uploads.kept = b""
        return script(asked)

    with CrookedServer(forgetful) as server, client(server, piece=100_000) as registry:
        refused(UnreachableError, "registry-error", lambda: registry.upload("a", [DATA[:100_000], DATA[100_000:]]))
    assert not any(asked.method == "PUT" for asked in server.seen)


# Against a real registry


def test_pieces_and_mounts(server: LocalRegistry) -> None:
    with Registry(server.url, patience=Patience(piece=300_000)) as registry:
        chunks = [DATA[start : start + 70_000] for start in range(0, len(DATA), 70_000)]
        assert registry.upload("pieces", chunks) == (DIGEST, len(DATA))
        assert b"".join(registry.blob("pieces", DIGEST, len(DATA))) == DATA
        assert not registry.has_blob("mounted", DIGEST)
        assert registry.mount("mounted", DIGEST, "pieces")
        assert registry.has_blob("mounted", DIGEST)
        assert not registry.mount("mounted", "sha256:" + "0" * 64, "pieces")


# Referrers


def entry(number: int, kind: str) -> dict[str, object]:
    return {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{number:064x}",
        "size": number,
        "artifactType": kind,
    }


def test_referrers_come_in_pages() -> None:
    def script(asked: Asked) -> Says:
        page = int(httpx2.URL(asked.path).params.get("page", "0"))
        body = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry(page, f"k/{page % 2}")]}
        headers = {"Content-Type": INDEX_TYPE}
        if page < 3 or endless:
            headers["Link"] = f'<{asked.path.partition("?")[0]}?page={page + 1}>; rel="next"'
        return Says(200, json.dumps(body).encode(), headers)

    endless = False
    with CrookedServer(script) as server, client(server) as registry:
        assert [found.descriptor.size for found in registry.referrers("a", DIGEST)] == [0, 1, 2, 3]
        assert [found.descriptor.size for found in registry.referrers("a", DIGEST, "k/1")] == [1, 3]
        assert server.seen[4].path.endswith("?artifactType=k%2F1")
        endless = True
        refused(UnreachableError, "registry-error", lambda: registry.referrers("a", DIGEST))


def test_an_entry_that_another_writer_overwrote_is_written_again(registry: Registry) -> None:
    """Between our writing and our reading, another writer puts an index without our entry."""
    registry.upload_bytes("race", b"{}")
    image = manifest_bytes(descriptor_of("a/b", b"{}"), [])
    registry.put_manifest("race", "t", image)
    subject = descriptor_of(MANIFEST_TYPE, image)
    theirs = manifest_bytes(descriptor_of("c/d", b"{}"), [], subject=subject)
    registry.put_manifest("race", hexdigest(theirs), theirs)
    tag, put = fallback_tag(subject.digest), registry.put_manifest
    overwritten: list[str] = []

    def with_rival(repository: str, pointer: str, data: bytes, media_type: str = MANIFEST_TYPE) -> str:
        digest = put(repository, pointer, data, media_type)
        if pointer == tag and not overwritten:
            overwritten.append(pointer)
            rival = extended_index(None, descriptor_of(MANIFEST_TYPE, theirs))
            put(repository, pointer, rival or b"", INDEX_TYPE)
        return digest

    registry.put_manifest = with_rival  # type: ignore[method-assign]
    ours = registry.attach("race", subject, "e/f", b"blob", "text/plain")
    found = registry.manifest("race", tag)
    assert found is not None
    assert overwritten
    assert {e.descriptor.digest for e in parse_index(found[0])} == {ours, hexdigest(theirs)}
