"""What a user refuses: every way in which the other end may not be what it should be."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from channel_world import IMAGE, launch_document, public_pem
from cryptography.hazmat.primitives.asymmetric import ec
from verified_world import DEBUG, MEASUREMENT, VerifiedWorld, new_key

from kokon.channel.client import AttestedPeer
from kokon.channel.mint import make_certificate
from kokon.channel.trust import UserTrust, owner_fingerprint
from kokon.channel.verify import Step, Verification
from kokon.errors import KokonError, MalformedError, StaleError, UntrustedError
from kokon.image.statement import ReferenceEntry
from kokon.launch.document import Provisioning
from kokon.provisioning.tls import make_certificate as make_tls_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, not_checked, passed

OTHER_IMAGE = "sha256:" + "d" * 64


def refused(world: VerifiedWorld, peer: AttestedPeer) -> tuple[set[str | None], KokonError]:
    """The codes of failed checks; and nothing reached the application, whatever was tried."""
    verification = peer.verify()
    assert not verification.ok
    with pytest.raises(KokonError) as caught:
        peer.open()
    assert world.app.connections == 0
    with pytest.raises(KokonError):
        verification.require()
    return {check.code for check in verification.failures}, caught.value


def test_honest_guest_is_verified(world: VerifiedWorld) -> None:
    verification = world.peer(world.start(), image=IMAGE).verify()
    assert verification.failures == ()
    assert verification.ok
    verification.require()
    assert [step.name for step in verification.steps] == [
        "hardware",
        "key",
        "fresh",
        "launch",
        "author",
        "image",
        "measurement",
        "secrets",
    ]
    assert verification.simulated
    assert (verification.workload, verification.image, verification.author) == ("clinic", IMAGE, "Ada")
    assert verification.released == ("db",)
    assert verification.measurement == MEASUREMENT.hex()
    assert verification.root == world.root
    told = verification.as_dict()
    assert told["ok"]
    assert all(step["checks"] and step["outcome"] == "passed" for step in told["steps"])


def test_simulated_root_is_refused_unless_accepted(world: VerifiedWorld) -> None:
    trust = UserTrust(world.trust.authors)
    codes, error = refused(world, world.peer(world.start(), trust=trust))
    assert {"simulated-root-refused", "certificate-evidence-refused"} == codes
    assert error.code == "peer-not-verified"
    assert error.hint
    assert world.root in error.hint
    other = trust.with_simulated("0" * 64)
    assert "simulated-root-refused" in refused(world, world.peer(world.start(), trust=other))[0]


def test_evidence_for_another_key_is_refused(world: VerifiedWorld) -> None:
    honest = world.guest()
    stolen = make_certificate(new_key(), honest.evidence_for, world.now)
    evidence = subject_evidence(stolen)
    key = new_key()
    forged = make_certificate(key, lambda _report_data: evidence, world.now)
    codes, _ = refused(world, world.peer(world.start(honest, key=key, certificate=forged)))
    assert "certificate-key-mismatch" in codes


def subject_evidence(certificate: bytes) -> Evidence:
    from kokon.channel.certificate import read_certificate

    return read_certificate(certificate).evidence


def test_middleman_with_relayed_answers_is_refused(world: VerifiedWorld) -> None:
    """Somebody ends TLS with a certificate of his own enclave and passes the honest guest's answers on."""
    honest = world.guest()
    honest_key = new_key()
    own = world.guest(world.context(measurement=b"\7" * 48))

    url = world.start(own)
    world.servers[-1]._key_digest = subject_key_digest(honest_key)
    own.evidence_for = honest.evidence_for
    codes, _ = refused(world, world.peer(url))
    assert {"fresh-key-mismatch", "certificate-evidence-differs"} <= codes


def subject_key_digest(key: ec.EllipticCurvePrivateKey) -> bytes:
    import hashlib

    from kokon.channel.mint import spki_of

    return hashlib.sha384(spki_of(key)).digest()


def test_replayed_evidence_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest()
    context = world.context()
    recorded: list[Evidence] = []

    def replay(report_data: bytes) -> Evidence:
        recorded.append(context.evidence(report_data))
        return recorded[0]

    url = world.start(guest)
    guest.evidence_for = replay
    assert world.peer(url).verify().ok  # recorded by the attacker
    codes, _ = refused(world, world.peer(url))
    assert codes == {"fresh-report-data-mismatch"}


def test_replayed_answer_is_refused(world: VerifiedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    url = world.start()
    attest = world.servers[0]._attest
    old = attest(b"o" * 32)
    monkeypatch.setattr(world.servers[0], "_attest", lambda _nonce: old)
    codes, _ = refused(world, world.peer(url))
    assert codes == {"nonce-mismatch"}


def test_swapped_launch_document_is_refused(world: VerifiedWorld) -> None:
    context = world.context()
    guest = world.guest(context)
    guest.document = launch_document(public_pem(world.author), port=9999)
    codes, _ = refused(world, world.peer(world.start(guest)))
    assert {"launch-document-mismatch"} <= codes


def test_unreadable_launch_document_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest()
    url = world.start(guest)
    guest.document = b"not a document"
    codes, _ = refused(world, world.peer(url))
    assert {"document-malformed", "launch-document-mismatch"} <= codes


def test_runtime_that_contradicts_the_document_is_refused(world: VerifiedWorld) -> None:
    url = world.start()
    world.servers[0]._workload = "bakery"
    assert refused(world, world.peer(url))[0] == {"runtime-mismatch"}


def test_unknown_author_is_refused(world: VerifiedWorld) -> None:
    trust = UserTrust(endorsements=world.trust.endorsements).with_author(public_pem(new_key()))
    assert refused(world, world.peer(world.start(), trust=trust))[0] == {"author-untrusted"}


def test_statement_by_somebody_else_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest(statement=world.statement(ec.generate_private_key(ec.SECP256R1())))
    assert refused(world, world.peer(world.start(guest)))[0] == {"statement-author-unknown"}


def test_statement_that_is_none_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest(statement={"payload": ""})
    assert refused(world, world.peer(world.start(guest)))[0] == {"field-missing"}


def test_statement_about_another_image_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest(statement=world.statement(subject=OTHER_IMAGE))
    assert refused(world, world.peer(world.start(guest)))[0] == {"statement-subject-mismatch"}


def test_expired_statement_is_refused(world: VerifiedWorld) -> None:
    peer = world.peer(world.start())
    world.now += timedelta(days=31)
    codes, error = refused(world, peer)
    assert "statement-expired" in codes
    assert isinstance(error, StaleError)
    assert error.code == "peer-expired"
    assert error.exit_status == 6


def test_unknown_measurement_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest(world.context(measurement=b"\1" * 48))
    assert refused(world, world.peer(world.start(guest)))[0] == {"measurement-unknown"}


def test_reference_values_for_another_technology_do_not_count(world: VerifiedWorld) -> None:
    entry = ReferenceEntry("snp", 1, "max", MEASUREMENT)
    guest = world.guest(statement=world.statement(reference=(entry,)))
    assert refused(world, world.peer(world.start(guest)))[0] == {"measurement-unknown"}


def test_reference_values_of_another_kind_of_hardware_do_not_count(
    world: VerifiedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from kokon.channel import verify as subject

    honest = subject.verify_evidence

    def real(*given: Any) -> Claims:
        claims = honest(*given)
        consulted = (*claims.checks, passed("revocation of SEV-Milan"))
        return replace(claims, simulated=False, needs=(), checks=consulted)

    monkeypatch.setattr(subject, "verify_evidence", real)
    for tee, codes in (("snp", set()), ("tdx", {"measurement-unknown"})):
        statement = world.statement(reference=(ReferenceEntry(tee, 1, "max", MEASUREMENT),))
        verification = world.peer(world.start(world.guest(statement=statement))).verify()
        assert {check.code for check in verification.failures} == codes


def test_variable_that_the_author_fixed_is_refused(world: VerifiedWorld) -> None:
    """The owner's server refuses it too, but the user trusts the author and not the owner."""
    world.document = launch_document(public_pem(world.author), env=(("LD_PRELOAD", "/data/evil.so"),))
    assert refused(world, world.peer(world.start()))[0] == {"env-not-allowed"}
    guest = world.guest(statement=world.statement(env=("LD_PRELOAD",)))
    assert world.peer(world.start(guest)).verify().ok


def test_arguments_of_the_owner_are_refused_unless_the_author_let_them_vary(world: VerifiedWorld) -> None:
    world.document = launch_document(public_pem(world.author), args=("-c", "evil"))
    assert refused(world, world.peer(world.start()))[0] == {"args-not-allowed"}


def test_another_owner_than_the_trusted_one_is_refused(world: VerifiedWorld) -> None:
    """An owner whom nobody knows admits the author's public image, with secrets and volumes of his own."""
    certificates = [make_tls_certificate(new_key(), ["127.0.0.1"], world.now).decode() for _ in range(2)]
    server = Provisioning("https://127.0.0.1:8443", certificates[0])
    world.document = launch_document(public_pem(world.author), provisioning=server)
    url = world.start()
    (unpinned,) = [check for check in world.peer(url).verify().steps[3].checks if check.name == "owner-trusted"]
    assert (unpinned.outcome, unpinned.code) == ("not-checked", "owner-not-pinned")
    assert unpinned.hint
    ours, theirs = map(owner_fingerprint, certificates)
    assert refused(world, world.peer(url, trust=world.trust.with_owner(theirs)))[0] == {"owner-untrusted"}
    verification = world.peer(url, trust=world.trust.with_owner(theirs).with_owner(ours)).verify()
    assert verification.ok
    assert "owner-trusted" in [check.name for check in verification.steps[3].checks if check.outcome == "passed"]


def test_an_owners_certificate_that_is_none_is_refused(world: VerifiedWorld) -> None:
    trust = world.trust.with_owner("0" * 64)
    assert refused(world, world.peer(world.start(), trust=trust))[0] == {"owner-certificate-malformed"}


def test_what_the_owner_decided_is_shown(world: VerifiedWorld) -> None:
    world.document = launch_document(public_pem(world.author), args=("serve", "--all"))
    guest = world.guest(statement=world.statement(args_may_vary=True))
    verification = world.peer(world.start(guest)).verify()
    assert verification.ok
    facts = dict(verification.steps[3].facts)
    assert facts["arguments"] == "'serve' '--all'"
    assert facts["secrets"] == "db as /run/secrets/db"
    assert facts["server"] == "https://127.0.0.1:8443"


def test_debug_guest_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest(world.context(policy=DEBUG))
    assert refused(world, world.peer(world.start(guest)))[0] == {"debug-enabled"}


def test_forged_report_is_refused(world: VerifiedWorld) -> None:
    context = world.context()

    def forge(report_data: bytes) -> Evidence:
        evidence = context.evidence(report_data)
        report = bytearray(evidence.report)
        report[0x90] ^= 1  # MEASUREMENT
        return Evidence("snp", bytes(report), evidence.certificates)

    guest = world.guest()
    guest.evidence_for = forge
    codes, _ = refused(world, world.peer(world.start(guest)))
    assert any(code and "signature" in code for code in codes)


def test_another_image_than_expected_is_refused(world: VerifiedWorld) -> None:
    assert refused(world, world.peer(world.start(), image=OTHER_IMAGE))[0] == {"image-not-expected"}


def test_started_without_its_secrets_is_refused(world: VerifiedWorld) -> None:
    guest = world.guest()
    guest.names = []
    assert refused(world, world.peer(world.start(guest)))[0] == {"secrets-missing"}
    guest.since = None
    assert world.peer(world.start(guest)).verify().ok


def test_nothing_checked_is_not_ok(world: VerifiedWorld) -> None:
    step = Step("image", "image", (not_checked("image-named", "no-statement"),))
    assert step.outcome == "not-checked"
    verdict = Verification(world.now, b"", True, (step,))
    assert not verdict.ok
    assert not Verification(world.now, b"", True, ()).ok
    with pytest.raises(UntrustedError) as caught:
        verdict.require()
    assert caught.value.code == "peer-not-verified"


def test_word_of_a_guest_without_evidence_is_not_taken(world: VerifiedWorld) -> None:
    verification = world.peer(world.start(), trust=UserTrust(world.trust.authors)).verify()
    secrets = verification.steps[-1]
    assert (secrets.outcome, secrets.checks[0].code) == ("not-checked", "evidence-refused")


def test_result_short_of_affirming_is_refused(world: VerifiedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from kokon.channel import verify as subject

    honest = subject.appraise
    monkeypatch.setattr(subject, "appraise", lambda *given: replace(honest(*given), status="warning"))
    assert refused(world, world.peer(world.start()))[0] == {"appraisal-not-affirming"}


def test_certificate_evidence_that_cannot_be_verified_is_refused(
    world: VerifiedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kokon.channel import verify as subject

    honest = subject.verify_evidence
    calls = 0

    def second_fails(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            raise MalformedError("certificate-table", "does not parse")
        return honest(evidence, endorsements, now)

    monkeypatch.setattr(subject, "verify_evidence", second_fails)
    assert refused(world, world.peer(world.start()))[0] == {"certificate-table"}


def test_guest_at_another_privilege_level_is_refused(world: VerifiedWorld) -> None:
    context = world.context()
    guest = world.guest(context)
    guest.evidence_for = lambda report_data: context.evidence(report_data, vmpl=2)
    assert refused(world, world.peer(world.start(guest)))[0] == {"vmpl-not-zero"}
