"""Copy an image from one store to another: blobs first and several at once, manifests last, the tag at the very end.

Whatever fails on the way, the target never names an image that is not whole. An index is copied with all its platforms
or cut down to one image. What belongs to an image (signatures and attestations under cosign's tags, referrers) goes
along if that is asked for. Every digest is checked by the store that gives, and again against what was stored.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.manifest import Descriptor, is_index, parse_index, parse_manifest
from kokon.image.remote.documents import fallback_tag, hexdigest
from kokon.image.remote.platform import choices, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kokon.image.remote.platform import Platform
    from kokon.image.remote.store import ImageStore

    Progress = Callable[[int, int], None]

DEPTH_LIMIT = 3
DOCUMENTS_LIMIT = 1024
BLOBS_LIMIT = 1 << 16
JOBS = 4
_SUFFIXES = (".sig", ".att", ".sbom")


@dataclass(frozen=True, slots=True)
class Place:
    """A repository of a store."""

    store: ImageStore
    repository: str


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index; `tag` names it also, `subject` and `artifact_type` make it a referrer."""

    data: bytes
    media_type: str
    tag: str = ""
    subject: str = ""
    artifact_type: str = ""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: digest and media type of its top, bytes that were sent, blobs sent and blobs there before."""

    digest: str
    media_type: str
    sent: int
    blobs: int
    there: int


@dataclass(slots=True)
class Plan:
    """All that makes up an image: documents in the order in which they must be stored, and blobs."""

    documents: list[Document] = field(default_factory=list)
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)

    def add(self, document: Document, blobs: tuple[Descriptor, ...] = ()) -> None:
        """Add a document after those that it needs. Raises `MalformedError` (`image-malformed`)."""
        self.documents.append(document)
        self.digests.add(hexdigest(document.data))
        self.blobs.update((blob.digest, blob) for blob in blobs)
        if len(self.documents) > DOCUMENTS_LIMIT or len(self.blobs) > BLOBS_LIMIT:
            raise MalformedError(
                "image-malformed",
                "an index holds too much",
                expected=f"<= {DOCUMENTS_LIMIT} manifests, {BLOBS_LIMIT} blobs",
            )


def copy_image(
    source: Place,
    pointer: str,
    target: Place,
    tag: str,
    *,
    platform: Platform | None = None,
    attachments: bool = False,
    jobs: int = JOBS,
    progress: Progress | None = None,
) -> Copied:
    """Copy what `pointer` (tag or digest) names in `source` to `target` under `tag`.

    `platform` takes one image out of an index; None takes all. `progress(done, total)` counts bytes of blobs.
    Raises `UsageError` (`source-not-found`), `MalformedError` (`image-malformed`, those of the parsers),
    `UntrustedError` (`blob-digest-mismatch`, `image-digest-mismatch`), and what the two stores raise.
    """
    plan = Plan()
    data, media_type = _find(source, pointer)
    if platform is not None:
        data, media_type = one_image(source, data, media_type, platform)
    _collect(source, data, media_type, plan, ())
    top = plan.documents.pop()
    if attachments:
        _collect_attachments(source, plan)
    sent = _Sender(source, target, progress).send(list(plan.blobs.values()), jobs)
    for document in plan.documents:
        _store(target, document)
    target.store.put_manifest(target.repository, hexdigest(top.data), top.data, top.media_type)
    digest = target.store.put_manifest(target.repository, tag, top.data, top.media_type)
    return Copied(digest, top.media_type, *sent)


def one_image(source: Place, data: bytes, media_type: str, platform: Platform | None) -> tuple[bytes, str]:
    """The one image for `platform` in what may be an index. Raises as `copy_image` does."""
    for _ in range(DEPTH_LIMIT):
        if not is_index(data, media_type):
            return data, media_type
        found = select(choices(data), platform)
        if len(found) != 1:
            raise UsageError(
                "source-not-found",
                "the source does not hold one image for the platform",
                expected=platform or "one image, or one for linux/amd64",
                found=f"{len(found)} images",
                hint="its platforms: " + (", ".join(str(c.platform) for c in choices(data)[:20]) or "none"),
            )
        data, media_type = _find(source, found[0].descriptor.digest)
    raise MalformedError("image-malformed", "indexes are nested too deep")


def _find(place: Place, pointer: str) -> tuple[bytes, str]:
    found = place.store.manifest(place.repository, pointer)
    if found is None:
        raise UsageError(
            "source-not-found",
            f"{place.store.url} does not have {place.repository or 'this image'}",
            expected=pointer,
            hint="check the source's name and tag",
        )
    return found


def _collect(source: Place, data: bytes, media_type: str, plan: Plan, path: tuple[str, ...]) -> None:
    """Add a document and all below it; `path` holds the digests of the indexes above."""
    digest = hexdigest(data)
    if digest in path:  # no store that checks digests gets here
        raise MalformedError("image-malformed", "an index points at itself", found=digest)
    if digest in plan.digests:
        return
    if not is_index(data, media_type):
        manifest = parse_manifest(data)
        plan.add(Document(data, media_type), (manifest.config, *manifest.layers))
        return
    if len(path) >= DEPTH_LIMIT:
        raise MalformedError("image-malformed", "indexes are nested too deep")
    for entry in parse_index(data):
        below = entry.descriptor.digest
        if below in plan.digests:
            continue
        found = _find(source, below)
        if len(found[0]) != entry.descriptor.size:
            raise MalformedError(
                "image-malformed", "an index lies about a size", expected=entry.descriptor.size, found=len(found[0])
            )
        _collect(source, *found, plan, (*path, digest))
    plan.add(Document(data, media_type))


def _collect_attachments(source: Place, plan: Plan) -> None:
    """Add what belongs to the images of the plan, by cosign's tags and as referrers."""
    store, repository = source.store, source.repository
    for subject in sorted(plan.digests):
        for suffix in _SUFFIXES:
            if found := store.manifest(repository, tag := fallback_tag(subject) + suffix):
                manifest = parse_manifest(found[0])
                plan.add(Document(*found, tag=tag), (manifest.config, *manifest.layers))
        for entry in store.referrers(repository, subject):
            data, media_type = _find(source, entry.descriptor.digest)
            manifest = parse_manifest(data)
            kind = manifest.artifact_type or entry.descriptor.artifact_type or ""
            plan.add(
                Document(data, media_type, subject=subject, artifact_type=kind), (manifest.config, *manifest.layers)
            )


def _store(target: Place, document: Document) -> None:
    store, repository = target.store, target.repository
    if document.subject:
        store.attach_manifest(repository, document.subject, document.artifact_type, document.data)
    else:
        pointer = document.tag or hexdigest(document.data)
        store.put_manifest(repository, pointer, document.data, document.media_type)


class _Stopped(Exception):  # noqa: N818 -- nobody sees it: the failure that stopped the rest is raised
    """Another part of the copy has failed."""


class _Sender:
    """Sends blobs from several threads; the first failure stops all."""

    def __init__(self, source: Place, target: Place, progress: Progress | None) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done = self._sent = self._blobs = self._there = self._total = 0

    def send(self, blobs: list[Descriptor], jobs: int) -> tuple[int, int, int]:
        """Send all; answers bytes sent, blobs sent, blobs that were there. Raises what the first failure is."""
        self._total = sum(blob.size for blob in blobs)
        with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="kokon-blob") as pool:
            futures = [pool.submit(self._one, blob) for blob in blobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                unfinished = any(not future.done() for future in futures)
                if unfinished:
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            for future in done:
                future.result()
        return self._sent, self._blobs, self._there

    def _one(self, blob: Descriptor) -> None:
        store, repository = self._target.store, self._target.repository
        if store.has_blob(repository, blob.digest) or self._mounted(blob):
            with self._lock:
                self._there += 1
            self._advance(blob.size)
            return
        chunks = self._counted(self._source.store.blob(self._source.repository, blob.digest, blob.size))
        found = store.upload(repository, chunks)
        if found != (blob.digest, blob.size):
            raise UntrustedError(
                "blob-digest-mismatch", "another blob was stored", expected=blob.digest, found=found[0]
            )
        with self._lock:
            self._sent, self._blobs = self._sent + blob.size, self._blobs + 1

    def _mounted(self, blob: Descriptor) -> bool:
        same = self._source.store.url == self._target.store.url
        return same and self._target.store.mount(self._target.repository, blob.digest, self._source.repository)

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stop.is_set():
                raise _Stopped
            yield chunk
            self._advance(len(chunk))

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)
