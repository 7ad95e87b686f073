"""Before admission, on the owner's machine: what a registry holds about a sealed image, checked, and the launch
document made from it. The server checks all of it again.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kokon.errors import KokonError, MalformedError, UnreachableError, UntrustedError, UsageError
from kokon.image.fetch import Fetcher
from kokon.image.manifest import parse_config, parse_manifest
from kokon.image.open import check_statement, fetch_statement
from kokon.image.signature import (
    PAYLOAD_LIMIT,
    PAYLOAD_TYPE,
    SIGNATURE_ANNOTATION,
    SIGNATURES_LIMIT,
    signature_tag,
    verify_signature,
)
from kokon.image.statement import Statement
from kokon.launch.document import (
    ImageRef,
    LaunchDocument,
    Provisioning,
    SecretUse,
    VolumeUse,
    build_document,
)
from kokon.provisioning.kbs.paths import resource_path
from kokon.wire import b64, parse_json, unb64

if TYPE_CHECKING:
    from kokon.image.reference import Reference
    from kokon.provisioning.client import AdminAccess

SECRETS_DIRECTORY = "/run/secrets"
CONFIG_LIMIT = 4 << 20
ENVELOPE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class SealedImage:
    """A sealed image's papers: exact manifest, signature with what it signs, statement, and its declared ports."""

    digest: str
    manifest: bytes
    signed: bytes
    signature: bytes
    envelope: bytes
    statement: Statement
    ports: tuple[int, ...]


def collect(fetcher: Fetcher, pointer: str, author: str, now: datetime) -> SealedImage:
    """The papers of the image behind `pointer` (digest or tag), signed by `author` (PEM).

    Raises `UntrustedError` (`image-unsigned`, `image-author-unknown`, and those of the statement), `StaleError`
    (`statement-expired`), `UnreachableError` (`image-not-found` and those of the fetcher).
    """
    digest = pointer if pointer.startswith("sha256:") else _resolve(fetcher, pointer)
    data, _ = fetcher.manifest(digest)
    manifest = parse_manifest(data)
    signed, signature = _signature(fetcher, digest, author)
    statement, envelope = fetch_statement(fetcher, digest, author, now)
    check_statement(statement, manifest)
    config = parse_config(fetcher.blob(manifest.config.digest, manifest.config.size, CONFIG_LIMIT))
    ports = tuple(int(port.partition("/")[0]) for port in config.ports if _is_tcp(port))
    return SealedImage(digest, data, signed, signature, envelope, statement, ports)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the owner typed about a launch; texts as `parse_secret`, `parse_volume` and `parse_env` read them.

    `server` is the URL under which guests reach the server, None for the one that the owner uses.
    """

    workload: str
    port: int | None = None
    secrets: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    server: str | None = None


def launch_document(
    wishes: Wishes, reference: Reference, author: str, image: SealedImage, access: AdminAccess
) -> bytes:
    """The launch document for `image` as `wishes` want it; it pins the server that `access` leads to.

    Raises `UsageError` (`port-missing`, `secret-malformed`, `volume-malformed`, `env-malformed`, `text-not-utf-8`),
    `MalformedError` (`document-malformed`).
    """
    _check_texts(wishes)
    name = wishes.workload
    return build_document(
        LaunchDocument(
            workload=name,
            image=ImageRef(reference.registry, reference.repository, image.digest, author),
            provisioning=Provisioning(wishes.server or access.url, access.certificate),
            port=choose_port(wishes.port, image),
            log_key=f"kbs:///{name}/log/token",
            args=wishes.args or None,
            env=parse_env(wishes.env),
            secrets=tuple(parse_secret(text, name) for text in wishes.secrets),
            volumes=tuple(parse_volume(text, name) for text in wishes.volumes),
        )
    )


def admission_body(name: str, document: bytes, image: SealedImage, *, allow_debug: bool = False) -> dict[str, Any]:
    """What is sent to the server to have `document` admitted as workload `name`."""
    return {
        "name": name,
        "launch_document": document.decode(),
        "manifest": b64(image.manifest),
        "signature": {"payload": b64(image.signed), "signature": b64(image.signature)},
        "statement": parse_json(image.envelope, limit=ENVELOPE_LIMIT, what="statement"),
        "policy": {"allow_debug": allow_debug, "minimum_tcb": {}},
        "resources": [],
    }


def _check_texts(wishes: Wishes) -> None:
    """Python hands bytes of the command line that are not UTF-8 over as lone surrogates, which no document can hold."""
    texts = (wishes.workload, wishes.server or "", *wishes.secrets, *wishes.volumes, *wishes.env, *wishes.args)
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                "text-not-utf-8",
                "a launch document holds text only, and this is not UTF-8",
                found=ascii(text[:100]),
                hint="put binary data into a secret or into the image",
            ) from error


def choose_port(wanted: int | None, image: SealedImage) -> int:
    """The application's TCP port: the one asked for, else the only one that the image declares.

    Raises `UsageError` (`port-missing`).
    """
    if wanted is not None:
        return wanted
    if len(image.ports) != 1:
        raise UsageError(
            "port-missing",
            "the image does not declare exactly one TCP port",
            found=", ".join(map(str, image.ports)) or "none",
            hint="say which one with --port",
        )
    return image.ports[0]


def parse_secret(text: str, workload: str) -> SecretUse:
    """A secret as typed: `NAME[,file=PATH|,env=VARIABLE][,resource=kbs:///a/b/c]`, also with `name=` in front.

    Without more it is the file /run/secrets/NAME from kbs:///WORKLOAD/secret/NAME. Raises `UsageError`
    (`secret-malformed`).
    """
    name, options = _options(text, ("file", "env", "resource"), "secret")
    resource = options.get("resource", f"kbs:///{workload}/secret/{name}")
    file, env = options.get("file"), options.get("env")
    if file is None and env is None:
        file = posixpath.join(SECRETS_DIRECTORY, name)
    return SecretUse(name=name, resource=resource, file=file, env=env)


def parse_volume(text: str, workload: str) -> VolumeUse:
    """A volume as typed: `NAME=PATH[,key=kbs:///a/b/c]`. Raises `UsageError` (`volume-malformed`)."""
    first, _, rest = text.partition(",")
    name, separator, path = first.partition("=")
    if not separator or not name or not path:
        raise UsageError("volume-malformed", "a volume is NAME=PATH", expected="data=/data", found=repr(text[:200]))
    _, options = _options(f"{name},{rest}" if rest else name, ("key",), "volume")
    return VolumeUse(name=name, path=path, key=options.get("key", f"kbs:///{workload}/volume/{name}"))


def parse_env(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Plain environment variables as typed, `NAME=VALUE` each. Raises `UsageError` (`env-malformed`)."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or name in pairs:
            raise UsageError("env-malformed", "an environment variable is NAME=VALUE, once", found=repr(name[:100]))
        pairs[name] = value
    return tuple(pairs.items())


def secret_path(name: str) -> str:
    """The resource path of a secret as typed: `WORKLOAD/NAME`, `a/b/c` or `kbs:///a/b/c`.

    Raises `UsageError` (`secret-name`).
    """
    uri = name
    if not name.startswith("kbs://"):
        parts = name.split("/")
        uri = "kbs:///" + (f"{parts[0]}/secret/{parts[1]}" if len(parts) == 2 else name)
    try:
        return resource_path(uri)
    except MalformedError as error:
        raise UsageError(
            "secret-name",
            "not the name of a secret",
            expected="WORKLOAD/NAME or kbs:///repository/type/tag",
            found=repr(name[:200]),
            hint="for example clinic/db-password",
        ) from error


def _options(text: str, known: Sequence[str], what: str) -> tuple[str, Mapping[str, str]]:
    first, *rest = text.split(",")
    name = first.removeprefix("name=")
    options: dict[str, str] = {}
    for part in rest:
        key, separator, value = part.partition("=")
        if key not in known or not separator or not value or key in options:
            raise _malformed(text, known, what)
        options[key] = value
    if not name or "=" in name or ("file" in options and "env" in options):
        raise _malformed(text, known, what)
    return name, options


def _malformed(text: str, known: Sequence[str], what: str) -> UsageError:
    expected = f"NAME[,{'=..|,'.join(known)}=..]"
    if what == "volume":
        return UsageError("volume-malformed", "a volume is NAME=PATH", expected=expected, found=repr(text[:200]))
    return UsageError(
        "secret-malformed",
        "a secret is a name with options",
        expected=expected,
        found=repr(text[:200]),
        hint="for example --secret db-password or --secret api-key,env=API_KEY",
    )


def _resolve(fetcher: Fetcher, tag: str) -> str:
    found = fetcher.tagged(tag)
    if found is None:
        raise UnreachableError(
            "image-not-found",
            "the registry has no such image",
            expected=tag,
            hint="check the image's name and tag, and that `kokon seal` pushed it to this registry",
        )
    return "sha256:" + hashlib.sha256(found[0]).hexdigest()


def _signature(fetcher: Fetcher, digest: str, author: str) -> tuple[bytes, bytes]:
    found = fetcher.tagged(signature_tag(digest))
    layers = () if found is None else parse_manifest(found[0]).layers
    refusal: KokonError = UntrustedError(
        "image-unsigned", "the image has no signature", hint="seal it with `kokon seal`, and copy its signature too"
    )
    for layer in [layer for layer in layers if layer.media_type == PAYLOAD_TYPE][:SIGNATURES_LIMIT]:
        try:
            signature = unb64(layer.annotations.get(SIGNATURE_ANNOTATION, ""), what="signature", limit=1024)
            payload = fetcher.blob(layer.digest, layer.size, PAYLOAD_LIMIT)
            verify_signature(digest, payload, signature, author)
        except (UntrustedError, MalformedError) as error:
            refusal = error
            continue
        return payload, signature
    raise refusal


def _is_tcp(port: str) -> bool:
    number, _, protocol = port.partition("/")
    return protocol in ("", "tcp") and number.isascii() and number.isdigit() and 0 < int(number) < 65536
