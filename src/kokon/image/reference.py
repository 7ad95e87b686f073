"""Image references as people type them: `host[:port]/repository[:tag][@sha256:...]`.

Grammar: github.com/distribution/reference, without its default registry: a reference names its host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kokon.errors import UsageError
from kokon.image.manifest import check_digest

_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")
TEXT_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry: host with port, repository, and a tag, a digest, both or neither (then `latest`)."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None
    plain_http: bool = False

    @property
    def registry(self) -> str:
        """The registry's URL: plain HTTP for this machine's own addresses or when asked for, else HTTPS."""
        name = self.host if self.host.endswith("]") else self.host.rpartition(":")[0] or self.host
        scheme = "http" if self.plain_http or _LOOPBACK.fullmatch(name) else "https"
        return f"{scheme}://{self.host}"

    @property
    def pointer(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def with_digest(self, digest: str) -> Reference:
        """The same image, pinned."""
        return replace(self, digest=check_digest(digest, what="image digest"))

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str, *, plain_http: bool = False) -> Reference:
    """A reference, with or without `docker://` in front. Raises `UsageError` (`reference-malformed`)."""
    match = _REFERENCE.fullmatch(text.removeprefix("docker://")) if len(text) <= TEXT_LIMIT else None
    if match is None or len(match["repository"]) > 255:
        raise UsageError(
            "reference-malformed",
            "not an image reference",
            expected="host[:port]/repository[:tag][@sha256:...]",
            found=repr(text[:200]),
            hint="name the registry too, as in 127.0.0.1:5000/clinic:1",
        )
    return Reference(match["host"], match["repository"], match["tag"], match["digest"], plain_http)
