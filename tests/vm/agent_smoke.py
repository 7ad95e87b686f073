"""Boot the agent in a real virtual machine and walk the whole way once, by hand: not collected by pytest.

python tests/vm/agent_smoke.py GUEST_IMAGE_DIRECTORY PACKAGE_CACHE [--keep DIRECTORY] [--accel tcg|kvm]
"""

import argparse
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.demo.canaries import plant
from kokon.demo.clinic.image import build_image
from kokon.demo.services import Server, start_registry
from kokon.guest.agent.status import PHASES
from kokon.host import lifecycle
from kokon.host.launch import start
from kokon.host.request import Publish, RunRequest, Volume
from kokon.image.fetch import Fetcher
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import Claims, seal
from kokon.image.signing.keys import make_key
from kokon.image.source import open_source
from kokon.image.statement import GuestReference, ReferenceEntry
from kokon.launch.document import (
    ImageRef,
    LaunchDocument,
    Provisioning,
    SecretUse,
    VolumeUse,
    build_document,
)
from kokon.launch.image import GuestImage, read_guest_image
from kokon.provisioning.client import AdminClient
from kokon.provisioning.collect import admission_body, collect
from kokon.tee.simulated.keys import fingerprint
from kokon.tee.simulated.measure import measure_guest

NAME = "clinic"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("guest", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--accel", default="tcg")
    parser.add_argument("--memory", type=int, default=384)
    options = parser.parse_args()
    home = options.keep or Path(tempfile.mkdtemp(prefix="kokon-smoke-"))
    home.mkdir(parents=True, exist_ok=True)
    root = fingerprint(home / "processor")
    registry = start_registry(home / f"registry-{secrets.token_hex(4)}")
    server = start_server(home / "owner" / "provision", root)
    try:
        document = admit(home, options, registry, server)
        for turn in range(2):
            run(home, options, document, turn)
    finally:
        server.stop()
        registry.stop()
    return 0


def start_server(state: Path, root: str) -> Server:
    state.parent.mkdir(exist_ok=True)
    code = (
        "import pathlib, sys; from kokon.provisioning.serve import *\n"
        "options = ServeOptions(pathlib.Path(sys.argv[1]), port=0, accepted_simulated=frozenset(sys.argv[2:]))\n"
        "serve(options, lambda ready: print(ready.url, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(state), root], stdout=subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("no pipe")
    return Server(process, process.stdout.readline().decode().strip(), state)


def admit(home: Path, options: argparse.Namespace, registry: Server, server: Server) -> bytes:
    guest = read_guest_image(options.guest)
    layout = home / f"clinic-{secrets.token_hex(4)}"
    build_image(plant(), options.cache, layout)
    author = make_key("p256")
    pem = author.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    now = datetime.now(UTC).replace(microsecond=0)
    with AdminClient.from_home(home / "owner" / "provision" / "admin.json") as client:
        claims = Claims(
            created=now,
            not_after=now + timedelta(days=30),
            author="smoke",
            secrets=("db-password", "token"),
            guest=GuestReference(guest.digest, guest.kernel_release),
            reference=(ReferenceEntry("simulated", 1, "max,-cx16", measure_guest(guest, 1)),),
        )
        reference = parse_reference(f"{registry.url}/clinic:1")
        with open_source(f"oci:{layout}") as source, Registry(reference.registry) as target:
            sealed = seal(source, target, reference, author, client.owner_key()["jwk"], claims)
        client.put(f"{NAME}/secret/db-password", b"pepper")
        client.put(f"{NAME}/secret/token", b"let-me-in")
        document = launch_document(reference.registry, sealed.digest, pem, client)
        with Fetcher(reference.registry, reference.repository) as fetcher:
            image = collect(fetcher, sealed.digest, pem, now)
        client.admit(admission_body(NAME, document, image))
    return document


def launch_document(registry: str, digest: str, author: str, client: AdminClient) -> bytes:
    return build_document(
        LaunchDocument(
            workload=NAME,
            image=ImageRef(registry, "clinic", digest, author),
            provisioning=Provisioning(client.access.url, client.access.certificate),
            port=8080,
            log_key=f"kbs:///{NAME}/log/token",
            secrets=(
                SecretUse("db-password", f"kbs:///{NAME}/secret/db-password", file="/run/secrets/db-password"),
                SecretUse("token", f"kbs:///{NAME}/secret/token", env="CLINIC_TOKEN"),
            ),
            volumes=(VolumeUse("data", "/data", f"kbs:///{NAME}/volume/data"),),
        )
    )


def run(home: Path, options: argparse.Namespace, document: bytes, turn: int) -> None:
    guest: GuestImage = read_guest_image(options.guest)
    name = f"smoke-{secrets.token_hex(3)}"
    request = RunRequest(
        document=document,
        guest=guest,
        name=name,
        publish=Publish(port=0),
        memory=options.memory,
        volumes=(Volume("data", home / "data.img", 64 << 20),),
        accelerator=options.accel,
    )
    begun = time.monotonic()
    record = start(home, request, datetime.now(UTC))
    directory = home / "containers" / name
    status = follow(directory / "status.jsonl", begun)
    if status["phase"] != "serving":
        print((directory / "console.log").read_bytes()[-2000:].decode(errors="replace"))
        return
    print(f"{time.monotonic() - begun:7.2f} host sees serving at {record.publish}")
    answer = ask(record.publish)
    print(f"{time.monotonic() - begun:7.2f} first answer {answer}")
    ended = lifecycle.stop(home, name, 20, signal.SIGTERM)
    print(f"{time.monotonic() - begun:7.2f} stopped, turn {turn}", ended)
    print((directory / "status.jsonl").read_text())


def follow(path: Path, begun: float) -> dict[str, Any]:
    seen = 0
    while time.monotonic() - begun < 120:
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines[seen:]:
            print(f"{time.monotonic() - begun:7.2f} {line}")
            value: dict[str, Any] = json.loads(line)
            if value["phase"] in PHASES[-3:]:
                return value
        seen = len(lines)
        time.sleep(0.02)
    return {"phase": "timeout"}


def ask(address: str) -> str:
    import socket
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, port = address.rsplit(":", 1)
    with context.wrap_socket(socket.create_connection((host, int(port)), 20)) as sock:
        sock.sendall(b"GET /patients/1 HTTP/1.0\r\nAuthorization: Bearer let-me-in\r\n\r\n")
        data = b""
        while piece := sock.recv(4096):
            data += piece
    return data.decode()[-200:]


if __name__ == "__main__":
    sys.exit(main())
