"""Images and recipients as people name them: `oci:DIR[:TAG]`, `docker://HOST/REPOSITORY[:TAG]`, `jwe:FILE`.

[edge: files, sockets]
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.ocicrypt.keys import KEY_LIMIT, parse_private, parse_public
from kokon.image.ocicrypt.recipients import AgentKey, Opener
from kokon.image.reference import parse_reference
from kokon.image.remote.copy import Place
from kokon.image.remote.layout import Layout
from kokon.image.statement import check_kid
from kokon.wire import check_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kokon.image.ocicrypt.recipients import Recipient

_IMAGES = "oci:DIR[:TAG] or docker://HOST/REPOSITORY[:TAG]"
_AGENT = "agent:FILE:kbs:///REPOSITORY/TYPE/TAG"
_RECIPIENTS = f"jwe:FILE, jwe/RSA-OAEP:FILE, jwe/RSA-OAEP-256:FILE, or {_AGENT}"


@contextmanager
def open_place(
    text: str, *, create: bool = False, plain_http: bool = False, auth: tuple[str, str] | None = None
) -> Iterator[tuple[Place, str]]:
    """Where an image is, and its tag or digest there. `create`: it may be new.

    Raises `UsageError` (`source-unknown`, `source-not-found`), and what the stores raise.
    """
    kind, _, rest = text.partition(":")
    if kind == "docker" and rest.startswith("//"):
        from kokon.image.registry import Registry

        reference = parse_reference(text, plain_http=plain_http)
        with Registry(reference.registry, auth=auth) as registry:
            yield Place(registry, reference.repository), reference.pointer
    elif kind == "oci" and rest:
        path, tag = _split(rest)
        layout = Layout(path, create=create)
        pointer = tag or ("latest" if create else layout.only())
        if pointer is None:
            raise UsageError("source-not-found", "the source does not name one image", expected="oci:DIR:TAG")
        yield Place(layout, ""), pointer
    else:
        raise UsageError("source-unknown", "not a place for images", expected=_IMAGES, found=repr(text[:200]))


def _split(text: str) -> tuple[Path, str | None]:
    """Path and tag: a colon starts a tag unless the whole is a path that exists."""
    if Path(text).exists() or ":" not in text:
        return Path(text), None
    path, _, tag = text.rpartition(":")
    return Path(path), tag or None


def read_recipient(text: str) -> Recipient:
    """A recipient. Raises `UsageError` (`recipient-malformed`, `key-unreadable`), and what the parsers raise."""
    scheme, _, rest = text.partition(":")
    if scheme == "agent" and ":kbs://" in rest:
        file, _, kid = rest.partition(":kbs:")
        kek = _read(Path(file))
        check_size(kek, 32, "key encryption key")
        return AgentKey(check_kid("kbs:" + kid), kek)
    name, _, algorithm = scheme.partition("/")
    if name != "jwe" or not rest:
        raise UsageError("recipient-malformed", "not a recipient", expected=_RECIPIENTS, found=repr(text[:200]))
    return parse_public(_read(Path(rest)), algorithm or None)


def read_opener(keys: Sequence[Path], agent: Sequence[str] = (), password: bytes | None = None) -> Opener:
    """Keys that open layers: private keys, and `agent:FILE:kbs:///...`. Raises as `read_recipient`."""
    given = tuple(read_recipient(text) for text in agent)
    if not all(isinstance(one, AgentKey) for one in given):
        raise UsageError("recipient-malformed", "not a key of the attestation agent", expected=_AGENT)
    return Opener(
        tuple(parse_private(_read(path), password) for path in keys),
        {one.kid: one.kek for one in given if isinstance(one, AgentKey)},
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEY_LIMIT + 1)
    except OSError as error:
        raise UsageError("key-unreadable", f"cannot read {path}", found=error.strerror) from error
