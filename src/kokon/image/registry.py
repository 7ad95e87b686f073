"""The author's and owner's registry client: pull, push, attach. Synchronous, streaming, constant memory.

OCI distribution-spec 1.1, with the tag fallback for referrers that registries older than 1.1 need. Anonymous or with
basic authentication. The guest has a smaller client of its own (`kokon.image.fetch`).
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2

from kokon.errors import DeniedError, UnreachableError, UntrustedError
from kokon.image.manifest import (
    ACCEPTED,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_LIMIT,
    MANIFEST_TYPE,
    Descriptor,
    parse_index,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from kokon.image.manifest import IndexEntry

CHUNK = 1 << 20
TIMEOUT = httpx2.Timeout(60, connect=10)
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
    """One registry at `url`. `client` may bring its own transport (tests, proxies); it is closed with the registry.

    Every method raises `UnreachableError` (`registry-unreachable`, `registry-error`) and `DeniedError`
    (`registry-denied`).
    """

    def __init__(self, url: str, *, auth: tuple[str, str] | None = None, client: httpx2.Client | None = None) -> None:
        self.url = url.rstrip("/")
        self._origin = _origin(httpx2.URL(self.url))
        self._client = client or httpx2.Client(timeout=TIMEOUT, follow_redirects=True, auth=auth)

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
        url = self._url(repository, "manifests", pointer)
        with self._stream("GET", url, headers={"Accept": ", ".join(ACCEPTED)}) as response:
            if response.status_code == 404:
                return None
            self._expect(response, 200)
            data = _bounded(response, MANIFEST_LIMIT)
            media_type = response.headers.get("Content-Type", "")
        if pointer.startswith("sha256:") and hexdigest(data) != pointer:
            raise UntrustedError(
                "image-digest-mismatch",
                "the registry serves another manifest",
                expected=pointer,
                found=hexdigest(data),
            )
        return data, media_type

    def put_manifest(self, repository: str, pointer: str, data: bytes, media_type: str = MANIFEST_TYPE) -> str:
        """Store a manifest or index under a tag or its digest; answers its digest."""
        url = self._url(repository, "manifests", pointer)
        with self._stream("PUT", url, content=data, headers={"Content-Type": media_type}) as response:
            self._expect(response, 201)
        return hexdigest(data)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has this blob."""
        with self._stream("HEAD", self._url(repository, "blobs", digest)) as response:
            if response.status_code == 404:
                return False
            self._expect(response, 200)
            return True

    def blob(self, repository: str, digest: str, size: int) -> Iterator[bytes]:
        """The blob in chunks; after the last one `UntrustedError` (`blob-digest-mismatch`) unless it is right."""
        running, total = hashlib.sha256(), 0
        with self._stream("GET", self._url(repository, "blobs", digest)) as response:
            self._expect(response, 200)
            for chunk in response.iter_raw(CHUNK):
                total += len(chunk)
                if total > size:
                    break
                running.update(chunk)
                yield chunk
        found = "sha256:" + running.hexdigest()
        if total != size or found != digest:
            raise UntrustedError(
                "blob-digest-mismatch",
                "the registry serves another blob",
                expected=f"{digest}, {size} bytes",
                found=f"{found}, {total} bytes",
            )

    def blob_bytes(self, repository: str, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob of at most `limit` bytes. Raises as `blob` does."""
        if descriptor.size > limit:
            raise UntrustedError(
                "blob-digest-mismatch", "a blob is too large", expected=f"<= {limit} bytes", found=descriptor.size
            )
        return b"".join(self.blob(repository, descriptor.digest, descriptor.size))

    def upload(self, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stream a blob whose digest is known only at its end; answers digest and size."""
        running, total = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal total
            for chunk in chunks:
                running.update(chunk)
                total += len(chunk)
                yield chunk

        with self._stream("POST", self._url(repository, "blobs", "uploads/")) as response:
            self._expect(response, 202)
            place = self._location(response)
        headers = {"Content-Type": "application/octet-stream"}
        with self._stream("PATCH", place, content=counted(), headers=headers) as response:
            self._expect(response, 202)
            place = self._location(response)
        digest = "sha256:" + running.hexdigest()
        with self._stream("PUT", place.copy_merge_params({"digest": digest})) as response:
            self._expect(response, 201)
        return digest, total

    def upload_bytes(self, repository: str, data: bytes) -> None:
        """Store a small blob, unless it is there."""
        if not self.has_blob(repository, hexdigest(data)):
            self.upload(repository, [data])

    def referrers(self, repository: str, digest: str) -> tuple[IndexEntry, ...]:
        """What refers to the manifest `digest`: from the referrers API, else from the fallback tag."""
        with self._stream("GET", self._url(repository, "referrers", digest)) as response:
            media_type = response.headers.get("Content-Type", "")
            if response.status_code == 200 and media_type.startswith(INDEX_TYPE):
                return parse_index(_bounded(response, MANIFEST_LIMIT))
            self._expect(response, 200, 404)
        found = self.manifest(repository, fallback_tag(digest))
        return () if found is None else parse_index(found[0])

    def attach(self, repository: str, subject: Descriptor, artifact_type: str, blob: bytes, blob_type: str) -> str:
        """Push `blob` as an artifact that refers to `subject`; answers the digest of its manifest.

        Where the registry does not index referrers itself, the fallback tag is read, extended and written; two
        writers at the same moment may lose one entry (distribution-spec 1.1, "Pushing Manifests with Subject").
        """
        self.upload_bytes(repository, EMPTY)
        self.upload_bytes(repository, blob)
        config = descriptor_of(EMPTY_TYPE, EMPTY)
        layers = [descriptor_of(blob_type, blob)]
        plain = Descriptor(subject.media_type, subject.digest, subject.size)
        data = manifest_bytes(config, layers, artifact_type=artifact_type, subject=plain)
        url = self._url(repository, "manifests", hexdigest(data))
        with self._stream("PUT", url, content=data, headers={"Content-Type": MANIFEST_TYPE}) as response:
            self._expect(response, 201)
            indexed = "OCI-Subject" in response.headers
        if not indexed:
            self._extend_index(repository, subject.digest, artifact_type, data)
        return hexdigest(data)

    def _extend_index(self, repository: str, subject: str, artifact_type: str, data: bytes) -> None:
        found = self.manifest(repository, fallback_tag(subject))
        entries = () if found is None else parse_index(found[0])
        members = [entry.descriptor.as_dict() for entry in entries if entry.descriptor.digest != hexdigest(data)]
        added = Descriptor(MANIFEST_TYPE, hexdigest(data), len(data), {}, artifact_type)
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*members, added.as_dict()]}
        text = json.dumps(index, separators=(",", ":")).encode()
        self.put_manifest(repository, fallback_tag(subject), text, INDEX_TYPE)

    def _url(self, repository: str, kind: str, name: str) -> str:
        return f"{self.url}/v2/{repository}/{kind}/{name}"

    @contextmanager
    def _stream(
        self,
        method: str,
        url: str | httpx2.URL,
        *,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx2.Response]:
        try:
            sent = {"Accept-Encoding": "identity", **(headers or {})}
            ours = _origin(httpx2.URL(url)) == self._origin
            auth = httpx2.USE_CLIENT_DEFAULT if ours else None
            with self._client.stream(method, url, content=content, headers=sent, auth=auth) as response:
                yield response
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            raise UnreachableError(
                "registry-unreachable",
                f"the registry {self.url} cannot be reached",
                found=str(error) or type(error).__name__,
                hint="check the address and that the registry runs",
            ) from error

    def _location(self, response: httpx2.Response) -> httpx2.URL:
        """Where an upload goes on: also at another origin, which gets no password, but never with less protection."""
        location = response.headers.get("Location", "")
        if not location:
            raise UnreachableError("registry-error", "the registry names no place for an upload")
        place = response.url.join(location)
        if self._origin[0] == "https" and place.scheme != "https":
            raise UntrustedError(
                "upload-downgraded",
                f"the registry {self.url} wants an upload without TLS",
                expected="an https address",
                found=f"{place.scheme}://{place.host}",
            )
        return place

    def _expect(self, response: httpx2.Response, *statuses: int) -> None:
        status = response.status_code
        if status in (401, 403):
            raise DeniedError(
                "registry-denied",
                f"the registry {self.url} refuses",
                found=f"HTTP {status}",
                hint="give a user name and password that may do this",
            )
        if status not in statuses:
            raise UnreachableError(
                "registry-error",
                f"the registry {self.url} fails",
                expected=f"HTTP {statuses[0]}",
                found=f"HTTP {status} for {response.request.method} {response.request.url.path}",
            )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def fallback_tag(digest: str) -> str:
    """The tag under which old registries keep the referrers of a manifest."""
    return digest.replace(":", "-", 1)


def _bounded(response: httpx2.Response, limit: int) -> bytes:
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > limit:
            raise UnreachableError("registry-error", "the registry's answer is too large", expected=f"<= {limit}")
    return bytes(data)
