"""docs/POLICY.md: its examples are read by the real parsers, and it names every key."""

import re
from pathlib import Path

from appraisal_kit import NOW

from kokon.appraisal.policy import STATUSES, Policy
from kokon.appraisal.policy_file import as_dict, parse_policy
from kokon.appraisal.policy_text import describe
from kokon.appraisal.reference_file import parse_references

PAGE = (Path(__file__).parents[3] / "docs" / "POLICY.md").read_text()


def example(kind: str) -> bytes:
    match = re.search(rf"```toml {kind}\n(.*?)```", PAGE, re.DOTALL)
    assert match
    return match[1].encode()


def test_the_policy_is_one() -> None:
    policy = parse_policy(example("policy"))
    assert policy.name == "clinic"
    assert policy.allow_dynamic_platform
    assert not policy.allow_debug
    assert policy.minimum_tcb_by_product["Turin"] == {"fmc": 1, "snp": 4}
    assert policy.tolerated_statuses[0].name in STATUSES
    assert len(describe(policy, NOW)) > 20


def test_the_references_are_some() -> None:
    first, second = parse_references(example("references"))
    assert set(first.registers) == {"rtmr1", "rtmr2"}
    assert (second.product_id, second.security_version) == (3, 5)


def test_every_key_is_described() -> None:
    described = set(re.findall(r"^\| `([a-z_.]+)` \|", PAGE, re.MULTILINE))
    members = as_dict(Policy())
    for table in ("allow", "require"):
        assert {f"{table}.{name}" for name in members[table]} <= described
    assert {"only.tees", "only.chips", "only.simulated_roots", "tcb.intel.minimum_date"} <= described
    assert {"tcb.intel.statuses", "tcb.intel.advisories", "tcb.intel.minimum_evaluation", "name"} <= described
