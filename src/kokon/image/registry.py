"""The author's and owner's registry client: pull, push, attach. Synchronous, streaming, constant memory.

OCI distribution-spec 1.1, with the tag fallback for referrers that registries older than 1.1 need. How it speaks HTTP
(logins, tokens, retries, redirects) is in `kokon.image.remote`. The guest has a smaller client of its own
(`kokon.image.fetch`).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import httpx2

from kokon.errors import UnreachableError, UntrustedError
from kokon.image.manifest import (
    ACCEPTED,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_LIMIT,
    MANIFEST_TYPE,
    Descriptor,
    parse_index,
)
from kokon.image.remote.authorize import Access
from kokon.image.remote.login import Login, find_login
from kokon.image.remote.session import Request, Session
from kokon.image.remote.settings import Patience
from kokon.image.remote.transfer import mount, pull, push
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from kokon.image.manifest import IndexEntry
    from kokon.image.remote.session import Reply

PAGES_LIMIT = 64
EMPTY = b"{}"


def descriptor_of(media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """The descriptor of `data`."""
    return Descriptor(media_type, hexdigest(data), len(data), annotations or {})


def hexdigest(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def manifest_bytes(
    config: Descriptor,
    layers: Iterable[Descriptor],
    *,
    artifact_type: str | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """An OCI image manifest as JSON bytes."""
    members: dict[str, object] = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}
    if artifact_type:
        members["artifactType"] = artifact_type
    members["config"] = config.as_dict()
    members["layers"] = [layer.as_dict() for layer in layers]
    if subject:
        members["subject"] = subject.as_dict()
    if annotations:
        members["annotations"] = dict(annotations)
    return json.dumps(members, separators=(",", ":")).encode()


class Registry:
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

    def blob_bytes(self, repository: str, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob of at most `limit` bytes. Raises as `blob` does."""
        if descriptor.size > limit:
            raise UntrustedError(
                "blob-digest-mismatch", "a blob is too large", expected=f"<= {limit} bytes", found=descriptor.size
            )
        return b"".join(self.blob(repository, descriptor.digest, descriptor.size))

    def upload(self, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stream a blob whose digest is known only at its end; answers digest and size. Goes on after a cut."""
        return push(self._session, repository, chunks)

    def upload_bytes(self, repository: str, data: bytes) -> None:
        """Store a small blob, unless it is there."""
        if not self.has_blob(repository, hexdigest(data)):
            self.upload(repository, [data])

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
            data = self.manifest(repository, fallback_tag(digest))
            found = () if data is None else parse_index(data[0])
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

    def attach(self, repository: str, subject: Descriptor, artifact_type: str, blob: bytes, blob_type: str) -> str:
        """Push `blob` as an artifact that refers to `subject`; answers the digest of its manifest."""
        self.upload_bytes(repository, EMPTY)
        self.upload_bytes(repository, blob)
        config = descriptor_of(EMPTY_TYPE, EMPTY)
        layers = [descriptor_of(blob_type, blob)]
        plain = Descriptor(subject.media_type, subject.digest, subject.size)
        data = manifest_bytes(config, layers, artifact_type=artifact_type, subject=plain)
        return self.attach_manifest(repository, subject.digest, artifact_type, data)

    def attach_manifest(
        self,
        repository: str,
        subject: str,
        artifact_type: str,
        data: bytes,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """Push a manifest whose blobs are there and whose `subject` has that digest; answers its own digest.

        Where the registry does not index referrers itself, the fallback tag is read, extended and written
        (distribution-spec 1.1, "Pushing Manifests with Subject"). If another writer was faster it is done once more;
        no registry offers a condition for writing, so a third may still lose an entry.
        """
        reply = self._put_manifest(repository, hexdigest(data), data, MANIFEST_TYPE)
        if "OCI-Subject" not in reply.headers:
            added = Descriptor(MANIFEST_TYPE, hexdigest(data), len(data), annotations or {}, artifact_type)
            for _ in range(2):
                if self._extend_index(repository, subject, added):
                    break
        return hexdigest(data)

    def _extend_index(self, repository: str, subject: str, added: Descriptor) -> bool:
        """Put `added` into the fallback index; whether it is there afterwards. Other entries stay as they are."""
        tag = fallback_tag(subject)
        written = extended_index(found[0] if (found := self.manifest(repository, tag)) else None, added)
        if written is None:
            return True
        self.put_manifest(repository, tag, written, INDEX_TYPE)
        now = self.manifest(repository, tag)
        return now is not None and added.digest in {entry.descriptor.digest for entry in parse_index(now[0])}

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


def extended_index(index: bytes | None, added: Descriptor) -> bytes | None:
    """An index of referrers with `added` in it, or None if it is there already. Other members stay untouched."""
    members: list[object] = []
    if index is not None:
        if added.digest in {entry.descriptor.digest for entry in parse_index(index)}:
            return None
        members = parse_json(index, limit=MANIFEST_LIMIT, what="index")["manifests"]
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*members, added.as_dict()]}
    return json.dumps(document, separators=(",", ":")).encode()


def _with_type(url: httpx2.URL, artifact_type: str) -> httpx2.URL:
    return url.copy_merge_params({"artifactType": artifact_type})


def fallback_tag(digest: str) -> str:
    """The tag under which old registries keep the referrers of a manifest."""
    return digest.replace(":", "-", 1)
