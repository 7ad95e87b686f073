"""OCI image layouts: a directory with `oci-layout`, `index.json` and blobs by digest (image-spec 1.1, image-layout.md).

A layout holds one repository; tags are names in its index (`org.opencontainers.image.ref.name`). Files appear whole or
not at all: each is written beside its place and renamed. One process at a time may write.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.errors import HostError, MalformedError, UntrustedError, UsageError
from kokon.image.manifest import INDEX_TYPE, MANIFEST_LIMIT, MANIFEST_TYPE, check_digest, parse_index
from kokon.image.remote.documents import hexdigest
from kokon.image.remote.store import ImageStore
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1 << 20
REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Layout(ImageStore):
    """The layout at `root`; made if it is not there and `create` says so.

    Raises `UsageError` (`image-unreadable`), `HostError` (`image-not-written`), `MalformedError` (those of
    `parse_index`), `UntrustedError` (`blob-digest-mismatch`, `image-digest-mismatch`).
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.url = f"oci:{root}"
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._lock = threading.Lock()
        if create and not (root / "oci-layout").exists():
            self._begin()

    def _begin(self) -> None:
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritten(error) from error
        if not (self._root / "index.json").exists():
            self._replace("index.json", _index([]))
        self._replace("oci-layout", _LAYOUT)

    def manifest(self, repository: str, pointer: str) -> tuple[bytes, str] | None:
        """As `ImageStore.manifest`."""
        if not pointer.startswith("sha256:"):
            named = [
                entry for entry in parse_index(self._index()) if entry.descriptor.annotations.get(REF_NAME) == pointer
            ]
            if len(named) != 1:
                return None
            pointer = named[0].descriptor.digest
        if not self.has_blob(repository, pointer):
            return None
        data = self._small(_blob_name(pointer))
        if hexdigest(data) != pointer:
            raise UntrustedError(
                "image-digest-mismatch", f"a manifest in {self.url} is damaged", expected=pointer, found=hexdigest(data)
            )
        document = parse_json(data, limit=MANIFEST_LIMIT, what="manifest")
        media_type = document.get("mediaType") if isinstance(document, dict) else None
        return data, media_type if isinstance(media_type, str) else _guess(document)

    def put_manifest(self, repository: str, pointer: str, data: bytes, media_type: str = MANIFEST_TYPE) -> str:
        """As `ImageStore.put_manifest`. A tag's former image keeps its blobs."""
        digest, _ = self.upload(repository, [data])
        if not pointer.startswith("sha256:"):
            entry = {"mediaType": media_type, "digest": digest, "size": len(data), "annotations": {REF_NAME: pointer}}
            with self._lock:
                members = parse_json(self._index(), limit=MANIFEST_LIMIT, what="index.json")["manifests"]
                others = [m for m in members if (m.get("annotations") or {}).get(REF_NAME) != pointer]
                self._replace("index.json", _index([*others, entry]))
        return digest

    def has_blob(self, repository: str, digest: str) -> bool:  # noqa: ARG002 -- there is one repository
        """Whether the layout has this blob."""
        return self._exists(_blob_name(digest))

    def blob(self, repository: str, digest: str, size: int) -> Iterator[bytes]:  # noqa: ARG002 -- there is one
        """As `ImageStore.blob`."""
        running, total = hashlib.sha256(), 0
        for chunk in self._chunks(_blob_name(digest)):
            running.update(chunk)
            total += len(chunk)
            yield chunk
        found = "sha256:" + running.hexdigest()
        if (found, total) != (digest, size):
            raise UntrustedError(
                "blob-digest-mismatch",
                f"a blob in {self.url} is damaged",
                expected=f"{digest}, {size} bytes",
                found=f"{found}, {total} bytes",
            )

    def upload(self, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:  # noqa: ARG002 -- there is one
        """As `ImageStore.upload`."""
        running, total = hashlib.sha256(), 0
        try:
            descriptor, name = tempfile.mkstemp(dir=self._blobs, prefix=".partial-")
        except OSError as error:
            raise self._unwritten(error) from error
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    running.update(chunk)
                    total += len(chunk)
                    _write(file.write, chunk, self._unwritten)
                os.fchmod(file.fileno(), 0o644)
            digest = "sha256:" + running.hexdigest()
            Path(name).replace(self._root / _blob_name(digest))
        except BaseException:
            Path(name).unlink()
            raise
        return digest, total

    def entries(self) -> bytes:
        """The index of the layout as it is."""
        return self._index()

    def only(self) -> str | None:
        """What to ask `manifest` for if no tag is given: the digest of the only image, if it is the only one."""
        digests = {entry.descriptor.digest for entry in parse_index(self._index())}
        return digests.pop() if len(digests) == 1 else None

    def _index(self) -> bytes:
        return self._small("index.json")

    def _exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def _chunks(self, name: str) -> Iterator[bytes]:
        """The file `name` in chunks."""
        try:
            with (self._root / name).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise self._unreadable(error) from error

    def _small(self, name: str) -> bytes:
        data = bytearray()
        for chunk in self._chunks(name):
            data += chunk
            if len(data) > MANIFEST_LIMIT:
                raise MalformedError("image-malformed", f"{name} is too large", expected=f"<= {MANIFEST_LIMIT} bytes")
        return bytes(data)

    def _replace(self, name: str, data: bytes) -> None:
        partial = self._root / f".partial-{name}"
        try:
            partial.write_bytes(data)
            partial.replace(self._root / name)
        except OSError as error:
            raise self._unwritten(error) from error

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(
            "image-unreadable",
            f"cannot read {self.url}",
            found=error.strerror,
            hint="check the path and the kind of source",
        )

    def _unwritten(self, error: OSError) -> HostError:
        return HostError("image-not-written", f"cannot write {self.url}", found=error.strerror)


def _blob_name(digest: str) -> str:
    return "blobs/sha256/" + check_digest(digest, what="digest").removeprefix("sha256:")


def _write(write: Any, chunk: bytes, unwritten: Any) -> None:
    try:
        write(chunk)
    except OSError as error:
        raise unwritten(error) from error


def _index(members: list[Any]) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": members}, separators=(",", ":")
    ).encode()


def _guess(document: object) -> str:
    """The media type of a document that does not say it: OCI made the member optional."""
    return INDEX_TYPE if isinstance(document, dict) and "manifests" in document else MANIFEST_TYPE
