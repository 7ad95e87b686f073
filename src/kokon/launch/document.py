"""The launch document: what one enclave is told to run, in the clear and bound to the hardware.

It is Confidential Containers initdata (TOML, version 0.1.0) with one entry, `kokon.toml`. SHA-256 of its bytes is
HOST_DATA of an SEV-SNP launch, so whoever verifies the evidence knows which image, author, server and
secret names the enclave obeys. It reaches the guest on a raw disk: the bytes `initdata`, the length of the rest as
u64 little-endian, and the gzip of the document (Confidential Containers, initdata specification).

A loopback address in it means the machine that the guest runs on.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import tomllib
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from kokon.errors import MalformedError
from kokon.wire import Fields

DOCUMENT_LIMIT = 256 << 10
DISK_MAGIC = b"initdata"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
# The serial number of a virtio disk, `vol-` and this name, has 20 bytes (virtio 1.2, 5.2.6.1).
_VOLUME = re.compile(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?")
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
_RESOURCE = re.compile(rf"kbs:///{_SEGMENT}/{_SEGMENT}/{_SEGMENT}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NO_PATH = re.compile(r"/?")
_PROJECT = re.compile(r"/?|/p/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_REPOSITORY = re.compile(r"[a-z0-9]+([._/-]{1,2}[a-z0-9]+)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
# The standard library needs minutes for a key of many parts, and peers that nobody trusts send documents.
_LONG_KEY = re.compile(rb"""(?:\.[ \t]*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*){64}""")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the image is and what it must be: registry URL, repository, manifest digest, author's public key (PEM)."""

    registry: str
    repository: str
    digest: str
    author: str


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret of the server (`resource`, a kbs URI) and where the application finds it: a file or a variable."""

    name: str
    resource: str
    file: str | None = None
    env: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """A volume that outlives the container: name, mount point, and the kbs URI of its key."""

    name: str
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class Provisioning:
    """The provisioning server: https URL, with `/p/NAME` at its end of the project of that name, and its pinned TLS
    certificate (PEM)."""

    url: str
    certificate: str


@dataclass(frozen=True, slots=True)
class LaunchDocument:
    """All that an enclave is told. `port` is the application's TCP port behind attested TLS;
    `args` None keeps the image's own command; `log_key` is the kbs URI of the token that opens the log."""

    workload: str
    image: ImageRef
    provisioning: Provisioning
    port: int
    log_key: str
    args: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    volumes: tuple[VolumeUse, ...] = field(default=())

    def resources(self) -> tuple[str, ...]:
        """The kbs URIs that this document asks for, without those of layer keys."""
        return (self.log_key, *(s.resource for s in self.secrets), *(v.key for v in self.volumes))


def document_digest(data: bytes) -> bytes:
    """SHA-256 of the document's exact bytes: what HOST_DATA must be."""
    return hashlib.sha256(data).digest()


def build_document(document: LaunchDocument) -> bytes:
    """The document as TOML; the same value always gives the same bytes.

    Raises `MalformedError` for a value that `parse_document` would refuse.
    """
    inner = "\n".join(_inner_lines(document)) + "\n"
    data = f"version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"kokon.toml\" = '''\n{inner}'''\n".encode()
    if parse_document(data) != document:
        raise MalformedError("document-malformed", "launch document does not survive writing and reading")
    return data


def _inner_lines(document: LaunchDocument) -> list[str]:
    lines = [
        "version = 1",
        f"workload = {_text(document.workload)}",
        f"port = {document.port}",
        f"log_key = {_text(document.log_key)}",
    ]
    if document.args is not None:
        lines.append(f"args = [{', '.join(map(_text, document.args))}]")
    image, server = document.image, document.provisioning
    lines += _table("image", registry=image.registry, repository=image.repository, digest=image.digest)
    lines.append(f"author = {_text(image.author)}")
    lines += _table("provisioning", url=server.url, certificate=server.certificate)
    lines += ["", "[env]"] + [f"{_text(name)} = {_text(value)}" for name, value in document.env]
    for secret in document.secrets:
        lines += _table("[secret]", name=secret.name, resource=secret.resource, file=secret.file, env=secret.env)
    for volume in document.volumes:
        lines += _table("[volume]", name=volume.name, path=volume.path, key=volume.key)
    return lines


def _table(title: str, **members: str | None) -> list[str]:
    return ["", f"[{title}]"] + [f"{name} = {_text(text)}" for name, text in members.items() if text is not None]


def _text(text: str) -> str:
    """A TOML basic string; the apostrophe is escaped so that the outer literal string cannot end early."""
    out = ['"']
    for char in text:
        if char in "\"\\'" or ord(char) < 0x20 or ord(char) == 0x7F:
            out.append(f"\\u{ord(char):04x}" if char != "\n" else "\\n")
        else:
            out.append(char)
    return "".join(out) + '"'


def parse_document(data: bytes) -> LaunchDocument:
    """The launch document in `data`, at most 256 KiB. Raises `MalformedError` (`document-malformed`, `field-...`)."""
    if len(data) > DOCUMENT_LIMIT:
        raise MalformedError(
            "document-malformed",
            "launch document is too large",
            expected=f"<= {DOCUMENT_LIMIT} bytes",
            found=len(data),
        )
    outer = Fields(_toml(data), "launch document")
    _require(outer.text("version") == "0.1.0", "initdata version must be 0.1.0")
    _require(outer.text("algorithm") == "sha256", "initdata algorithm must be sha256")
    entries = Fields(outer.table("data"), "initdata")
    outer.finish()
    inner = entries.text("kokon.toml", limit=DOCUMENT_LIMIT)
    entries.finish()
    return _document(Fields(_toml(inner.encode()), "kokon.toml"))


def _toml(data: bytes) -> dict[str, Any]:
    _require(not _LONG_KEY.search(data), "launch document has a key of too many parts")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise MalformedError("document-malformed", "launch document is not TOML", found=error) from error


def _document(fields: Fields) -> LaunchDocument:
    _require(fields.integer("version") == 1, "version of kokon.toml must be 1")
    args = fields.optional_array("args")
    _require(args is None or all(isinstance(a, str) and "\0" not in a for a in args), "args must be texts")
    env = fields.table("env", default={})
    _require(
        len(env) <= 256
        and all(_VARIABLE.fullmatch(n) and isinstance(v, str) and "\0" not in v for n, v in env.items()),
        "env must map names to texts",
    )
    document = LaunchDocument(
        workload=_match(_NAME, fields.text("workload"), "workload"),
        image=_image(Fields(fields.table("image"), "image")),
        provisioning=_provisioning(Fields(fields.table("provisioning"), "provisioning")),
        port=fields.integer("port", low=1, high=65535),
        log_key=_match(_RESOURCE, fields.text("log_key"), "log_key"),
        args=None if args is None else tuple(args),
        env=tuple(env.items()),
        secrets=tuple(_secret(Fields(s, "secret")) for s in fields.array("secret", default=[], limit=64)),
        volumes=tuple(_volume(Fields(v, "volume")) for v in fields.array("volume", default=[], limit=8)),
    )
    fields.finish()
    secrets, volumes = document.secrets, document.volumes
    _require_unique([s.name for s in secrets], "names of secrets must be unique")
    _require_unique([v.name for v in volumes], "names of volumes must be unique")
    _require_unique([*env, *(s.env for s in secrets if s.env)], "a variable must be given once")
    _require_unique([*(s.file for s in secrets if s.file), *(v.path for v in volumes)], "a path must be given once")
    return document


def _image(fields: Fields) -> ImageRef:
    image = ImageRef(
        registry=_url(fields.text("registry"), ("http", "https")),
        repository=_match(_REPOSITORY, fields.text("repository", limit=255), "repository"),
        digest=_match(_DIGEST, fields.text("digest"), "digest"),
        author=_pem(fields.text("author", limit=8192), "PUBLIC KEY"),
    )
    fields.finish()
    return image


def _provisioning(fields: Fields) -> Provisioning:
    server = Provisioning(
        url=_url(fields.text("url"), ("https",), _PROJECT),
        certificate=_pem(fields.text("certificate", limit=16384), "CERTIFICATE"),
    )
    fields.finish()
    return server


def _secret(fields: Fields) -> SecretUse:
    file, env = fields.optional_text("file"), fields.optional_text("env")
    _require((file is None) != (env is None), "a secret needs either file or env")
    secret = SecretUse(
        name=_match(_NAME, fields.text("name"), "secret name"),
        resource=_match(_RESOURCE, fields.text("resource"), "resource"),
        file=None if file is None else _path(file),
        env=None if env is None else _match(_VARIABLE, env, "env"),
    )
    fields.finish()
    return secret


def _volume(fields: Fields) -> VolumeUse:
    volume = VolumeUse(
        name=_match(_VOLUME, fields.text("name"), "volume name"),
        path=_path(fields.text("path")),
        key=_match(_RESOURCE, fields.text("key"), "volume key"),
    )
    fields.finish()
    return volume


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MalformedError("document-malformed", message)


def _require_unique(names: list[str], message: str) -> None:
    _require(len(set(names)) == len(names), message)


def _match(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise MalformedError("document-malformed", f"{what} is malformed", expected=pattern.pattern, found=repr(text))
    return text


def _path(text: str) -> str:
    parts = text.split("/")
    plain = text.startswith("/") and len(text) > 1 and not {"", ".", ".."} & set(parts[1:]) and text.isprintable()
    _require(plain and len(text) <= 1024, "a path must be absolute and plain")
    return text


def _url(text: str, schemes: tuple[str, ...], path: re.Pattern[str] = _NO_PATH) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise MalformedError("document-malformed", "URL is malformed", found=error) from error
    plain = parts.scheme in schemes and parts.hostname and path.fullmatch(parts.path) and port != 0
    _require(
        bool(plain) and text.isprintable() and not (parts.query or parts.fragment or "@" in parts.netloc),
        "URL must be scheme://host[:port]",
    )
    return text


def _pem(text: str, label: str) -> str:
    _require(
        text.startswith(f"-----BEGIN {label}-----\n") and text.rstrip().endswith(f"-----END {label}-----"),
        f"expected one PEM {label}",
    )
    _require(text.count("-----BEGIN") == 1, f"expected one PEM {label}")
    return text


def write_disk(data: bytes) -> bytes:
    """The raw disk that carries the document, padded to whole 512-byte sectors."""
    packed = gzip.compress(data, mtime=0)
    raw = DISK_MAGIC + struct.pack("<Q", len(packed)) + packed
    return raw + bytes(-len(raw) % 512)


def read_disk(raw: bytes) -> bytes:
    """The document on a raw disk. Raises `MalformedError` (`document-disk-malformed`)."""
    if len(raw) < 16 or raw[:8] != DISK_MAGIC:
        raise MalformedError("document-disk-malformed", "the disk does not start as an initdata disk")
    (size,) = struct.unpack_from("<Q", raw, 8)
    if size > min(len(raw) - 16, DOCUMENT_LIMIT):
        raise MalformedError("document-disk-malformed", "the initdata disk is truncated or too large", found=size)
    inflate = zlib.decompressobj(wbits=31)
    try:
        data = inflate.decompress(raw[16 : 16 + size], DOCUMENT_LIMIT)
    except zlib.error as error:
        raise MalformedError("document-disk-malformed", "the initdata disk is not gzip", found=error) from error
    if not inflate.eof or inflate.unused_data:
        raise MalformedError("document-disk-malformed", "the initdata gzip does not end where it should")
    return data
