"""What a policy may answer."""

from dataclasses import replace

import pytest

from kokon.appraisal.vector import ASPECTS
from kokon.errors import DeniedError
from kokon.provisioning.rego.claims import Extension, TrustClaims, complaint, read_allow, read_trust, read_value
from unit.appraisal.appraisal_kit import SNP

UNDEFINED = "undefined"


def printed(text: str) -> str:
    return f'{{"expressions":[{text}]}}'


def denied(claims: str, extensions: str = UNDEFINED) -> DeniedError:
    with pytest.raises(DeniedError) as caught:
        read_trust(claims, extensions)
    return caught.value


def test_a_whole_answer() -> None:
    found = read_trust(
        printed('{"hardware":2, "executables":3, "file-system":-128}'),
        printed('[{"name":"ear.trustee.identifiers", "key":-18, "value":{"validated":{}}}]'),
    )
    assert found.vector == dict.fromkeys(ASPECTS, 0) | {"hardware": 2, "executables": 3, "file-system": -128}
    assert found.extensions == (Extension("ear.trustee.identifiers", -18, {"validated": {}}),)
    assert found.status == "contraindicated"
    assert found.appraisal("default") == {
        "ear.status": "contraindicated",
        "ear.trustworthiness-vector": found.vector,
        "ear.appraisal-policy-id": "default",
        "ear.trustee.identifiers": {"validated": {}},
    }


def test_nothing_is_claimed_without_the_rule() -> None:
    found = read_trust(UNDEFINED, UNDEFINED)
    assert found == TrustClaims(dict.fromkeys(ASPECTS, 0), ())
    assert found.status == "none"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (0, "none"), (1, "none"), (-1, "none"), (2, "affirming"), (31, "affirming"), (-2, "affirming"),
        (-32, "affirming"), (32, "warning"), (95, "warning"), (-33, "warning"), (-96, "warning"),
        (96, "contraindicated"), (127, "contraindicated"), (-97, "contraindicated"), (-128, "contraindicated"),
    ],
)  # fmt: skip
def test_tiers(value: int, status: str) -> None:
    assert read_trust(printed(f'{{"hardware":{value}}}'), UNDEFINED).status == status


def test_an_empty_object() -> None:
    assert denied(printed("{}")).code == "policy-undefined"


@pytest.mark.parametrize(
    "claims",
    [
        '{"hardware":128}', '{"hardware":-129}', '{"hardware":true}', '{"hardware":"2"}', '{"hardware":2.0}',
        '{"hardware":null}', '{"file_system":2}', '[2]', '2', 'true', 'null', '"x"', '{"hardware":2,"hardware":3}',
        '{"hardware":' + "9" * 5000 + "}", "NaN", '1,2', '', '[' * 40 + ']' * 40,
    ],
)  # fmt: skip
def test_nonsense_for_claims(claims: str) -> None:
    assert denied(printed(claims)).code == "policy-malformed"


@pytest.mark.parametrize(
    "text", ["", "x", "{}", "[]", '{"expressions":[]}', '{"expressions":[1],"bindings":{}}', "\ud800"]
)
def test_nonsense_that_is_printed(text: str) -> None:
    assert denied(text).code == "policy-malformed"


def test_an_answer_that_is_too_large() -> None:
    assert denied(UNDEFINED, printed('"' + "x" * (256 << 10) + '"')).code == "policy-malformed"


@pytest.mark.parametrize(
    "extensions",
    [
        "{}", '"x"', "[1]", '[{"name":"a","key":1}]', '[{"name":"a","key":1,"value":1,"more":1}]',
        '[{"name":1,"key":1,"value":1}]', '[{"name":"","key":1,"value":1}]', '[{"name":"a b","key":1,"value":1}]',
        '[{"name":"a","key":true,"value":1}]', '[{"name":"a","key":"1","value":1}]',
        '[{"name":"a","key":9223372036854775808,"value":1}]',
        '[{"name":"a","key":1,"value":1},{"name":"a","key":2,"value":1}]',
        "[" + ",".join(f'{{"name":"a{number}","key":1,"value":1}}' for number in range(33)) + "]",
    ],
)  # fmt: skip
def test_nonsense_for_extensions(extensions: str) -> None:
    assert denied(printed('{"hardware":2}'), printed(extensions)).code == "policy-malformed"


@pytest.mark.parametrize(
    "name",
    [
        "ear.status",
        "ear.trustworthiness-vector",
        "ear.appraisal-policy-id",
        "ear.veraison.annotated-evidence",
        "kokon.checks",
        "kokon.anything",
    ],
)
def test_an_extension_cannot_pass_for_the_verdict(name: str) -> None:
    extension = f'[{{"name":"{name}","key":1,"value":"affirming"}}]'
    assert denied(printed('{"hardware":97}'), printed(extension)).code == "policy-malformed"


def test_allow() -> None:
    assert read_allow(printed("true")) is True
    assert read_allow(printed("false")) is False
    assert read_allow(UNDEFINED) is None
    for value in ("1", '"true"', "[true]", "null", "{}", "0"):
        with pytest.raises(DeniedError) as caught:
            read_allow(printed(value))
        assert caught.value.code == "policy-malformed"


def test_errors_of_the_engine() -> None:
    text = "(error\n  (errormsg 26:Function not found: nofunc)\n  (errorast\n    (rego-input)))\n"
    with pytest.raises(DeniedError) as caught:
        read_value("allow", text)
    assert (caught.value.code, caught.value.found) == ("policy-malformed", "Function not found: nofunc")
    with pytest.raises(DeniedError) as caught:
        read_value("allow", "<error>")
    assert caught.value.code == "policy-malformed"


def test_complaints_have_lines() -> None:
    text = (
        "(rego-errorseq\n  (error 6:p.rego|24|1\n    (errormsg 16:this is unclosed)\n    (errorast |24|1))\n"
        "  (error 6:q.rego|0|7\n    (errormsg 3:bad)\n    (errorast)))"
    )
    assert complaint(text, {"p.rego": "package policy\nallow if {"}) == "line 2: this is unclosed; bad"
    assert complaint("the policy does not compile") == "the policy does not compile"
    assert complaint("(x" * 200) == "the engine gives no reason"


def test_hardware_that_is_simulated() -> None:
    claims = TrustClaims(dict.fromkeys(ASPECTS, 2))
    assert claims.of(SNP) is claims
    found = claims.of(replace(SNP, simulated=True))
    assert found.vector == dict.fromkeys(ASPECTS, 2) | {"hardware": 0, "runtime-opaque": 0}
    worse = TrustClaims({**claims.vector, "hardware": 97}).of(replace(SNP, simulated=True))
    assert worse.status == "contraindicated"


def test_samples_are_never_affirming() -> None:
    claims = TrustClaims(dict.fromkeys(ASPECTS, 2)).of(replace(SNP, tee="sample", simulated=True))
    assert claims.status == "contraindicated"
