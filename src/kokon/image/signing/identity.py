"""Names of images as policies compare them: scopes, and what a signature says it is about. Pure.

Rules of containers-image (containers-policy.json(5); `policy_reference_match.go`, `docker/policyconfiguration`), facts
kbs.md g.4. Names are Docker references: one without a host is of docker.io, one without a folder there of `library/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from kokon.errors import MalformedError

MatchKind = Literal[
    "matchExact", "matchRepoDigestOrExact", "matchRepository", "exactReference", "exactRepository", "remapIdentity"
]
MATCHES: Final[tuple[MatchKind, ...]] = (
    "matchExact",
    "matchRepoDigestOrExact",
    "matchRepository",
    "exactReference",
    "exactRepository",
    "remapIdentity",
)
NAME_LIMIT: Final = 1024
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_NAME: Final = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class Name:
    """An image's name: host/repository, and a tag, a digest, both or neither."""

    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        text = self.repository + (f":{self.tag}" if self.tag else "")
        return text + (f"@{self.digest}" if self.digest else "")

    @property
    def bare(self) -> bool:
        """Whether neither tag nor digest is said."""
        return self.tag is None and self.digest is None


def parse_name(text: str) -> Name:
    """A name from text. Raises `MalformedError` (`image-name-malformed`)."""
    match = _NAME.fullmatch(text) if len(text) <= NAME_LIMIT else None
    if match is None:
        raise MalformedError(
            "image-name-malformed", "not the name of an image", expected="host/repository[:tag]", found=repr(text[:200])
        )
    return Name(_normal(match["name"]), match["tag"], match["digest"])


def pulled(name: Name) -> Name:
    """The name that a policy is asked about: a digest makes the tag void, and without either the tag is `latest`."""
    if name.digest is not None:
        return replace(name, tag=None)
    return replace(name, tag=name.tag or "latest")


def docker_scopes(name: Name) -> tuple[str, ...]:
    """The scopes of the transport `docker` that hold this name, the narrowest first.

    The reference itself, the repository, its folders, the host, then `*.` with ever shorter ends of the host.
    """
    scopes = [str(pulled(name)), name.repository]
    while "/" in scopes[-1]:
        scopes.append(scopes[-1].rpartition("/")[0])
    rest = scopes[-1]
    while "." in rest:
        rest = rest.partition(".")[2]
        scopes.append(f"*.{rest}")
    return tuple(scopes)


def folder_scopes(path: str) -> tuple[str, ...]:
    """The scopes of the transports that name a folder by its absolute path: itself, and what it lies in, but not `/`.

    An `oci` name may end with `:` and a name in the layout; that is the narrowest scope.
    """
    folder, colon, _ = path.rpartition(":")
    scopes = [path, folder] if colon else [path]
    while scopes[-1].rpartition("/")[0]:
        scopes.append(scopes[-1].rpartition("/")[0])
    return tuple(scopes)


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """Which name a signature must give for an image that is pulled as some name.

    `reference` is for exactReference, `repository` for exactRepository, `prefix` and `signed_prefix` for remapIdentity.
    """

    kind: MatchKind = "matchRepoDigestOrExact"
    reference: str = field(default="")
    repository: str = field(default="")
    prefix: str = field(default="")
    signed_prefix: str = field(default="")

    def admits(self, image: Name, signed: Name) -> bool:
        """Whether a signature that names `signed` is one for `image`."""
        asked = pulled(image)
        if self.kind == "matchExact":
            return not signed.bare and str(signed) == str(asked)
        if self.kind == "matchRepository":
            return signed.repository == asked.repository
        if self.kind == "exactReference":
            return str(signed) == str(parse_name(self.reference))
        if self.kind == "exactRepository":
            return signed.repository == parse_name(self.repository).repository
        if self.kind == "remapIdentity":
            return _repository_or_exact(self._remapped(asked), signed)
        return _repository_or_exact(asked, signed)

    def _remapped(self, image: Name) -> Name:
        name = image.repository
        if name == self.prefix or name.startswith(self.prefix + "/"):
            return replace(image, repository=self.signed_prefix + name[len(self.prefix) :])
        return image


def _repository_or_exact(image: Name, signed: Name) -> bool:
    if image.digest is not None:
        return signed.repository == image.repository
    return not signed.bare and str(signed) == str(image)


def _normal(name: str) -> str:
    """Docker's full form of a short name (github.com/distribution/reference, `splitDockerDomain`)."""
    first, slash, rest = name.partition("/")
    hosted = slash and (any(letter in first for letter in ".:[") or first == "localhost" or first != first.lower())
    host, path = (first, rest) if hosted else ("docker.io", name)
    if host == "index.docker.io":
        host = "docker.io"
    if host == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return f"{host}/{path}"
