"""The author's and owner's registry client: pull, push, attach. Synchronous, streaming, constant memory.

OCI distribution-spec 1.1, with the tag fallback for referrers that registries older than 1.1 need. How it speaks HTTP
(logins, tokens, retries, redirects) is in `kokon.image.remote`. The guest has a smaller client of its own
(`kokon.image.fetch`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from kokon.errors import UnreachableError, UntrustedError
from kokon.image.manifest import ACCEPTED, INDEX_TYPE, MANIFEST_LIMIT, MANIFEST_TYPE, parse_index
from kokon.image.remote.authorize import Access
from kokon.image.remote.documents import EMPTY, descriptor_of, extended_index, fallback_tag, hexdigest, manifest_bytes
from kokon.image.remote.login import Login, find_login
from kokon.image.remote.session import Request, Session
from kokon.image.remote.settings import Patience
from kokon.image.remote.store import ImageStore
from kokon.image.remote.transfer import mount, pull, push

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from kokon.image.manifest import IndexEntry
    from kokon.image.remote.session import Reply

__all__ = ["EMPTY", "Registry", "descriptor_of", "extended_index", "fallback_tag", "hexdigest", "manifest_bytes"]

PAGES_LIMIT = 64


class Registry(ImageStore):
    """One registry at `url`. `auth` is a login of its own; without one, the logins that Docker and Podman keep are
    used when the registry asks. `client` may bring its own transport (tests, proxies); it is closed with the registry.
    Methods may be called by several threads.

    Every method raises `UnreachableError` (`registry-unreachable`, `registry-error`, `registry-too-slow`,
    `token-service-failed`), `DeniedError` (`registry-denied`), `UntrustedError` (`redirect-downgraded`,
    `token-service-downgraded`), and what `find_login` raises.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        client: httpx2.Client | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience or Patience()
        timeout = httpx2.Timeout(self.patience.read, connect=self.patience.connect)
        self._client = client or httpx2.Client(timeout=timeout)
        self._session = Session(self.url, self._client, self._finder(auth), self.patience)

    def _finder(self, auth: tuple[str, str] | None) -> Callable[[str], Login | None]:
        if auth is not None:
            login = Login(*auth)
            return lambda _: login
        host = self.url.partition("://")[2]
        return lambda repository: find_login(host, repository)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def manifest(self, repository: str, pointer: str) -> tuple[bytes, str] | None:
        """The manifest or index behind a tag or digest and its media type; None if there is none.

        Asked for by digest, it has that digest: else `UntrustedError` (`image-digest-mismatch`).
        """
        headers = {"Accept": ", ".join(ACCEPTED)}
        request = Request("GET", self._url(repository, "manifests", pointer), Access(repository), headers)
        reply = self._session.exchange(request, MANIFEST_LIMIT)
        if reply.status == 404:
            return None
        self._expect("GET", reply, 200)
        if pointer.startswith("sha256:") and hexdigest(reply.body) != pointer:
            raise UntrustedError(
                "image-digest-mismatch",
                "the registry serves another manifest",
                expected=pointer,
                found=hexdigest(reply.body),
            )
        return reply.body, reply.headers.get("Content-Type", "")

    def put_manifest(self, repository: str, pointer: str, data: bytes, media_type: str = MANIFEST_TYPE) -> str:
        """Store a manifest or index under a tag or its digest; answers its digest."""
        self._put_manifest(repository, pointer, data, media_type)
        return hexdigest(data)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has this blob."""
        reply = self._session.exchange(Request("HEAD", self._url(repository, "blobs", digest), Access(repository)))
        if reply.status == 404:
            return False
        self._expect("HEAD", reply, 200)
        return True

    def blob(self, repository: str, digest: str, size: int) -> Iterator[bytes]:
        """The blob in chunks; before the end `UntrustedError` (`blob-digest-mismatch`) unless it is right.

        Goes on after a cut.
        """
        return pull(self._session, repository, digest, size)

    def upload(self, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stream a blob whose digest is known only at its end; answers digest and size. Goes on after a cut."""
        return push(self._session, repository, chunks)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Let the repository have a blob of the repository `source` without sending it; False if that failed."""
        return mount(self._session, repository, digest, source)

    def referrers(self, repository: str, digest: str, artifact_type: str | None = None) -> tuple[IndexEntry, ...]:
        """What refers to the manifest `digest`: from the referrers API, page by page, else from the fallback tag.

        `artifact_type` leaves out the others; the registry is asked to, and it is done here again.
        """
        url = httpx2.URL(self._url(repository, "referrers", digest))
        found = self._referrers(repository, url if artifact_type is None else _with_type(url, artifact_type))
        if found is None:
            return super().referrers(repository, digest, artifact_type)
        return tuple(entry for entry in found if artifact_type in (None, entry.descriptor.artifact_type))

    def _referrers(self, repository: str, url: httpx2.URL) -> tuple[IndexEntry, ...] | None:
        """All pages of the referrers API, or None where there is no such thing."""
        found: list[IndexEntry] = []
        for page in range(PAGES_LIMIT):
            reply = self._session.exchange(Request("GET", url, Access(repository)), MANIFEST_LIMIT)
            if reply.status != 200 or not reply.headers.get("Content-Type", "").startswith(INDEX_TYPE):
                self._expect("GET", reply, *((200, 404) if page == 0 else (200,)))
                return None
            found += parse_index(reply.body)
            following = reply.headers.get("Link", "")[:4096].partition(">")
            if not following[0].startswith("<") or 'rel="next"' not in following[2]:
                return tuple(found)
            url = reply.url.join(following[0][1:])
        raise UnreachableError("registry-error", f"the registry {self.url} has no end of referrers")

    def push_referrer(self, repository: str, data: bytes) -> bool:
        """Push a manifest that refers to another one; whether the registry has put it among the referrers itself."""
        return "OCI-Subject" in self._put_manifest(repository, hexdigest(data), data, MANIFEST_TYPE).headers

    def _put_manifest(self, repository: str, pointer: str, data: bytes, media_type: str) -> Reply:
        url = self._url(repository, "manifests", pointer)
        access = Access(repository, write=True)
        reply = self._session.exchange(Request("PUT", url, access, {"Content-Type": media_type}, (data,)))
        self._expect("PUT", reply, 201)
        return reply

    def _url(self, repository: str, kind: str, name: str) -> str:
        return f"{self.url}/v2/{repository}/{kind}/{name}"

    def _expect(self, method: str, reply: Reply, *statuses: int) -> None:
        self._session.expect(reply.status, f"{method} {reply.url.path}", *statuses)


def _with_type(url: httpx2.URL, artifact_type: str) -> httpx2.URL:
    return url.copy_merge_params({"artifactType": artifact_type})
