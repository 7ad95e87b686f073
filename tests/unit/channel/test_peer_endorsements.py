"""A user and real hardware: what the chip's maker says is fetched, kept, given in files, or lacking and said so."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from channel_world import public_pem
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from verified_world import DEBUG, MEASUREMENT, VerifiedWorld

from kokon.appraisal.policy import Policy
from kokon.channel import client
from kokon.channel.client import AttestedPeer
from kokon.channel.verify import Verification
from kokon.cli import hardware
from kokon.cli.main import main
from kokon.endorsements.service import complete
from kokon.endorsements.sources import Nothing, connect
from kokon.errors import UnreachableError, UntrustedError
from kokon.image.statement import ReferenceEntry
from kokon.launch.document import document_digest
from kokon.tee import anchors
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.testing.server import Mode, VendorServer
from kokon.testing.vendor import FakeVendor

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kds: VendorServer) -> Path:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    monkeypatch.setenv("KOKON_KDS_URL", kds.url)
    monkeypatch.setenv("KOKON_PCS_URL", kds.url)
    return tmp_path


@pytest.fixture
def kds(world: VerifiedWorld) -> Iterator[VendorServer]:
    with VendorServer(FakeVendor(now=world.now)) as server:
        yield server


@pytest.fixture
def genuine(kds: VendorServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fake vendor counts as AMD: nothing about its chips is simulated, and the strict policy wants its lists."""
    root = kds.vendor.amd.ark("Milan").fingerprint
    monkeypatch.setitem(anchors.AMD, root, "Milan")  # type: ignore[arg-type]
    return root


@pytest.fixture
def accepted(kds: VendorServer, world: VerifiedWorld) -> str:
    """The fake vendor's root is one that the user accepts as simulated."""
    root = kds.vendor.amd.ark("Milan").fingerprint
    world.trust = world.trust.with_simulated(root)
    return root


class Hardware:
    """A guest on the fake vendor's chip."""

    def __init__(self, world: VerifiedWorld, vendor: FakeVendor, tee: str) -> None:
        self.world = world
        self.vendor = vendor
        self.tee = tee

    def start(self, certificates: Any = "none", **fields: Any) -> str:
        def evidence(report_data: bytes) -> Evidence:
            host_data = document_digest(self.world.document)
            said = {"measurement": MEASUREMENT, "report_data": report_data, "host_data": host_data} | fields
            return self.vendor.snp(certificates=certificates, **said)

        statement = self.world.statement(reference=(ReferenceEntry(self.tee, 1, "EPYC-v4", MEASUREMENT),))
        guest = self.world.guest(statement=statement)
        guest.evidence_for = evidence
        return self.world.start(guest)


@pytest.fixture
def chip(world: VerifiedWorld, kds: VendorServer, genuine: str) -> Hardware:
    return Hardware(world, kds.vendor, "snp")


def failures(verification: Verification) -> set[str | None]:
    return {check.code for check in verification.failures}


def fetching(world: VerifiedWorld) -> Any:
    source = connect(accepted=world.trust.endorsements.accepted_simulated)
    return functools.partial(complete, source=source)


def test_evidence_without_its_certificates_gets_them(world: VerifiedWorld, kds: VendorServer, chip: Hardware) -> None:
    verification = world.peer(chip.start(), complete=fetching(world)).verify()
    assert verification.failures == ()
    verification.require()
    assert not verification.simulated
    assert {len(verification.endorsements.crls), kds.count("/vcek/v1/Milan/crl")} == {1}
    assert kds.count() == 3  # each thing once, though two pieces of evidence lack it: VCEK, chain, list
    hardware_checks = {check.name: check.outcome for check in verification.steps[0].checks}
    assert hardware_checks["revocation of SEV-Milan"] == "passed"
    assert "crls" not in json.dumps(verification.as_dict())


def test_nothing_is_fetched_unless_somebody_says_how(world: VerifiedWorld, kds: VendorServer, chip: Hardware) -> None:
    verification = world.peer(chip.start()).verify()
    assert not verification.ok
    assert failures(verification) == {"endorsement-missing"}
    outcomes = {step.name: step.outcome for step in verification.steps}
    assert outcomes["hardware"] == outcomes["key"] == "failed"
    assert outcomes["secrets"] == "not-checked"
    with pytest.raises(UnreachableError) as caught:
        verification.require()
    assert caught.value.code == "peer-endorsements-missing"
    assert caught.value.found == "without vcek, amd-crl"
    assert kds.count() == 0
    assert world.app.connections == 0


def test_a_missing_list_alone_is_enough_to_refuse(world: VerifiedWorld, chip: Hardware) -> None:
    url = chip.start("all")
    verification = world.peer(url).verify()
    assert failures(verification) == {"endorsement-missing"}
    assert verification.failures[0].found == "without amd-crl"
    assert world.peer(url, policy=Policy(revocation="if-available")).verify().ok


def test_revoked_hardware_is_refused(world: VerifiedWorld, kds: VendorServer, chip: Hardware) -> None:
    kds.vendor = kds.vendor.but(revoked=frozenset({"ask"}))
    verification = world.peer(chip.start("all"), complete=fetching(world)).verify()
    assert "certificate-revoked" in failures(verification)
    with pytest.raises(UntrustedError) as caught:
        verification.require()
    assert caught.value.code == "peer-not-verified"


def test_bad_evidence_makes_nobody_ask_around(world: VerifiedWorld, kds: VendorServer, accepted: str) -> None:
    stranger = Hardware(world, kds.vendor, "simulated")
    url = stranger.start("all")
    trust = replace(world.trust, endorsements=Endorsements())
    verification = world.peer(url, trust=trust, complete=fetching(world)).verify()
    assert "simulated-root-refused" in failures(verification)
    assert "endorsement-missing" not in failures(verification)
    assert world.peer(url, complete=fetching(world)).verify().ok  # simulated, and all that it needs came along
    assert kds.count() == 0


def test_connections_use_what_was_fetched(world: VerifiedWorld, kds: VendorServer, chip: Hardware) -> None:
    peer = world.peer(chip.start(), complete=fetching(world))
    for _ in range(3):
        stream = peer.open()
        stream.write(b"hello", 5)
        assert stream.read(10, 5) == b"hello"
        stream.close()
    assert kds.count() == 3


def test_a_list_that_ends_stops_connections(world: VerifiedWorld, kds: VendorServer, chip: Hardware) -> None:
    kds.vendor = kds.vendor.but(lists_age=timedelta(days=1), lists_lifetime=timedelta(days=1, minutes=3))
    peer = world.peer(chip.start(), complete=fetching(world))
    peer.open().close()
    kds.mode = Mode.DOWN
    world.now += timedelta(minutes=5)
    with pytest.raises(UntrustedError) as caught:
        peer.open()
    assert (caught.value.code, caught.value.found) == ("peer-not-verified", "endorsement-missing")
    with pytest.raises(UnreachableError) as caught_then:
        peer.open()
    assert caught_then.value.code == "peer-endorsements-missing"


def test_the_policy_decides(world: VerifiedWorld, chip: Hardware) -> None:
    url = chip.start(policy=DEBUG)
    strict = world.peer(url, complete=fetching(world)).verify()
    assert failures(strict) == {"debug-enabled"}
    lenient = world.peer(url, complete=fetching(world), policy=Policy(allow_debug=True))
    assert lenient.verify().ok
    lenient.open().close()
    demanding = Policy(allow_debug=True, minimum_tcb={"snp": 99})
    assert failures(world.peer(url, complete=fetching(world), policy=demanding).verify()) == {"tcb-too-low"}


def test_what_verification_leaves_to_the_policy_is_excused_in_the_hardware_step(
    world: VerifiedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Intel's verifier refuses debug; its evidence does not come over this channel yet."""
    import kokon.channel.verify as module
    from kokon.tee.evidence import failed
    from kokon.tee.registry import verify

    def stricter(*arguments: Any) -> Claims:
        claims = verify(*arguments)
        return replace(claims, checks=(*claims.checks, failed("debug", "tdx-debug", waiver="allow_debug")))

    monkeypatch.setattr(module, "verify_evidence", stricter)
    url = world.start()
    assert {"tdx-debug", "certificate-evidence-refused"} <= failures(world.peer(url).verify())
    peer = world.peer(url, policy=Policy(allow_debug=True))
    verification = peer.verify()
    assert verification.ok
    (check,) = [check for check in verification.steps[0].checks if check.code == "tdx-debug"]
    assert "allowed by policy" in str(check.found)
    peer.open().close()


def test_a_guest_that_waited_long_is_asked_anew(world: VerifiedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests end a connection on which nothing is asked."""
    guest = world.guest()
    url = world.start(guest)
    monkeypatch.setattr(client, "PAUSE", -1.0)
    assert world.peer(url).status()["phase"] == "serving"
    assert len(guest.asked) == 2


# -- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def words(world: VerifiedWorld, home: Path) -> list[str]:
    (home / "author.pub").write_text(public_pem(world.author))
    return ["--author", str(home / "author.pub")]


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_verify_fetches_and_keeps(
    chip: Hardware, kds: VendorServer, words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = chip.start()
    assert main(["verify", url, *words, "--json"]) == 0, capsys.readouterr()
    assert told(capsys)["ok"]
    asked = kds.count()
    assert asked == 3
    assert main(["verify", url, *words]) == 0
    assert "Verified: clinic runs" in capsys.readouterr().out
    kds.mode = Mode.DOWN
    assert main(["verify", url, *words, "--offline"]) == 0
    assert kds.count() == asked
    assert (home / "endorsements").is_dir()


@pytest.mark.parametrize("command", ["verify", "connect", "logs"])
def test_offline_refuses_and_says_why(
    command: str, chip: Hardware, kds: VendorServer, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, chip.start(), *words, "--offline"]) == 7
    captured = capsys.readouterr()
    assert "[peer-endorsements-missing]" in captured.err
    assert "kokon endorsements fetch" in captured.err
    if command == "verify":
        assert "[endorsement-not-cached]" in captured.out or "not in the cache" in captured.out
        assert "[endorsement-missing]" in captured.out
        assert "NOT verified" in captured.out
    assert kds.count() == 0


def test_an_outage_is_no_attack(
    chip: Hardware, kds: VendorServer, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kds.mode = Mode.DOWN
    assert main(["verify", chip.start("all"), *words, "--json"]) == 7
    checks = [check for step in told(capsys)["steps"] for check in step["checks"]]
    assert [check["name"] for check in checks if check.get("code") == "endorsement-unavailable"] == [
        "fetching amd-crl product=Milan"
    ]


def test_endorsements_in_files_are_all_that_is_used(
    world: VerifiedWorld,
    chip: Hardware,
    kds: VendorServer,
    words: list[str],
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, folder = chip.start(), home / "given"
    folder.mkdir()
    known = kds.vendor.endorsements(kds.vendor.snp())
    for number, der in enumerate(known.certificates):
        (folder / f"{number}.der").write_bytes(der)
    assert main(["verify", url, *words, "--endorsements", str(folder), "--json"]) == 7
    checks = [check for step in told(capsys)["steps"] for check in step["checks"]]
    assert {check["found"] for check in checks if check["outcome"] == "failed"} == {"without amd-crl"}
    lists = home / "list.pem"
    lists.write_bytes(x509.load_der_x509_crl(known.crls[0]).public_bytes(Encoding.PEM))
    given = ["--endorsements", str(folder), "--endorsements", str(lists)]
    assert main(["verify", url, *words, *given, "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", url, *words, "--endorsements", str(home / "nothing")]) == 2
    assert "[endorsements-unreadable]" in capsys.readouterr().err
    assert kds.count() == 0
    assert not (home / "endorsements").exists()


def test_a_policy_file_decides(
    chip: Hardware, words: list[str], home: Path, kds: VendorServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url, policy = chip.start("all"), home / "policy.toml"
    policy.write_text('[require]\nrevocation = "if-available"\n')
    assert main(["verify", url, *words, "--offline", "--policy", str(policy)]) == 0
    policy.write_text('[tcb.snp]\nsnp = 99\n[require]\nrevocation = "if-available"\n')
    capsys.readouterr()
    assert main(["verify", url, *words, "--offline", "--policy", str(policy)]) == 4
    assert "[tcb-too-low]" in capsys.readouterr().out
    policy.write_text("[allow]\ndebugg = true\n")
    assert main(["verify", url, *words, "--policy", str(policy)]) == 2
    assert "[policy-key-unknown]" in capsys.readouterr().err


def test_a_simulated_vendor_is_asked_only_for_what_must_be_there(
    world: VerifiedWorld, kds: VendorServer, accepted: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = Hardware(world, kds.vendor, "simulated").start()
    words += ["--accept-simulated", accepted]
    assert main(["verify", url, *words, "--offline"]) == 4  # without its root nobody knows that it is simulated
    assert "[endorsement-missing]" in capsys.readouterr().out
    assert main(["verify", url, *words]) == 0
    assert "SIMULATED" in capsys.readouterr().out
    assert kds.count(f"/vcek/v1/Milan/{kds.vendor.amd.chip_id('Milan').hex()}") == 1


def test_simulation_asks_nobody_and_imports_nothing_for_it(
    world: VerifiedWorld, kds: VendorServer, words: list[str], home: Path
) -> None:
    """In a process of its own, as users run it."""
    script = (
        "import sys\n"
        "from kokon.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "slow = [name for name in sys.modules if name.startswith(('kokon.endorsements', 'kokon.verifier', 'httpx2'))]\n"
        "print(slow, file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-c", script, "verify", world.start(), *words, "--accept-simulated", world.root]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.strip() == "[]"
    assert kds.count() == 0
    assert not (home / "endorsements").exists()


def test_long_waits_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import kokon.endorsements.sources as sources

    monkeypatch.setattr(sources, "connect", lambda **options: (options["waiting"](9.6), Nothing())[1])
    hardware._source(offline=False, accepted=frozenset())
    assert "waiting 10 s" in capsys.readouterr().err


def test_a_peer_can_be_made_in_a_program(world: VerifiedWorld, chip: Hardware) -> None:
    """As the documentation of AttestedPeer says."""
    peer = AttestedPeer(chip.start(), world.trust, complete=functools.partial(complete, source=connect()))
    assert peer.verify().ok
