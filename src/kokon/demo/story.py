"""The story, act by act. Each act does something real and tells what was checked; the end is a table and a verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from kokon.demo import attacks, plain
from kokon.demo.canaries import KINDS, Canaries, Finding, Search, plant
from kokon.demo.capture import Capture, loopback
from kokon.demo.clinic.image import build_image
from kokon.demo.cloud import PLACES, Holdings, descendants, describe, leaks, search
from kokon.demo.owner import Owner
from kokon.demo.services import Server, start_provisioning, start_registry
from kokon.demo.stage import Stage
from kokon.demo.visit import visit, visit_plain
from kokon.errors import HostError, KokonError, UntrustedError
from kokon.host.request import Publish, RunRequest, Volume
from kokon.host.state import Directory, read_record
from kokon.host.status import StatusReader
from kokon.launch.image import GuestImage
from kokon.tee.simulated.keys import fingerprint

VOLUME_SIZE = "64M"


@dataclass(slots=True)
class Scene:
    """What the acts share: homes of the parties, what runs, what was planted and what came out."""

    stage: Stage
    home: Path
    work: Path
    guest: GuestImage
    canaries: Canaries = field(default_factory=plant)
    registry: Server | None = None
    server: Server | None = None
    owner: Owner | None = None
    url: str = ""
    digest: str = ""
    confidential: Mapping[str, Finding] = field(default_factory=dict)
    ordinary: Mapping[str, Finding] | None = None
    outcomes: list[attacks.Outcome] = field(default_factory=list)

    def party(self, name: str) -> Path:
        """The home of a party in the story."""
        path = self.work / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path


def tell(home: Path, guest: GuestImage, *, leak: str | None = None) -> dict[str, Any]:
    """Run the whole story below `home` and return what was observed.

    `leak` names a canary that is put on the host's disk on purpose, to see that the search would notice.
    Raises `UntrustedError` (`demo-leak`, `demo-attack-succeeded`) if the cloud saw something or an attack succeeded.
    """
    work = home / "demo"
    plain.forget(work)
    work.mkdir(parents=True, mode=0o700)
    scene = Scene(Stage(), home, work, guest)
    scene.stage.bold("Kokon: a clinic moves to a cloud that must not see its patients")
    try:
        author_and_owner(scene)
        with loopback(work / "network.capture") as capture:
            host(scene)
            user(scene)
        what_the_cloud_saw(scene, capture, leak)
        the_same_without(scene)
        show_table(scene)
        play_attacks(scene)
    finally:
        close(scene)
    return verdict(scene)


def author_and_owner(scene: Scene) -> None:
    """The author builds, seals and pushes; the owner starts the server, puts secrets in, and admits the image."""
    stage, texts = scene.stage, scene.canaries.texts
    author, owner = scene.party("author"), scene.party("owner")
    stage.heading("author", "makes a container image: an HTTP service, its patients' records, all in the image")
    with stage.working("building the image"):
        build_image(scene.canaries, scene.home / "cache", scene.work / "image")
    scene.registry = start_registry(scene.work / "registry")
    scene.server, ready = start_provisioning(owner, fingerprint(scene.home / "processor"))
    scene.owner = Owner(owner, ready["url"], Path(ready["certificate"]))
    stage.run("keygen", author / "author.key", home=author, show=["keygen", "author.key"])
    reference = f"{scene.registry.url}/clinic:1"
    sealed = stage.run(
        "seal", f"oci:{scene.work / 'image'}", f"docker://{reference}", "--key", author / "author.key",
        "--author", "Clinic Software Ltd", "--owner", ready["owner_key"], "--guest", scene.guest.directory, home=author,
        show=["seal", "oci:image", f"docker://{reference}", "--key", "author.key", "--owner", "owner-key.jwk",
              "--author", "Clinic Software Ltd"],
    )  # fmt: skip
    scene.digest = sealed["digest"]
    stage.done(f"each layer encrypted, manifest signed, identity statement attached: {scene.digest[:19]}…")
    stage.heading("owner", "registers two secrets, and admits this image of this author, with a key for its volume")
    for name, kind in (("db-password", "file secret"), ("token", "environment secret")):
        stage.run("secret", "put", f"clinic/secret/{name}", home=owner, given=texts[kind].encode())
    stage.run(
        "admit", reference, "--author", author / "author.key.pub", "--name", "clinic", "--port", "8080",
        "--secret", "db-password", "--secret", "name=token,env=CLINIC_TOKEN", "--volume", "data=/data",
        "-o", scene.work / "launch.toml", home=owner,
        show=["admit", reference, "--author", "author.key.pub", "--name", "clinic", "--port", "8080", "--secret",
              "db-password", "--secret", "name=token,env=CLINIC_TOKEN", "--volume", "data=/data", "-o", "launch.toml"],
    )  # fmt: skip
    stage.done("signature, statement and dates checked; launch.toml holds no secret: it is for the cloud")


def host(scene: Scene) -> None:
    """The cloud launches it."""
    stage = scene.stage
    stage.heading("host", "the cloud: launches what it was given, in a virtual machine of its own")
    answer = stage.run(
        "run", scene.work / "launch.toml", "--name", "clinic", "--publish", "127.0.0.1:0", "--detach",
        "--volume", f"data={scene.work / 'volume.img'}:{VOLUME_SIZE}", "--guest", scene.guest.directory,
        "--capture", scene.work / "guest.pcap", home=scene.home, meanwhile=lambda done: follow(scene, done),
        show=["run", "launch.toml", "--name", "clinic", "--publish", "127.0.0.1:9443", "--volume",
              "data=volume.img:64M", "--detach"],
    )  # fmt: skip
    scene.url = answer["url"]


def follow(scene: Scene, done: Future[Any]) -> None:
    """Tell each step of the guest as the host sees it, until `done`."""
    reader = StatusReader(Directory(scene.home, "clinic").status)
    with scene.stage.bar("starting the clinic", len(PHASES)) as advance:
        while True:
            last = done.done()
            for status in reader.read():
                scene.stage.done(f"{status.seconds:5.1f} s  {PHASES.get(status.phase, status.phase)}")
                advance()
            if last:
                return
            wait([done], 0.1)


PHASES = {
    "agent-ready": "measured, booted; the agent made its keys",
    "attested": "the server appraised the evidence: this image, this launch document, this kernel",
    "pulled": "ciphertext pulled through the host; every digest and the author's signature hold",
    "unsealed": "layer keys released; decrypted on a disk whose key exists only inside",
    "provisioned": "secrets and volume key released to the enclave's key",
    "started": "only now: the application starts",
    "serving": "attested TLS in front of it",
}


def user(scene: Scene) -> None:
    """A user verifies, then asks."""
    stage, texts = scene.stage, scene.canaries.texts
    home = scene.party("user")
    stage.heading("user", "verifies before sending anything")
    stage.run("trust", "author", scene.work / "author" / "author.key.pub", home=home,
              show=["trust", "author", "author.key.pub"])  # fmt: skip
    if scene.owner is not None:
        stage.run("trust", "owner", scene.owner.certificate, home=home, show=["trust", "owner", "clinic-owner.pem"])
    stage.run("trust", "simulated", fingerprint(scene.home / "processor"), home=home)
    checked = stage.run("verify", scene.url, home=home)
    for step in checked["steps"]:
        stage.done(step["title"], step["outcome"] == "passed")
        stage.text(", ".join(f"{name} {str(fact)[:24]}" for name, fact in step["facts"].items() if fact))
    answer = visit(scene.url, home, texts["environment secret"], texts["request"])
    if texts["answer"] not in answer["finding"]:
        raise UntrustedError("demo-wrong-answer", "the clinic's answer is not the record", found=sorted(answer))
    stage.done(f"GET /patients/1 over the attested channel: {answer['name']}, born {answer['born']}")
    logs = stage.run(
        "logs", scene.url, "--author", scene.work / "author" / "author.key.pub", "--accept-simulated",
        fingerprint(scene.home / "processor"), home=scene.party("owner"), show=["logs", scene.url],
    )  # fmt: skip
    seen = texts["log"] in str(logs)
    stage.done("the owner, and only the owner, reads the application's log over the same channel", seen)


def what_the_cloud_saw(scene: Scene, capture: Capture, leak: str | None) -> None:
    """Search all that the host holds of the running confidential container."""
    stage = scene.stage
    stage.heading("what the cloud saw", "all that the host holds is searched for what was planted")
    record = read_record(Directory(scene.home, "clinic"))
    machine, processor = (record.machine, record.processor) if record else (None, None)
    if machine is None or processor is None or scene.registry is None:
        raise HostError("demo-not-running", "the confidential container is not running any more")
    directory = Directory(scene.home, "clinic").path
    if leak is not None:
        (directory / "leak").write_text(scene.canaries.texts[leak])
    network = [scene.work / "guest.pcap"] + ([capture.path] if capture.possible else [])
    processes = descendants([machine.pid, processor.pid, scene.registry.process.pid])
    holdings = Holdings(
        registry=scene.work / "registry" / "storage",
        disks=[directory, scene.work / "volume.img", scene.work / "launch.toml"],
        network=network,
        logs=[*directory.glob("*.log"), directory / "status.jsonl", scene.work / "registry" / "registry.log"],
        processes=processes,
        memory=[machine.pid],
    )
    with stage.working("searching"):
        scene.confidential = search(holdings, Search(scene.canaries))
    if capture.lost:
        stage.done(f"{capture.lost} packets of the loopback interface were lost, so they were not searched", False)
    if not capture.possible:
        stage.done("the loopback interface was not recorded (that needs root); the guest's own network was", False)


def the_same_without(scene: Scene) -> None:
    """The same application as an ordinary container, searched in the same way."""
    texts, work = scene.canaries.texts, scene.work / "ordinary"
    work.mkdir()
    finder = Search(scene.canaries)
    try:
        with (
            loopback(work / "network.capture") as capture,
            plain.running(
                scene.work / "image", work, texts["environment secret"], texts["file secret"], work / "network.capture"
            ) as container,
        ):
            visit_plain(container.url, texts["environment secret"], texts["request"])
            capture.stop()
            scene.ordinary = search(container.holdings, finder)
    except HostError as error:
        scene.stage.done(f"the ordinary container could not be run: {error}", False)


def show_table(scene: Scene) -> None:
    """Both searches, place by place."""
    table = Table(title="What the cloud could read", title_justify="left")
    for column in ("place", "ordinary container", "confidential container (simulated)"):
        table.add_column(column, overflow="fold")
    for place in PLACES:
        ordinary = scene.ordinary.get(place) if scene.ordinary else None
        confidential = describe(scene.confidential.get(place))
        if place == PLACES[-1]:
            confidential += " (simulation: the host can read it. With SEV-SNP or TDX it reads ciphertext)"
        table.add_row(place, escape(describe(ordinary)), escape(confidential))
    scene.stage.table(table)
    scene.stage.text(f"planted: {', '.join(KINDS)}")


def play_attacks(scene: Scene) -> None:
    """The cloud turns hostile."""
    stage = scene.stage
    if scene.owner is None or scene.registry is None:
        raise HostError("demo-not-running", "the servers are not running")
    stage.heading("attacks", "the cloud turns hostile; each attack is carried out for real")
    request = RunRequest(
        document=(scene.work / "launch.toml").read_bytes(),
        guest=scene.guest,
        name="attack",
        publish=Publish("127.0.0.1", 0),
        volumes=(Volume("data", scene.work / "attack.img", 64 << 20),),
    )
    target = attacks.Target(
        scene.home, scene.work, request, scene.owner, scene.work / "registry" / "storage",
        scene.registry.url, scene.digest, "clinic", scene.url,
    )  # fmt: skip

    def done(outcome: attacks.Outcome) -> None:
        advance()
        trace = "in the owner's log" if outcome.logged else "NOT in the owner's log"
        released = "nothing released" if not outcome.released else f"RELEASED {outcome.released}"
        stage.done(f"{outcome.name}: {outcome.code}, {released}, {trace}", outcome.held)
        stage.text(outcome.reason)

    with stage.bar("attacking, two at a time", len(attacks.ATTACKS)) as advance:
        scene.outcomes = attacks.play(target, done)


def verdict(scene: Scene) -> dict[str, Any]:
    """The end of the story: a summary for people, and an error if something went wrong."""
    seen = sorted(leaks(scene.confidential))
    failed = [outcome.name for outcome in scene.outcomes if not outcome.held]
    held = len(scene.outcomes) - len(failed)
    stage = scene.stage
    stage.bold("\nIn short")
    stage.text(
        "The image was encrypted before it left its author. The cloud started a machine whose content it could not\n"
        "choose; that machine proved what it is, and only then got the keys and secrets. The user checked the proof.\n"
        f"Outside of memory the cloud saw {'nothing of it' if not seen else 'something at: ' + ', '.join(seen)}. "
        f"{held} of {len(scene.outcomes)} attacks ended with nothing released.\n"
        "This ran in SIMULATION: the host can read the guest's memory. With SEV-SNP or TDX the CPU encrypts it."
    )
    if seen:
        raise UntrustedError("demo-leak", "the cloud could read what it must not", found=", ".join(seen))
    if failed:
        raise UntrustedError("demo-attack-succeeded", "an attack was not held", found=", ".join(failed))
    return {
        "seconds": round(stage.seconds(), 1),
        "simulated": True,
        "confidential": {place: sorted(finding.kinds) for place, finding in scene.confidential.items()},
        "ordinary": scene.ordinary and {place: sorted(finding.kinds) for place, finding in scene.ordinary.items()},
        "attacks": [{"name": o.name, "code": o.code, "held": o.held} for o in scene.outcomes],
    }


def close(scene: Scene) -> None:
    """Stop everything that the story started."""
    for container in _containers(scene):
        with contextlib.suppress(KokonError):
            from kokon.host import lifecycle

            lifecycle.remove(scene.home, container, force=True)
    for server in (scene.server, scene.registry):
        if server is not None:
            server.stop()


def _containers(scene: Scene) -> Iterator[str]:
    yield "clinic"
    directory = scene.home / "containers"
    if directory.is_dir():
        yield from (path.name for path in directory.iterdir() if path.name.startswith("attack-") and path.is_dir())
