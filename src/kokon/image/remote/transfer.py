"""Blobs over HTTP: pulled with Range after a cut, pushed in pieces that can be sent again.

Distribution-spec 1.1: "Pulling blobs", "Pushing a blob in chunks", "Mounting a blob from another repository". What is
pulled is counted and hashed on its way; nobody gets its end unless it is right.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from kokon.errors import UnreachableError, UntrustedError
from kokon.image.remote.authorize import Access
from kokon.image.remote.session import PASSING, Reply, Request, broke, raw
from kokon.image.remote.settings import MIB, Pace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import httpx2

    from kokon.image.remote.session import Session

CHUNK = MIB
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)")


def pull(session: Session, repository: str, digest: str, size: int) -> Iterator[bytes]:
    """The blob in chunks. Raises `UntrustedError` (`blob-digest-mismatch`) as soon as it is wrong, at the latest
    before the generator ends, and `UnreachableError`: `attempts` cuts without progress are enough."""
    running, total, failures = hashlib.sha256(), 0, 0
    while True:
        before, asked = total, None
        try:
            for chunk in _pull_from(session, repository, digest, size, total):
                total += len(chunk)
                if total > size:
                    break
                running.update(chunk)
                yield chunk
            break
        except (UnreachableError, _Busy) as error:
            failures = 1 if total - before >= session.patience.piece else failures + 1
            asked = error.asked if isinstance(error, _Busy) else None
            _give_up(session, error, last=failures >= session.patience.attempts)
        session.patience.sleep(session.patience.pause(failures, asked))
    found = "sha256:" + running.hexdigest()
    if total != size or found != digest:
        raise _mismatch(digest, size, f"{found}, {total} bytes")


class _Busy(Exception):  # noqa: N818 -- not an error yet
    """The registry wants to be asked again, perhaps after a time that it names."""

    def __init__(self, status: int, asked: str | None) -> None:
        super().__init__(status)
        self.status = status
        self.asked = asked


def _give_up(session: Session, error: UnreachableError | _Busy, *, last: bool) -> None:
    """Raise unless another attempt may help."""
    if isinstance(error, _Busy):
        if last:
            session.expect(error.status, "GET of a blob", 200)
    elif last or not broke(error):
        raise error


def _pull_from(session: Session, repository: str, digest: str, size: int, start: int) -> Iterator[bytes]:
    url = f"{session.url}/v2/{repository}/blobs/{digest}"
    headers = {"Range": f"bytes={start}-"} if start else None
    with session.open(Request("GET", url, Access(repository), headers)) as response:
        if response.status_code in PASSING:
            raise _Busy(response.status_code, response.headers.get("Retry-After"))
        session.expect(response.status_code, f"GET {response.url.path}", 206 if start else 200, 200)
        offset = _offset(response, digest, size, start) if response.status_code == 206 else 0
        said = response.headers.get("Content-Length", "")
        if said.isdigit() and int(said) != size - offset:
            raise _mismatch(digest, size, f"{int(said) + offset} bytes are announced")
        yield from _skip(_steady(session, response), start - offset)


def _offset(response: httpx2.Response, digest: str, size: int, start: int) -> int:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start or match[2] not in ("*", str(size)):
        raise _mismatch(digest, size, f"range {response.headers.get('Content-Range', 'nowhere')[:80]}")
    return start


def _steady(session: Session, response: httpx2.Response) -> Iterator[bytes]:
    """The body in chunks of about `CHUNK`, from a registry that does not dawdle. What came before a cut is given."""
    parts: list[bytes] = []
    held, pace = 0, Pace(session.patience)
    body = raw(response)
    while True:
        try:
            part = next(body, None)
        except Exception:
            if parts:
                yield b"".join(parts)
            raise
        if part is None:
            break
        parts.append(part)
        held += len(part)
        pace.took(len(part))
        if held >= CHUNK:
            yield b"".join(parts)
            parts, held = [], 0
    if parts:
        yield b"".join(parts)


def _skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """All but the first `count` bytes: a registry without Range sends them again."""
    for chunk in chunks:
        if count >= len(chunk):
            count -= len(chunk)
        else:
            yield chunk[count:] if count else chunk
            count = 0


def _mismatch(digest: str, size: int, found: str) -> UntrustedError:
    return UntrustedError(
        "blob-digest-mismatch",
        "the registry serves another blob",
        expected=f"{digest}, {size} bytes",
        found=found,
    )


def push(session: Session, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:
    """Store a blob whose digest is known only at its end; answers digest and size. Holds one piece in memory."""
    access = Access(repository, write=True)
    reply = session.exchange(Request("POST", f"{session.url}/v2/{repository}/blobs/uploads/", access, content=()))
    session.expect(reply.status, f"POST {reply.url.path}", 202)
    upload = _Upload(session, access, _location(session, reply))
    running, total = hashlib.sha256(), 0
    for piece in _pieces(chunks, session.patience.piece):
        for part in piece:
            running.update(part)
            total += len(part)
        upload.send(piece)
    digest = "sha256:" + running.hexdigest()
    upload.finish(repository, digest)
    return digest, total


def mount(session: Session, repository: str, digest: str, source: str) -> bool:
    """Let `repository` have the blob that repository `source` of the same registry has; False if it does not."""
    access = Access(repository, write=True, also=source)
    url = f"{session.url}/v2/{repository}/blobs/uploads/?mount={digest}&from={source}"
    reply = session.exchange(Request("POST", url, access, content=()))
    session.expect(reply.status, f"POST {reply.url.path}", 201, 202)
    if reply.status == 202:
        # The registry began an upload instead: end it, so that it keeps nothing.
        session.exchange(Request("DELETE", _location(session, reply), access))
    return reply.status == 201


class _Upload:
    """An upload that goes on at `place`; `sent` bytes have arrived."""

    def __init__(self, session: Session, access: Access, place: httpx2.URL) -> None:
        self._session = session
        self._access = access
        self._place = place
        self._sent = 0

    def send(self, piece: list[bytes]) -> None:
        """Send one piece; after a cut, what is missing of it."""
        session, attempt = self._session, 1
        end = self._sent + sum(map(len, piece))
        while True:
            try:
                reply = self._patch(piece)
                if reply.status == 202:
                    self._place, self._sent = _location(session, reply), end
                    return
                if reply.status not in PASSING or attempt >= session.patience.attempts:
                    session.expect(reply.status, f"PATCH {reply.url.path}", 202)
            except UnreachableError as error:
                if not broke(error) or attempt >= session.patience.attempts:
                    raise
            session.patience.sleep(session.patience.pause(attempt, None))
            arrived = self._arrived(end)
            piece = list(_skip(iter(piece), arrived - self._sent))
            self._sent = arrived
            if arrived == end:
                return
            attempt += 1

    def _patch(self, piece: list[bytes]) -> Reply:
        size = sum(map(len, piece))
        headers = {"Content-Type": "application/octet-stream"}
        if self._sent:
            headers["Content-Range"] = f"{self._sent}-{self._sent + size - 1}"
        request = Request("PATCH", self._place, self._access, headers, piece)
        with self._session.open(request) as response:
            return Reply(response.status_code, response.headers, b"", response.url)

    def _arrived(self, end: int) -> int:
        """How much the registry has; a range of 0-0 says nothing or one byte, and is taken for nothing."""
        reply = self._session.exchange(Request("GET", self._place, self._access))
        self._session.expect(reply.status, f"GET {reply.url.path}", 204, 202, 200)
        match = _RANGE.fullmatch(reply.headers.get("Range", ""))
        last = int(match[1]) if match else 0
        arrived = last + 1 if last else 0
        if not self._sent <= arrived <= end:
            raise UnreachableError(
                "registry-error",
                f"the registry {self._session.url} lost a part of an upload",
                expected=f"{self._sent}..{end} bytes",
                found=arrived,
            )
        if "Location" in reply.headers:
            self._place = _location(self._session, reply)
        return arrived

    def finish(self, repository: str, digest: str) -> None:
        """Close the upload under its digest."""
        session = self._session
        reply = session.exchange(Request("PUT", self._place.copy_merge_params({"digest": digest}), self._access))
        if reply.status == 404:  # perhaps the second attempt after an answer that was lost
            url = f"{session.url}/v2/{repository}/blobs/{digest}"
            reply_head = session.exchange(Request("HEAD", url, self._access))
            if reply_head.status == 200:
                return
        session.expect(reply.status, f"PUT {reply.url.path}", 201)


def _pieces(chunks: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Chunks gathered to pieces of at least `size` bytes, but for the last; an empty blob is one empty piece."""
    piece: list[bytes] = []
    held, given = 0, False
    for chunk in chunks:
        piece.append(bytes(chunk))
        held += len(chunk)
        if held >= size:
            yield piece
            piece, held, given = [], 0, True
    if piece or not given:
        yield piece


def _location(session: Session, reply: Reply) -> httpx2.URL:
    """Where an upload goes on: also at another origin, which gets no password, but never with less protection."""
    location = reply.headers.get("Location", "")
    if not location:
        raise UnreachableError("registry-error", "the registry names no place for an upload")
    return session.stay_safe(reply.url.join(location), "upload-downgraded")
