"""Paths and revocation lists of NIST's PKITS, an authority that is nobody's chip vendor."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kokon.errors import MalformedError
from kokon.tee.anchors import check_root
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsed import verify_certificate, verify_crl
from kokon.tee.endorsements import Endorsements
from kokon.tee.path import build_path, check_path
from kokon.tee.revocation import check_path_revoked, parse_crl

NOW = datetime(2011, 1, 1, tzinfo=UTC)


def read(vectors: Path, name: str) -> bytes:
    return (vectors / "x509" / f"pkits_{name}").read_bytes()


def test_good_authority_and_its_lists(vectors: Path) -> None:
    root = parse_certificate(read(vectors, "TrustAnchorRootCertificate.crt"))
    good = parse_certificate(read(vectors, "GoodCACert.crt"))
    path = build_path(good, [root], NOW)
    assert [check.outcome for check in check_path(path, NOW)] == ["passed"] * 4
    assert check_root(root, {root.fingerprint: "PKITS"}, frozenset()).outcome == "passed"
    lists = [parse_crl(read(vectors, name)) for name in ("TrustAnchorRootCRL.crl", "GoodCACRL.crl")]
    assert lists[0].signed_by(root)
    assert lists[1].signed_by(good)
    assert [check.outcome for check in check_path_revoked(path, lists, NOW, required=True)] == ["passed"]


def test_revoked_end_entity(vectors: Path) -> None:
    root = parse_certificate(read(vectors, "TrustAnchorRootCertificate.crt"))
    good = parse_certificate(read(vectors, "GoodCACert.crt"))
    revoked = parse_certificate(read(vectors, "InvalidRevokedEETest3EE.crt"))
    lists = [parse_crl(read(vectors, name)) for name in ("TrustAnchorRootCRL.crl", "GoodCACRL.crl")]
    path = build_path(revoked, [root, good], NOW)
    codes = [check.code for check in check_path_revoked(path, lists, NOW, required=True)]
    assert codes == ["certificate-revoked", None]


def test_accepted_as_simulated_it_goes_through_the_same_door(vectors: Path) -> None:
    der = [read(vectors, f"{name}.crt") for name in ("TrustAnchorRootCertificate", "GoodCACert")]
    root = parse_certificate(der[0]).fingerprint
    pool = Endorsements(
        certificates=tuple(der),
        crls=(read(vectors, "GoodCACRL.crl"),),
        accepted_simulated=frozenset({root}),
    )
    assert verify_certificate(der[1], pool, NOW).ok
    assert verify_crl(pool.crls[0], pool, NOW).ok
    assert verify_crl(pool.crls[0], pool, NOW).simulated
    codes = [
        check.code for check in verify_certificate(read(vectors, "InvalidRevokedEETest3EE.crt"), pool, NOW).failures
    ]
    assert codes == ["certificate-revoked"]
    with pytest.raises(MalformedError, match="crl-malformed"):  # its signature is no whole number of bytes
        verify_crl(read(vectors, "BadCRLSignatureCACRL.crl"), pool, NOW)
