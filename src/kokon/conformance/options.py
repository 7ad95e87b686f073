"""What a run of the suite is told: where the server is, what it may do there, and its bounds. Pure values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from kokon.conformance.messages import NEWEST, VERSIONS
from kokon.errors import UsageError

TEES: Final = ("sample", "snp")
DEFAULT_INIT_DATA: Final = (
    'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"conformance.txt" = "kokon conformance"\n'
)
"""The launch document of the suite's guests unless another is given."""
DEFAULT_MEASUREMENT: Final = bytes(range(48))
REQUESTS: Final = 1200
"""Requests of one run at most; a run of all cases makes about a third of that."""
SECONDS: Final = 300.0
"""How long one run may take, in seconds; waiting for things to expire comes on top."""
TIMEOUT: Final = 10.0
PATIENCE_LIMIT: Final = 86_400.0
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Target:
    """A server: scheme `https` or `http`, host, port, and the path that everything is below, "" or "/p/clinic"."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def url(self) -> str:
        """The base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Options:
    """One run. Times in seconds.

    `certificate` (PEM) is trusted instead of the system's. `admin_token` lets the suite write below names of its own,
    or at `resource`, and with `change_policies` set policies; at the end the resource policy is `policy_after`, or
    denies everything. `resource` without it is only read, and holds `value` if that is known. `versions` must be
    spoken. `patience` is how long to wait for sessions and tokens to expire.
    """

    target: Target
    certificate: str | None = None
    admin_token: str | None = field(default=None, repr=False)
    tee: str = "sample"
    init_data: str = DEFAULT_INIT_DATA
    measurement: bytes = DEFAULT_MEASUREMENT
    versions: tuple[str, ...] = (NEWEST,)
    resource: str | None = None
    value: bytes | None = field(default=None, repr=False)
    change_policies: bool = False
    policy_after: str | None = None
    only: tuple[str, ...] = ()
    strict: bool = False
    patience: float = 0.0
    timeout: float = TIMEOUT
    seconds: float = SECONDS
    requests: int = REQUESTS


def parse_target(text: str) -> Target:
    """The server of a URL. Raises `UsageError` (`conformance-url`)."""
    try:
        parts = urlsplit(text)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _bad_url(text) from error
    prefix = parts.path.rstrip("/")
    strange = parts.query or parts.fragment or parts.username or not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", prefix)
    if parts.scheme not in ("https", "http") or not parts.hostname or strange:
        raise _bad_url(text)
    return Target(parts.scheme, parts.hostname, port, prefix.removesuffix("/kbs/v0"))


def _bad_url(text: str) -> UsageError:
    return UsageError(
        "conformance-url",
        "not the address of a server",
        expected="https://host:port, perhaps with a path such as /p/clinic",
        found=repr(text[:200]),
    )


def check_options(options: Options) -> Options:
    """`options` themselves if they go together. Raises `UsageError` (`conformance-options`)."""
    wrong = _wrong(options)
    if wrong is not None:
        raise UsageError("conformance-options", wrong[0], expected=wrong[1], found=wrong[2])
    return options


def _wrong(options: Options) -> tuple[str, str, str] | None:
    unknown = [version for version in options.versions if version not in VERSIONS]
    if options.tee not in TEES:
        return "there is no evidence of this TEE here", " or ".join(TEES), repr(options.tee[:40])
    if unknown or not options.versions:
        return "the suite does not know this protocol version", " ".join(VERSIONS), repr(unknown)[:100]
    if options.resource is not None and not is_resource_path(options.resource):
        return "not the name of a resource", "repository/type/tag", repr(options.resource[:100])
    if options.value is not None and options.resource is None:
        return "a resource's value was given without its name", "--resource", "none"
    if options.change_policies and (options.admin_token is None or options.value is not None):
        return "policies are changed by an administrator who sets resources", "--admin-token", "none, or a known value"
    if options.policy_after is not None and not options.change_policies:
        return "there is no policy to put back", "--change-policies", "none"
    if options.admin_token is not None and options.target.scheme == "http" and not options.target.is_loopback:
        return "the admin token would travel in clear", "https", options.target.url[:100]
    if not (0 < options.timeout <= 600 and 0 < options.seconds <= PATIENCE_LIMIT):
        return "the bounds make no sense", "a timeout up to 600 s", f"{options.timeout} s, {options.seconds} s"
    if not 0 <= options.patience <= PATIENCE_LIMIT:
        return "that is too long to wait", f"<= {PATIENCE_LIMIT:.0f} s", f"{options.patience} s"
    return None


def is_resource_path(text: str) -> bool:
    """Whether `text` is repository/type/tag."""
    segments = text.split("/")
    return len(segments) == 3 and all(map(_SEGMENT.fullmatch, segments)) and len(text) <= 400
