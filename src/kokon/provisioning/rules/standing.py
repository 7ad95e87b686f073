"""A release held against the rule: when its statement is added, and whenever it is used, since rules change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.image.version import is_before
from kokon.provisioning.rules.rule import key_name
from kokon.tee.evidence import failed, passed

if TYPE_CHECKING:
    from kokon.provisioning.rules.record import Release
    from kokon.provisioning.rules.rule import Rule
    from kokon.tee.evidence import Check


def check_standing(rule: Rule, release: Release) -> tuple[Check, ...]:
    """All that the rule asks of a release itself; what it asks of the enclave is the attestation's to show.

    Raises `MalformedError` only for records that were never made here.
    """
    checks = [_check_signer(rule, release), _check_version(rule, release)]
    if rule.image:
        checks.append(_check_image(rule, release))
    if rule.certifiers_needed:
        checks.append(_check_certifiers(rule, release))
    if rule.tees:
        checks.append(_check_tees(rule, release))
    return tuple(checks)


def _check_signer(rule: Rule, release: Release) -> Check:
    expected, found = key_name(rule.signer), key_name(release.author)
    if expected == found:
        return passed("rule-signer", found)
    return failed(
        "rule-signer",
        "rule-signer-other",
        expected=expected,
        found=found,
        hint="the workload's rule wants an image of another author",
    )


def _check_version(rule: Rule, release: Release) -> Check:
    expected = f">= {rule.minimum_version}"
    if not release.version:
        return failed(
            "rule-version",
            "rule-version-missing",
            expected=expected,
            found="none",
            hint="the author names it with `kokon seal --version`",
        )
    if is_before(release.version, rule.minimum_version):
        return failed(
            "rule-version",
            "rule-version-too-low",
            expected=expected,
            found=release.version,
            hint="launch a newer image; pre-releases come before their release",
        )
    return passed("rule-version", release.version)


def _check_image(rule: Rule, release: Release) -> Check:
    if release.image_name == rule.image:
        return passed("rule-image", release.image_name)
    return failed(
        "rule-image",
        "rule-image-other",
        expected=rule.image,
        found=release.image_name or "no name",
        hint="the signer's other images are not let in; the name is where the author sealed the image to",
    )


def _check_certifiers(rule: Rule, release: Release) -> Check:
    signer = key_name(release.author)
    wanted = [name for name in map(key_name, rule.certifiers) if name != signer]
    found = [name for name in dict.fromkeys(wanted) if name in release.certified_by]
    if len(found) >= rule.certifiers_needed:
        return passed("rule-certifiers", ", ".join(found))
    return failed(
        "rule-certifiers",
        "rule-certifier-missing",
        expected=f"{rule.certifiers_needed} of {', '.join(wanted)}",
        found=", ".join(found) or "none of them",
        hint="the certifier runs `kokon certify`; then add the statement again",
    )


def _check_tees(rule: Rule, release: Release) -> Check:
    found = sorted({tee for tee, _ in release.measurements})
    usable = [tee for tee in found if tee in rule.tees]
    if usable:
        return passed("rule-tees", ", ".join(usable))
    return failed(
        "rule-tees",
        "rule-tee-without-reference",
        expected=f"reference values for {' or '.join(rule.tees)}",
        found=", ".join(found) or "none",
        hint="no enclave that the rule allows could be recognised by this statement",
    )
