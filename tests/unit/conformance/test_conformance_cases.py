"""Each case against a broker that does everything right, and against one that does not do what this case demands."""

from __future__ import annotations

import json
import random

import pytest
from conformance_kit import Trial
from fake_broker import ADMIN_TOKEN, Broker, Host, Reply

from kokon.conformance.case import Level, Outcome, Result
from kokon.conformance.cases import ALL
from kokon.conformance.evidence import Sample
from kokon.conformance.options import Options, parse_target
from kokon.conformance.run import Report, level_of, run

NO_TLS = {"tls-version"}
WAITING = {"session-expired", "token-expired"}
CASES = {case.name: case for case in ALL}

VIOLATIONS: dict[str, tuple[str, ...]] = {
    # one broker for each: any of these faults alone must be seen by the case
    "auth-0.4.0": ("no-0.4.0",),
    "auth-0.3.0": ("no-0.3.0",),
    "auth-0.2.0": ("no-0.2.0",),
    "auth-0.1.1": ("no-0.1.1",),
    "auth-version-unknown": ("version", "500 version"),
    "auth-version-0.1.0": ("version-0.1.0",),
    "auth-tee-unknown": ("tee",),
    "auth-member-missing": ("auth-members",),
    "auth-malformed": ("auth-malformed auth-members", "500 auth-malformed"),
    "auth-duplicate-members": ("auth-duplicates",),
    "auth-unknown-member": ("refuse-unknown 500 unknown",),
    "auth-extra-params-text": ("no-text",),
    "auth-content-type": ("strict-type",),
    "auth-chunked": ("no-chunks",),
    "auth-too-large": ("auth-large", "500 auth-large"),
    "challenge-nonce": ("short-nonce", "url-nonce"),
    "challenge-unique": ("same-nonce", "same-cookie"),
    "challenge-form": ("no-extra-params", "challenge-type"),
    "cookie-form": ("long-cookie", "cookie-name", "two-cookies", "odd-cookie"),
    "cookie-scope": ("cookie-path", "old-cookie", "cookie-domain"),
    "cookie-attributes": ("bare-cookie",),
    "attest-no-cookie": ("any-cookie",),
    "attest-garbage-cookie": ("any-cookie",),
    "attest-altered-cookie": ("any-cookie",),
    "attest-foreign-cookie": ("nonce",),
    "attest-sets-cookie": ("no-second-cookie",),
    "attest-0.4.0": ("refuse-all", "no-token", "no-0.4.0"),
    "attest-0.3.0": ("no-0.3.0",),
    "attest-0.2.0": ("no-0.2.0",),
    "attest-0.1.1": ("no-0.1.1",),
    "attest-form": ("attest-type",),
    "attest-init-data-absent": ("snp need-init-data",),
    "attest-init-data-wrong": ("snp init-data",),
    "attest-init-data-format": ("init-data-format",),
    "attest-devices": ("no-devices",),
    "attest-malformed": ("attest-malformed nonce bad-key any-evidence",),
    "attest-member-missing": ("nonce bad-key any-evidence", "any-evidence"),
    "attest-unknown-member": ("strict-attest 500 unknown-attest",),
    "attest-too-large": ("attest-large",),
    "evidence-truncated": ("prefix", "snp signature"),
    "evidence-altered": ("snp signature",),
    "evidence-foreign": ("any-evidence",),
    "evidence-empty": ("no-evidence",),
    "key-malformed": ("bad-key bad-key-release",),
    "key-rsa15": ("rsa15",),
    "key-rsa-weak": ("rsa-weak bad-key-release",),
    "attest-refused-session": ("grant-refused",),
    "replay-other-session": ("nonce",),
    "replay-same-session": ("spent new-token",),
    "replay-new-key": ("spent new-token",),
    "binding-nonce": ("nonce",),
    "binding-report-data": ("unbound",),
    "binding-prefix": ("prefix",),
    "binding-key": ("unbound",),
    "binding-algorithm": ("alg-unbound",),
    "binding-additional": ("uncovered",),
    "binding-old-hash": ("old-hash",),
    "binding-hash-downgrade": ("sha256",),
    "token-form": ("token-alg", "token-crit", "token-private", "der-signature"),
    "token-times": ("future", "stale", "no-iat"),
    "token-ear": ("no-eat_profile", "no-submods", "no-ear.verifier-id", "odd-status", "odd-vector", "bad-vector"),
    "token-status": ("false-status",),
    "token-sample": ("affirming",),
    "token-tee-key": ("other-key", "no-submods"),
    "token-nonce": ("other-nonce",),
    "token-id": ("same-jti", "no-jti"),
    "token-size": ("huge",),
    "token-signature": ("wrong-jwk", "no-header-jwk jwks"),
    "token-jwks": ("jwks.json", "jwks", "jwks-private"),
    "bearer-altered": ("any-signature",),
    "bearer-alg-none": ("alg-none",),
    "bearer-unsigned": ("zero-signature",),
    "bearer-stranger": ("header-key",),
    "bearer-hmac": ("alg-hmac",),
    "bearer-garbage": ("any-token",),
    "resource-cookie": ("other-value", "no-P-256"),
    "resource-bearer": ("bearer-refused",),
    "resource-0.3.0": ("no-0.3.0",),
    "resource-0.2.0": ("no-0.2.0",),
    "resource-0.1.1": ("no-0.1.1",),
    "jwe-p-256": ("header-order",),
    "jwe-p-384": ("no-P-384",),
    "jwe-p-521": ("no-P-521",),
    "jwe-rsa": ("no-RSA",),
    "jwe-members": ("extra-aad",),
    "jwe-header": ("header-order",),
    "jwe-fresh": ("same-jwe",),
    "resource-content-type": ("resource-type",),
    "resource-unattested": ("open",),
    "resource-half-session": ("half-session",),
    "resource-garbage-cookie": ("made-up-cookie",),
    "resource-cookie-or-bearer": ("cookie-only",),
    "resource-missing": ("any-path policy-ignored",),
    "path-segments": ("any-path policy-ignored", "500 any-path"),
    "path-slashes": ("any-path policy-ignored",),
    "path-dots": ("any-path policy-ignored",),
    "path-encoded-slash": ("any-path policy-ignored",),
    "path-octets": ("any-path policy-ignored", "500 any-path"),
    "path-long": ("any-path policy-ignored",),
    "path-unknown": ("any-plugin",),
    "method-unknown": ("any-method",),
    "admin-resource-closed": ("admin-open",),
    "admin-policy-closed": ("admin-open", "body-first"),
    "admin-token-wrong": ("admin-any-token",),
    "admin-token-guest": ("admin-guest",),
    "admin-guest-secret": ("admin-reads",),
    "admin-resource": ("write-once", "delete-lost"),
    "admin-resource-path": ("any-written",),
    "admin-too-large": ("large-written",),
    "admin-delete-missing": ("delete-silent",),
    "admin-policy-list": ("policy-object",),
    "policy-deny": ("policy-ignored",),
    "policy-allow": ("policy-loose",),
    "policy-broken": ("policy-broken",),
    "policy-attestation": ("no-attestation-policy",),
    "reference-value": ("reference-other", "no-policies"),
    "reference-value-broken": ("reference-broken",),
    "session-expired": ("expired-session",),
    "token-expired": ("expired-token",),
    "error-documents": ("plain-errors",),
    "error-documents-all": ("plain-405",),
    "error-variants": ("odd-errors",),
    "error-content-type": ("html-errors",),
    "error-statuses": ("all-401",),
    "no-faults": ("500 auth-malformed",),
    "retry-after": ("busy silent",),
    "tls-version": ("",),
    "health": ("healthz",),
    "metrics": ("metrics",),
}
BEFORE = {
    # cases that look back on what others did, or on a run's whole course
    "error-documents-all": ("method-unknown",),
    "no-faults": ("auth-malformed",),
    "retry-after": ("auth-malformed",),
}


def outcomes(report: Report) -> dict[str, Result]:
    return {result.case.name: result for result in report.results}


def test_names_and_sections_are_in_order() -> None:
    assert len(CASES) == len(ALL)
    for case in ALL:
        assert case.name == case.name.lower()
        assert case.title
        assert case.section
    assert all(case.level in Level for case in ALL)


def test_a_broker_that_does_everything_right_passes_every_case(trial: Trial) -> None:
    for tee in ("sample", "snp"):
        report = trial(tee=tee, patience=4000.0)
        assert report.conforms
        assert report.unfinished is None
        left = {name: result for name, result in outcomes(report).items() if result.outcome is not Outcome.PASS}
        expected = (
            {"attest-init-data-wrong", "evidence-altered"} if tee == "sample" else {"attest-devices", "token-sample"}
        )
        assert set(left) == NO_TLS | expected | {"retry-after"}, left
        assert report.requests < 600


def test_every_case_has_a_violation() -> None:
    assert set(VIOLATIONS) == set(CASES)


@pytest.mark.parametrize(("name", "faults"), [(name, one) for name, some in VIOLATIONS.items() for one in some])
def test_a_case_sees_its_violation(name: str, faults: str, trial: Trial) -> None:
    words = bundle(faults)
    tee = "snp" if "snp" in words else "sample"
    only = (*BEFORE.get(name, ()), name)
    result = outcomes(trial(*words, tee=tee, only=only, patience=4000.0))[name]
    expected = {Level.MUST: Outcome.FAIL, Level.SHOULD: Outcome.TOLERATED, Level.MAY: Outcome.SKIP}
    assert result.outcome is expected[CASES[name].level], result.found
    assert result.found


def bundle(faults: str) -> list[str]:
    """Words of a fault; `500 x` is one."""
    parts = iter(faults.split())
    return [f"500 {next(parts)}" if word == "500" else word for word in parts]


@pytest.mark.parametrize("name", sorted(set(VIOLATIONS) - NO_TLS - {"retry-after"}))
def test_without_a_violation_the_case_passes(name: str, trial: Trial) -> None:
    tee = "snp" if name in ("attest-init-data-wrong", "evidence-altered") else "sample"
    result = outcomes(trial(tee=tee, only=(*BEFORE.get(name, ()), name), patience=4000.0))[name]
    assert result.outcome is Outcome.PASS, result.found


TOLERATED = {
    "auth-too-large": "all-401",
    "attest-too-large": "all-401",
    "admin-too-large": "all-401",
    "resource-missing": "all-401",
    "policy-deny": "all-401",
    "policy-allow": "all-401",
    "method-unknown": "all-401",
    "admin-resource-path": "all-401",
    "token-times": "long-token",
    "token-jwks": "no-kid",
    "attest-form": "more-members",
    "challenge-form": "more-members",
    "token-form": "token-typ",
}


@pytest.mark.parametrize(("name", "fault"), TOLERATED.items())
def test_what_clients_can_live_with_is_tolerated_and_fails_when_strict(name: str, fault: str, trial: Trial) -> None:
    report = trial(fault, only=(name,))
    assert outcomes(report)[name].outcome is Outcome.TOLERATED
    assert report.conforms
    strict = trial(fault, only=(name,), strict=True)
    assert outcomes(strict)[name].outcome is Outcome.FAIL
    assert not strict.conforms


def test_a_server_that_refuses_everything_passes_no_refusal(trial: Trial) -> None:
    """That evidence is refused shows nothing where no evidence is accepted."""
    found = outcomes(trial("refuse-all"))
    vacuous = [
        result
        for name, result in found.items()
        if name.startswith(("attest-", "binding-", "evidence-", "key-", "replay-", "path-", "resource-", "bearer-"))
        and result.outcome is Outcome.PASS
    ]
    assert vacuous == []
    assert found["attest-0.4.0"].outcome is Outcome.FAIL


def test_a_version_that_must_be_spoken_weighs_more(trial: Trial) -> None:
    case = CASES["attest-0.2.0"]
    assert case.level is Level.SHOULD
    report = trial("no-0.2.0", only=("auth-0.2.0", "attest-0.2.0"))
    assert report.conforms
    report = trial("no-0.2.0", only=("auth-*", "attest-0.2.0"), versions=("0.4.0", "0.2.0"))
    assert not report.conforms
    assert {r.case.name for r in report.results if r.outcome is Outcome.FAIL} == {"auth-0.2.0", "attest-0.2.0"}
    assert all(r.level is Level.MUST for r in report.results if r.case.name.endswith("-0.2.0"))
    assert level_of(case, Options(target=parse_target("http://127.0.0.1:1"), versions=("0.2.0",))) is Level.MUST


def test_evidence_as_an_object_is_understood_of_the_oldest_version(trial: Trial) -> None:
    result = outcomes(trial("old-object", only=("attest-0.1.1",)))["attest-0.1.1"]
    assert (result.outcome, result.found) == (Outcome.PASS, "evidence as an object; a token")


def test_policies_are_left_alone_unless_they_may_be_changed(trial: Trial, host: Host) -> None:
    found = outcomes(trial(change_policies=False))
    assert host.server.broker.policy is None  # type: ignore[attr-defined]
    assert host.server.broker.references == {}  # type: ignore[attr-defined]
    for name in ("policy-deny", "policy-allow", "policy-broken", "policy-attestation", "reference-value"):
        assert (found[name].outcome, found[name].found) == (Outcome.SKIP, "no --change-policies")
    assert found["resource-cookie"].outcome is Outcome.PASS


def test_an_open_server_is_not_harmed(trial: Trial, host: Host) -> None:
    """Without a token nothing is sent that an open server would take over, and what it took is deleted."""
    found = outcomes(trial("admin-open", "admin-any-token", change_policies=False, admin_token=None))
    assert found["admin-policy-closed"].outcome is Outcome.FAIL
    broker = host.server.broker  # type: ignore[attr-defined]
    assert (broker.policy, broker.references) == (None, {})


def test_nothing_is_left_behind(trial: Trial, host: Host) -> None:
    report = trial()
    broker = host.server.broker  # type: ignore[attr-defined]
    assert broker.resources == {}
    assert "default allow = false" in broker.policy
    assert "allow if" not in broker.policy
    assert report.remarks == ("the resource policy now denies everything",)
    report = trial(policy_after="package policy\n\ndefault allow = true\n", only=("policy-allow",))
    assert host.server.broker.policy == "package policy\n\ndefault allow = true\n"  # type: ignore[attr-defined]
    assert report.remarks == ("the resource policy was put back",)


def test_no_secret_is_shown_even_if_the_server_says_it(trial: Trial, host: Host) -> None:
    for faults in (("echo",), ("echo", "refuse-all"), ("echo", "other-value", "no-policies")):
        report = trial(*faults)
        shown = repr(report.as_dict())
        assert ADMIN_TOKEN not in shown
        asked = host.server.broker.asked  # type: ignore[attr-defined]
        for ask in asked:
            for secret in (ask.cookie, ask.bearer or ""):
                assert len(secret) < 20 or secret not in shown
    assert "[…]" in shown


def test_a_resource_of_ones_own_is_only_read(trial: Trial, host: Host) -> None:
    """With its value given, or without an admin token, the suite writes nothing there."""
    for value, token in ((b"mine", ADMIN_TOKEN), (None, None)):
        broker_report = trial_with_resource(trial, host, value, token)
        found = outcomes(broker_report)
        assert found["resource-cookie"].outcome is Outcome.PASS
        assert found["admin-resource"].outcome is Outcome.SKIP
        asked = host.server.broker.asked  # type: ignore[attr-defined]
        assert not [ask for ask in asked if ask.method != "GET" and ask.path.endswith("/mine/one/value")]


def trial_with_resource(trial: Trial, host: Host, value: bytes | None, token: str | None) -> Report:
    before = host.serve

    def serve(broker: Broker) -> Broker:
        broker.resources["mine/one/value"] = b"mine"
        return before(broker)

    host.serve = serve  # type: ignore[method-assign]
    try:
        only = ("resource-*", "admin-*", "policy-*")
        return trial(resource="mine/one/value", value=value, admin_token=token, change_policies=False, only=only)
    finally:
        del host.serve  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(6))
def test_no_answer_ends_the_run(seed: int, host: Host) -> None:
    """A server whose every answer may be out of form: the run comes to its end, and does not find it good."""
    broker = host.serve(Broker())
    broker.dice = random.Random(seed)
    options = Options(parse_target(host.url), admin_token=ADMIN_TOKEN, change_policies=True)
    report = run(options, Sample())
    assert report.unfinished is None
    assert len(report.results) == len(ALL)
    assert not report.conforms


@pytest.mark.parametrize(
    "value", [None, [], "text", 7, {"nonce": 7}, {"nonce": "x", "extra-params": [1]}, {"token": []}]
)
def test_no_answer_of_any_form_is_taken_for_a_handshake(value: object, host: Host) -> None:
    broker = host.serve(Broker())
    headers = {"Set-Cookie": "kbs-session-id=abc"}
    broker.answer = lambda _ask: Reply(200, json.dumps(value).encode(), headers=headers)  # type: ignore[method-assign]
    report = run(Options(parse_target(host.url), only=("auth-0.4.0", "attest-0.4.0", "token-*", "path-*")), Sample())
    assert outcomes(report)["attest-0.4.0"].outcome is Outcome.FAIL
    assert all(r.outcome is not Outcome.PASS for r in report.results if r.case.name.startswith(("token", "path")))
