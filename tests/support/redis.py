"""An image that this project never saw: Debian's redis-server, put into a container image with buildah."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from kokon.errors import UnreachableError
from kokon.guest.build.packages import download, update
from kokon.guest.build.record import Package, Record, Store, read_record, write_record
from support.world import run_tool

PACKAGES = (
    "libatomic1", "libc6", "libcap2", "libgcc-s1", "libgcrypt20", "libgpg-error0", "libjemalloc2", "liblua5.1-0",
    "liblz4-1", "liblzf1", "liblzma5", "libssl3", "libstdc++6", "libsystemd0", "libzstd1", "lua-bitop", "lua-cjson",
    "redis-server", "redis-tools",
)  # fmt: skip
CONFIGURATION = """bind 127.0.0.1
dir /tmp
save ""
include /run/secrets/password
"""


def build_redis_image(cache: Path, archive: Path) -> None:
    """Write the image to the oci-archive `archive`; its packages are kept in `cache`.

    Raises `UnreachableError` where they are not in `cache` and the Debian mirror cannot be reached.
    """
    store = Store(cache / "packages")
    packages = _packages(cache, store)
    with tempfile.TemporaryDirectory(prefix="ke-redis-", dir="/tmp") as name:
        root = Path(name) / "root"
        for package in packages:
            run_tool("dpkg-deb", "-x", store.path(package), root)
        shutil.rmtree(root / "usr/share")
        (root / "tmp").mkdir()
        (root / "etc/redis.conf").write_text(CONFIGURATION)
        _pack(Path(name), root, archive)


def _pack(area: Path, root: Path, archive: Path) -> None:
    def buildah(*words: object) -> str:
        own = ("--root", area / "storage", "--runroot", area / "run", "--storage-driver", "vfs")
        return run_tool("buildah", *own, *words, env={"TMPDIR": str(area), "BUILDAH_ISOLATION": "chroot"}).strip()

    container = buildah("from", "scratch")
    try:
        buildah("copy", "-q", container, root, "/")
        command = '["redis-server", "/etc/redis.conf"]'
        buildah("config", "--cmd", command, "--env", "PATH=/usr/bin", "--port", "6379", container)
        buildah("commit", "-q", container, f"oci-archive:{archive}")
    finally:
        buildah("rm", container)


def _packages(cache: Path, store: Store) -> tuple[Package, ...]:
    request = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()
    path = cache / "redis-packages.json"
    if path.is_file():
        record = read_record(path)
        if record.request == request and all(map(store.holds, record.packages)):
            return record.packages
    with tempfile.TemporaryDirectory(dir=os.path.realpath(cache), prefix="fetch-") as name:
        area = Path(name)
        chosen = tuple(download(update(area, lambda _text, _done: None), PACKAGES, store, area / "files"))
    write_record(Record(request, chosen), path)
    return chosen


class RedisClient:
    """As much of the Redis protocol (RESP2) as the tests speak, over a TCP port of this machine."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._file = self._socket.makefile("rb")

    def __call__(self, *words: str) -> str:
        """Send a command; the answer as text, an error as its message."""
        parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
        self._socket.sendall("".join(parts).encode())
        line = self._file.readline().decode().removesuffix("\r\n")
        if line.startswith("$") and line != "$-1":
            return self._file.read(int(line[1:]) + 2)[:-2].decode()
        return line

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


__all__ = ["RedisClient", "UnreachableError", "build_redis_image"]
