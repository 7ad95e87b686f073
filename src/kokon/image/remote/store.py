"""What a registry, a layout and an archive have in common: blobs by digest, manifests by digest or tag."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kokon.errors import UntrustedError
from kokon.image.manifest import EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor, parse_index
from kokon.image.remote.documents import EMPTY, descriptor_of, extended_index, fallback_tag, hexdigest, manifest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kokon.image.manifest import IndexEntry


class ImageStore(ABC):
    """Images by repository. A store of one repository ignores that name. Methods may be called by several threads."""

    url: str
    """Where it is, for messages."""

    @abstractmethod
    def manifest(self, repository: str, pointer: str) -> tuple[bytes, str] | None:
        """The manifest or index behind a tag or digest and its media type; None if there is none.

        Asked for by digest, it has that digest: else `UntrustedError` (`image-digest-mismatch`).
        """

    @abstractmethod
    def put_manifest(self, repository: str, pointer: str, data: bytes, media_type: str = MANIFEST_TYPE) -> str:
        """Store a manifest or index under a tag or its digest; answers its digest."""

    @abstractmethod
    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has this blob."""

    @abstractmethod
    def blob(self, repository: str, digest: str, size: int) -> Iterator[bytes]:
        """The blob in chunks; before the end `UntrustedError` (`blob-digest-mismatch`) unless it is right."""

    @abstractmethod
    def upload(self, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stream a blob whose digest is known only at its end; answers digest and size."""

    def mount(self, repository: str, digest: str, source: str) -> bool:  # noqa: ARG002 -- for those that can
        """Let the repository have a blob of the repository `source` without sending it; False if that failed."""
        return False

    def blob_bytes(self, repository: str, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob of at most `limit` bytes. Raises as `blob` does."""
        if descriptor.size > limit:
            raise UntrustedError(
                "blob-digest-mismatch", "a blob is too large", expected=f"<= {limit} bytes", found=descriptor.size
            )
        return b"".join(self.blob(repository, descriptor.digest, descriptor.size))

    def upload_bytes(self, repository: str, data: bytes) -> None:
        """Store a small blob, unless it is there."""
        if not self.has_blob(repository, hexdigest(data)):
            self.upload(repository, [data])

    def referrers(self, repository: str, digest: str, artifact_type: str | None = None) -> tuple[IndexEntry, ...]:
        """What refers to the manifest `digest`, of all types or of one: from the fallback tag."""
        data = self.manifest(repository, fallback_tag(digest))
        found = () if data is None else parse_index(data[0])
        return tuple(entry for entry in found if artifact_type in (None, entry.descriptor.artifact_type))

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
        if not self.push_referrer(repository, data):
            added = Descriptor(MANIFEST_TYPE, hexdigest(data), len(data), annotations or {}, artifact_type)
            for _ in range(2):
                if self._extend_index(repository, subject, added):
                    break
        return hexdigest(data)

    def push_referrer(self, repository: str, data: bytes) -> bool:
        """Push a manifest that refers to another one; whether the store has put it among the referrers itself."""
        self.put_manifest(repository, hexdigest(data), data)
        return False

    def _extend_index(self, repository: str, subject: str, added: Descriptor) -> bool:
        """Put `added` into the fallback index; whether it is there afterwards. Other entries stay as they are."""
        tag = fallback_tag(subject)
        written = extended_index(found[0] if (found := self.manifest(repository, tag)) else None, added)
        if written is None:
            return True
        self.put_manifest(repository, tag, written, INDEX_TYPE)
        now = self.manifest(repository, tag)
        return now is not None and added.digest in {entry.descriptor.digest for entry in parse_index(now[0])}
