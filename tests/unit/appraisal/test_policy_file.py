"""Policies as TOML: strict reading, writing, and what they mean in sentences."""

import contextlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from appraisal_kit import NOW
from hypothesis import given
from hypothesis import strategies as st

from kokon.appraisal.policy import BOOT_PCRS, COMPONENTS, PRODUCTS, STATUSES, Policy, Tolerance
from kokon.appraisal.policy_file import POLICY_LIMIT, as_dict, parse_policy, render_policy
from kokon.appraisal.policy_text import describe
from kokon.errors import UsageError

FULL = b"""
name = "clinic"
[allow]
debug = true
dynamic_platform = true
[require]
smt_off = true
revocation = "if-available"
maximum_age = 60
pcrs = [11, 4, 4]
[only]
tees = ["snp", "tdx", "snp"]
chips = ["00ff"]
simulated_roots = ["ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB"]
[tcb.snp]
snp = 8
[tcb.snp.Turin]
fmc = 1
[tcb.intel]
minimum_evaluation = 17
minimum_date = 2024-03-13
[[tcb.intel.statuses]]
status = "SWHardeningNeeded"
until = 2027-01-01
reason = "compiled with \\"LVI\\" mitigations"
[[tcb.intel.advisories]]
advisory = "INTEL-SA-00615"
until = 2027-01-01T02:00:00+02:00
reason = "MMIO is not used"
""".replace(b"ABAB", b"abab")


def refused(text: str | bytes) -> UsageError:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(UsageError) as caught:
        parse_policy(data)
    return caught.value


def test_nothing_said_is_strict() -> None:
    policy = parse_policy(b"")
    assert policy == Policy(name="custom")
    assert Policy().required_pcrs == BOOT_PCRS
    assert not any(getattr(policy, name) for name in Policy.__dataclass_fields__ if name.startswith("allow_"))
    assert policy.revocation == "required"


def test_every_key() -> None:
    until = datetime(2027, 1, 1, tzinfo=UTC)
    assert parse_policy(FULL) == Policy(
        name="clinic",
        allow_debug=True,
        allow_dynamic_platform=True,
        require_smt_off=True,
        revocation="if-available",
        maximum_age=timedelta(seconds=60),
        required_pcrs=(4, 11),
        only_tees=("snp", "tdx"),
        only_chips=(b"\x00\xff",),
        only_simulated_roots=("ab" * 32,),
        minimum_tcb={"snp": 8},
        minimum_tcb_by_product={"Turin": {"fmc": 1}},
        minimum_evaluation=17,
        minimum_tcb_date=date(2024, 3, 13),
        tolerated_statuses=(Tolerance("SWHardeningNeeded", until, 'compiled with "LVI" mitigations'),),
        tolerated_advisories=(Tolerance("INTEL-SA-00615", until, "MMIO is not used"),),
    )
    assert parse_policy(b'[require]\nmaximum_age = "any"').maximum_age is None
    assert parse_policy(b"[require]\npcrs = []").required_pcrs == ()


@pytest.mark.parametrize(
    ("text", "path", "near"),
    [
        ("[alow]", "alow", "did you mean allow?"),
        ("[allow]\ndebg = true", "allow.debg", "did you mean allow.debug?"),
        ("[tcb.snp.Milan]\nbootlader = 3", "tcb.snp.Milan.bootlader", "did you mean tcb.snp.Milan.bootloader?"),
        ("[tcb.snp.Rome]\nsnp = 3", "tcb.snp.Rome", "docs/POLICY.md lists all keys"),
        ("[require]\nrevocations = 'required'", "require.revocations", "did you mean require.revocation?"),
        (
            "[[tcb.intel.statuses]]\nstatus = 'OutOfDate'\nuntill = 2027-01-01\nreason = 'x'",
            "tcb.intel.statuses[0].untill",
            "did you mean tcb.intel.statuses[0].until?",
        ),
    ],
)
def test_unknown_keys_name_the_nearest(text: str, path: str, near: str) -> None:
    error = refused(text)
    assert error.code == "policy-key-unknown"
    assert repr(path) in error.message
    assert error.hint == near


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("allow = 3", "allow"),
        ("name = 3", "name"),
        ("[allow]\ndebug = 1", "allow.debug"),
        ("[tcb.snp]\nsnp = true", "tcb.snp.snp"),
        ("[tcb.snp]\nsnp = '8'", "tcb.snp.snp"),
        ("[tcb]\nsnp = 'current'", "tcb.snp"),
        ("[require]\npcrs = 4", "require.pcrs"),
        ("[require]\nrevocation = true", "require.revocation"),
        ("[require]\nmaximum_age = 'all'", "require.maximum_age"),
        ("[tcb.intel]\nminimum_date = 2024-01-01T00:00:00Z", "tcb.intel.minimum_date"),
        ("[tcb.intel]\nstatuses = [3]", "tcb.intel.statuses[0]"),
        ("[[tcb.intel.statuses]]\nstatus = 'OutOfDate'\nuntil = '2027-01-01'\nreason = 'x'", "statuses[0].until"),
    ],
)
def test_wrong_types(text: str, path: str) -> None:
    error = refused(text)
    assert error.code == "policy-type"
    assert path in error.message


STATUS = "[[tcb.intel.statuses]]\nstatus = 'OutOfDate'\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("name = ''", "name"),
        ("name = ' '", "name"),
        ('name = "a\\u0007"', "name"),
        ("[require]\nrevocation = 'never'", "require.revocation"),
        ("[require]\nmaximum_age = -1", "require.maximum_age"),
        ("[require]\npcrs = [24]", "require.pcrs"),
        ("[require]\npcrs = [true]", "require.pcrs"),
        (f"[require]\npcrs = {list(range(25))}", "require.pcrs"),
        ("[only]\ntees = []", "only.tees"),
        ("[only]\nchips = ['xy']", "only.chips"),
        ("[only]\nchips = ['AB']", "only.chips"),
        ("[only]\nchips = [3]", "only.chips"),
        ("[only]\nsimulated_roots = ['ab']", "only.simulated_roots"),
        ("[tcb.snp]\nsnp = 256", "tcb.snp.snp"),
        ("[[tcb.intel.statuses]]\nstatus = 'Revoked'\nuntil = 2027-01-01\nreason = 'x'", "statuses[0].status"),
        ("[[tcb.intel.statuses]]\nstatus = 'UpToDate'\nuntil = 2027-01-01\nreason = 'x'", "statuses[0].status"),
        ("[[tcb.intel.advisories]]\nadvisory = '00615'\nuntil = 2027-01-01\nreason = 'x'", "advisories[0].advisory"),
        (f"{STATUS}reason = 'x'", "statuses[0].until"),
        (f"{STATUS}until = 2027-01-01", "statuses[0].reason"),
        (f"{STATUS}until = 2027-01-01\nreason = ''", "statuses[0].reason"),
        (f"{STATUS}until = 2027-01-01T00:00:00\nreason = 'x'", "statuses[0].until"),
        (f"{STATUS}until = 0001-01-01T00:00:00+02:00\nreason = 'x'", "statuses[0].until"),
        (f"{STATUS}until = 2027-01-01\nreason = 'x'\n" * 2, "statuses[1].status"),
    ],
)
def test_wrong_values(text: str, path: str) -> None:
    error = refused(text)
    assert error.code == "policy-value"
    assert path in error.message


@pytest.mark.parametrize("data", [b"\xff", b"a = ", b"a = 1\na = 2", b"[" * 3000, b"x = " + b"[" * 5000])
def test_what_is_no_toml(data: bytes) -> None:
    assert refused(data).code == "policy-malformed"


def test_size() -> None:
    assert refused(b" " * (POLICY_LIMIT + 1)).code == "policy-too-large"
    assert parse_policy(b" " * POLICY_LIMIT) == Policy(name="custom")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    for given_data in (data, b"[allow]\n" + data, b"[[tcb.intel.statuses]]\n" + data):
        with contextlib.suppress(UsageError):
            assert isinstance(parse_policy(given_data), Policy)


texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)
minima = st.dictionaries(st.sampled_from(COMPONENTS), st.integers(0, 255))
moments = st.datetimes(timezones=st.just(UTC))


def tolerances(names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    made = st.builds(Tolerance, names, moments, texts)
    return st.lists(made, unique_by=lambda one: one.name, max_size=3).map(tuple)


policies = st.builds(
    Policy,
    name=texts,
    **{name: st.booleans() for name in Policy.__dataclass_fields__ if name.startswith(("allow_", "require_"))},
    revocation=st.sampled_from(["required", "if-available"]),
    maximum_age=st.none() | st.integers(0, 10**8).map(lambda seconds: timedelta(seconds=seconds)),
    required_pcrs=st.sets(st.integers(0, 23)).map(lambda numbers: tuple(sorted(numbers))),
    minimum_tcb=minima,
    minimum_tcb_by_product=st.dictionaries(st.sampled_from(PRODUCTS), minima),
    tolerated_statuses=tolerances(st.sampled_from(STATUSES)),
    tolerated_advisories=tolerances(st.integers(0, 99999).map(lambda number: f"INTEL-SA-{number:05}")),
    minimum_evaluation=st.integers(0, 2**31 - 1),
    minimum_tcb_date=st.none() | st.dates(),
    only_tees=st.lists(st.sampled_from(["snp", "tdx", 'a\\b"c']), unique=True).map(tuple),
    only_chips=st.lists(st.binary(min_size=1, max_size=64), unique=True).map(tuple),
    only_simulated_roots=st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), unique=True).map(tuple),
)


@given(policies)
def test_writing_and_reading_give_the_same(policy: Policy) -> None:
    data = render_policy(policy)
    assert parse_policy(data) == policy
    assert render_policy(parse_policy(data)) == data
    assert as_dict(policy)["name"] == policy.name


@given(policies)
def test_every_decision_has_a_sentence(policy: Policy) -> None:
    text = "\n".join(describe(policy, NOW))
    for one in (*policy.tolerated_statuses, *policy.tolerated_advisories):
        assert one.name in text
        assert one.reason in text
    assert all(sentence for sentence in describe(policy))


def test_each_setting_changes_the_sentences() -> None:
    plain = describe(Policy())
    other = {
        "name": "x",
        "revocation": "if-available",
        "maximum_age": None,
        "required_pcrs": (),
        "minimum_tcb": {"snp": 8},
        "minimum_tcb_by_product": {"Milan": {"snp": 8}},
        "tolerated_statuses": (Tolerance("OutOfDate", NOW, "r"),),
        "tolerated_advisories": (Tolerance("INTEL-SA-1", NOW, "r"),),
        "minimum_evaluation": 1,
        "minimum_tcb_date": date(2024, 1, 1),
        "only_tees": ("snp",),
        "only_chips": (b"\1",),
        "only_simulated_roots": ("ab",),
    }
    for name in Policy.__dataclass_fields__:
        policy = Policy(**{name: other.get(name, True)})
        assert describe(policy) != plain, name


def test_tolerances_that_ended_are_called_so() -> None:
    policy = Policy(tolerated_statuses=(Tolerance("OutOfDate", NOW, "r"),))
    assert any("IS NOT ANY MORE" in sentence for sentence in describe(policy, NOW))
    assert not any("IS NOT ANY MORE" in sentence for sentence in describe(policy, NOW - timedelta(seconds=1)))
