"""Author, owner, user and registry for benchmarks that need a sealed image: the real ones, each in its own home."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.setting import Setting
from kokon.channel.trust import UserTrust, read_trust
from kokon.demo.services import Server, start_provisioning, start_registry
from kokon.demo.stage import run_kokon
from kokon.launch.image import GuestImage
from kokon.tee.simulated.keys import fingerprint


@dataclass(frozen=True, slots=True)
class Parties:
    """What runs and who they are. `ready` is the provisioning server's first answer."""

    area: Path
    registry: Server
    server: Server
    ready: dict[str, Any]
    trust: UserTrust

    def admit(self, layout: Path, name: str, guest: GuestImage, port: int, *words: str) -> Path:
        """Seal the image in the OCI layout for `guest` and admit it; the launch document's path.

        `words` are further arguments of `kokon admit`.
        """
        author, owner = self.area / "author", self.server.directory
        reference, document = f"{self.registry.url}/{name}:1", self.area / f"{name}.toml"
        kokon("seal", f"oci:{layout}", f"docker://{reference}", "--key", author / "author.key",
              "--owner", self.ready["owner_key"], "--guest", guest.directory, home=author)  # fmt: skip
        kokon("admit", reference, "--author", author / "author.key.pub", "--name", name, "--port", port,
              "-o", document, *words, home=owner)  # fmt: skip
        return document


@contextlib.contextmanager
def parties(setting: Setting, name: str) -> Iterator[Parties]:
    """Start the servers below a directory `name`; they are stopped at the end. Raises `KokonError`."""
    area = setting.directory(name)
    author, user = area / "author", area / "user"
    for home in (author, user):
        home.mkdir(mode=0o700)
    root = fingerprint(setting.home / "processor")
    with contextlib.ExitStack() as stack:
        registry = start_registry(area / "registry")
        stack.callback(registry.stop)
        server, ready = start_provisioning(area / "owner", root)
        stack.callback(server.stop)
        kokon("keygen", author / "author.key", home=author)
        kokon("trust", "author", author / "author.key.pub", home=user)
        kokon("trust", "simulated", root, home=user)
        yield Parties(area, registry, server, ready, read_trust(user / "trust.json"))


def kokon(*words: object, home: Path, given: bytes = b"") -> dict[str, Any]:
    """The answer of `kokon WORDS --json`. Raises the error that it ended with."""
    answer, error = run_kokon([str(word) for word in words], home=home, given=given)
    if error is not None:
        raise error
    return answer
