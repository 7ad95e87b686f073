"""The server and real hardware: what the chip's maker says is fetched beside all else, or lacking and said so."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from provisioning_factory import DEBUG, MEASUREMENT, POLICY, attestation

from kokon.appraisal.policy import Policy
from kokon.cli import provision
from kokon.cli.hardware import Hardware, completion
from kokon.cli.log import _explanation
from kokon.cli.main import main
from kokon.errors import UsageError
from kokon.image.statement import ReferenceEntry
from kokon.jose.jwe import decrypt
from kokon.launch.document import document_digest
from kokon.provisioning import serve as serve_module
from kokon.provisioning.aside import Aside
from kokon.provisioning.release import policy as policy_of
from kokon.provisioning.serve import ServeOptions
from kokon.provisioning.workload import Workload
from kokon.tee import anchors
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.testing.server import Mode, VendorServer
from kokon.testing.vendor import FakeVendor

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

SECRET = "/kbs/v0/resource/clinic/secret/db-password"
REFERENCES = {"reference": tuple(ReferenceEntry(tee, 1, "EPYC-v4", MEASUREMENT) for tee in ("snp", "simulated"))}


@pytest.fixture
def kds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorServer]:
    from datetime import UTC, datetime

    with VendorServer(FakeVendor(now=datetime.now(UTC).replace(microsecond=0))) as running:
        monkeypatch.setenv("KOKON_HOME", str(tmp_path))
        monkeypatch.setenv("KOKON_KDS_URL", running.url)
        yield running


@pytest.fixture
def root(kds: VendorServer) -> str:
    return kds.vendor.amd.ark("Milan").fingerprint


@pytest.fixture
def genuine(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake vendor counts as AMD: nothing about its chips is simulated, and the strict policy wants its lists."""
    monkeypatch.setitem(anchors.AMD, root, "Milan")  # type: ignore[arg-type]


@dataclass
class Guest:
    """A guest on the fake vendor's chip."""

    vendor: FakeVendor
    document: bytes
    certificates: Any = "none"
    measurement: bytes = MEASUREMENT
    policy: int = POLICY
    chip: str = "first"

    def evidence(self, report_data: bytes) -> Evidence:
        return self.vendor.snp(
            certificates=self.certificates,
            chip=self.chip,
            policy=self.policy,
            measurement=self.measurement,
            host_data=document_digest(self.document),
            report_data=report_data,
        )


def attest(server: Any, guest: Guest, client: httpx2.Client | None = None) -> httpx2.Response:
    client = client or server.guest
    nonce = server.challenge(client)
    return client.post("/kbs/v0/attest", json=attestation(guest, nonce, server.tee_key, guest.document))  # type: ignore[arg-type]


def online(accepted: frozenset[str] = frozenset()) -> Any:
    return completion(Hardware(), accepted)


def test_evidence_without_its_certificates_gets_them(start_server, kds: VendorServer, genuine: None) -> None:
    server = start_server(Endorsements(), complete=online())
    guest = Guest(kds.vendor, server.admit(statement=REFERENCES))
    answer = attest(server, guest)
    assert answer.status_code == 200, server.denial(answer)
    assert set(answer.json()) == {"token"}
    assert decrypt(server.guest.get(SECRET).json(), server.tee_key) == b"correct horse"
    asked = kds.count()
    assert asked == 3
    assert kds.count("/vcek/v1/Milan/crl") == 1
    kds.mode = Mode.DOWN
    with server.client() as second:
        assert attest(server, guest, second).status_code == 200
    granted = [entry for entry in server.events() if entry["event"] == "attestation-granted"]
    assert [entry["simulated"] for entry in granted] == [False, False]


def test_offline_denies_and_says_why(start_server, kds: VendorServer, genuine: None) -> None:
    server = start_server(Endorsements(), complete=completion(Hardware(offline=True), frozenset()))
    answer = attest(server, Guest(kds.vendor, server.admit(statement=REFERENCES)))
    assert answer.status_code == 403
    assert set(answer.json()) == {"type", "detail"}
    code, entry = server.denial(answer)
    assert code == "endorsement-missing"
    (check,) = [check for check in entry["checks"] if check.get("code") == "endorsement-missing"]
    assert check["found"] == "without vcek, amd-crl"
    assert "kokon endorsements fetch" in check["hint"]
    explained = "\n".join(_explanation(entry))
    assert "FAIL endorsements  [endorsement-missing]" in explained
    assert "not in the cache" in explained
    assert kds.count() == 0
    assert server.guest.get(SECRET).status_code == 401


def test_an_outage_denies_and_says_why(start_server, kds: VendorServer, genuine: None) -> None:
    server = start_server(Endorsements(), complete=online())
    kds.mode = Mode.DOWN
    code, entry = server.denial(attest(server, Guest(kds.vendor, server.admit(statement=REFERENCES), "all")))
    assert code == "endorsement-missing"
    reasons = [check["found"] for check in entry["checks"] if check.get("code") == "endorsement-unavailable"]
    assert len(reasons) == 1
    assert "endorsement-service-unreachable" in reasons[0]


def test_without_a_source_what_was_given_is_all(start_server, kds: VendorServer, genuine: None) -> None:
    known = kds.vendor.endorsements(kds.vendor.snp())
    server = start_server(replace(known, accepted_simulated=frozenset()))
    document = server.admit(statement=REFERENCES)
    assert attest(server, Guest(kds.vendor, document)).status_code == 200
    other = attest(server, Guest(kds.vendor, document, chip="second"), server.client())
    assert server.denial(other)[0] == "endorsement-missing"
    assert kds.count() == 0


def test_revoked_hardware_is_denied(start_server, kds: VendorServer, genuine: None) -> None:
    kds.vendor = kds.vendor.but(revoked=frozenset({"ask"}))
    server = start_server(Endorsements(), complete=online())
    answer = attest(server, Guest(kds.vendor, server.admit(statement=REFERENCES), "all"))
    assert server.denial(answer)[0] == "certificate-revoked"


def test_nobody_is_asked_for_bad_or_unknown_evidence(start_server, kds: VendorServer, chip, root: str) -> None:
    """Strangers must not have the server ask around; and simulation needs nobody."""
    accepted = frozenset({chip.root})
    server = start_server(Endorsements(accepted_simulated=accepted), complete=online(accepted))
    document = server.admit(statement=REFERENCES)
    unknown = b'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"a" = "b"\n'
    assert server.attest(chip, document).status_code == 200
    code, entry = server.denial(attest(server, Guest(kds.vendor, document, "all")))
    assert code == "simulated-root-refused"
    assert entry["root"] == root
    assert server.denial(attest(server, Guest(kds.vendor, unknown, "none")))[0] == "workload-unknown"
    server.challenge()
    message = attestation(Guest(kds.vendor, document), "another", server.tee_key, document)  # type: ignore[arg-type]
    answer = server.guest.post("/kbs/v0/attest", json=message)
    assert server.denial(answer)[0] == "nonce-mismatch"
    assert kds.count() == 0


def test_the_policy_holds_for_every_platform(start_server, kds: VendorServer, genuine: None) -> None:
    rules = Policy(name="ours", revocation="if-available", minimum_tcb={"snp": 99})
    server = start_server(Endorsements(), policy=rules)
    document = server.admit(statement=REFERENCES)
    assert server.denial(attest(server, Guest(kds.vendor, document, "all")))[0] == "tcb-too-low"
    assert next(one for one in server.server_events() if one["event"] == "server-started")["policy"] == "ours"


def test_a_lenient_policy_needs_no_list(start_server, kds: VendorServer, genuine: None) -> None:
    server = start_server(Endorsements(), policy=Policy(revocation="if-available", allow_debug=True))
    guest = Guest(kds.vendor, server.admit(statement=REFERENCES), "all", policy=POLICY | DEBUG)
    assert attest(server, guest).status_code == 200


def test_slow_vendors_hold_nobody_else_up(start_server, kds: VendorServer, chip, root: str) -> None:
    """Attestations that wait for a vendor take none of the threads that everything else needs."""
    accepted = frozenset({chip.root, root})
    waiting, gate = threading.Semaphore(0), threading.Event()
    at_once: list[int] = []
    lock, under_way = threading.Lock(), [0]

    def slow(make: Callable[[Endorsements], Claims], endorsements: Endorsements, _now: object) -> Any:
        with lock:
            under_way[0] += 1
            at_once.append(under_way[0])
        waiting.release()
        gate.wait(30)
        with lock:
            under_way[0] -= 1
        return make(endorsements | kds.vendor.endorsements(kds.vendor.snp())), endorsements

    server = start_server(Endorsements(accepted_simulated=accepted), complete=slow)
    document = server.admit(statement=REFERENCES)
    statuses: list[int] = []

    def one() -> None:
        with server.client() as client:
            statuses.append(attest(server, Guest(kds.vendor, document), client).status_code)

    guests = [threading.Thread(target=one) for _ in range(12)]
    for thread in guests:
        thread.start()
    for _ in range(8):
        assert waiting.acquire(timeout=20)
    begun = time.monotonic()
    assert server.attest(chip, document).status_code == 200
    assert server.guest.get(SECRET).status_code == 200
    assert time.monotonic() - begun < 5
    gate.set()
    for thread in guests:
        thread.join(30)
    assert statuses == [200] * 12
    assert max(at_once) == 8


def test_a_server_that_waits_for_a_vendor_can_end(start_server, kds: VendorServer, genuine: None) -> None:
    """The fixture insists on its end within ten seconds."""
    begun, forever = threading.Event(), threading.Event()

    def stuck(*_: object) -> Any:
        begun.set()
        forever.wait(60)

    server = start_server(Endorsements(), complete=stuck)
    guest = Guest(kds.vendor, server.admit(statement=REFERENCES))
    client = server.client()

    def ask() -> None:
        with pytest.raises(httpx2.HTTPError), client:
            attest(server, guest, client).raise_for_status()

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(10)


def test_a_source_that_cannot_be_is_a_refusal(start_server, kds: VendorServer, genuine: None, monkeypatch) -> None:
    monkeypatch.setenv("KOKON_KDS_URL", "ftp://nowhere")
    server = start_server(Endorsements(), complete=online())
    code, _ = server.denial(attest(server, Guest(kds.vendor, server.admit(statement=REFERENCES))))
    assert code == "endorsement-url"


def test_a_bug_in_a_thread_beside_is_told_to_who_waits() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async def both() -> int:
        aside = Aside(1)
        with pytest.raises(ZeroDivisionError):
            await aside.run(broken)
        return await aside.run(lambda: 7)

    assert asyncio.run(both()) == 7


def test_who_waits_beside_may_give_up() -> None:
    gate = threading.Event()

    async def impatient() -> None:
        aside = Aside()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(aside.run(lambda: gate.wait(10)), 0.05)
        gate.set()
        await asyncio.sleep(0.05)

    asyncio.run(impatient())


def test_what_was_said_at_admission_is_added_to_the_rules(server) -> None:
    server.admit(policy={"allow_debug": True, "minimum_tcb": {"snp": 8, "microcode": 100}})
    workload: Workload = server.core.catalogue("default").workloads["clinic"]
    rules = Policy(minimum_tcb={"snp": 9, "tee": 1}, minimum_tcb_by_product={"Turin": {"snp": 4, "fmc": 1}})
    both = policy_of(workload, rules)
    assert both.minimum_tcb == {"snp": 9, "tee": 1, "microcode": 100}
    assert both.minimum_tcb_by_product == {"Turin": {"snp": 8, "fmc": 1, "microcode": 100}}
    assert both.allow_debug
    assert not policy_of(replace(workload, allow_debug=False), rules).allow_debug
    assert policy_of(replace(workload, allow_debug=False), Policy(allow_debug=True)).allow_debug


def test_the_command_hands_on_what_was_asked_for(
    kds: VendorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[ServeOptions] = []
    monkeypatch.setattr(serve_module, "serve", lambda options, _announce: seen.append(options))
    (tmp_path / "policy.toml").write_text('name = "clinic"\n[require]\nsmt_off = true\n')
    (tmp_path / "chain.der").write_bytes(kds.vendor.amd.chain("Milan")[0])
    assert main(["provision", "serve"]) == 0
    words = ["--policy", str(tmp_path / "policy.toml"), "--endorsements", str(tmp_path / "chain.der")]
    assert main(["provision", "serve", *words]) == 0
    assert main(["provision", "serve", "--offline"]) == 0
    usual, given, offline = seen
    assert usual.demands.policy == Policy()
    assert usual.demands.complete is not None
    policy = given.demands.policy
    assert (policy.name, policy.require_smt_off, given.demands.complete) == ("clinic", True, None)
    assert given.demands.endorsements.certificates == (kds.vendor.amd.chain("Milan")[0],)
    assert offline.demands.complete is not None
    (tmp_path / "policy.toml").write_text("[allow]\ndebugg = true\n")
    capsys.readouterr()
    assert main(["provision", "serve", *words, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "policy-key-unknown"
    with pytest.raises(UsageError):
        provision.serve(hardware=Hardware(endorsements=[tmp_path / "nothing"]))
