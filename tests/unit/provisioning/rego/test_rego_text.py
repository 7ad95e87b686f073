"""Policy text before the engine sees it: bounds, literals, names."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rego_kit import policy

from kokon.errors import MalformedError
from kokon.provisioning.rego.text import DEPTH_LIMIT, POLICY_LIMIT, read_policy, spell


def refused(text: str) -> tuple[str, str]:
    with pytest.raises(MalformedError) as caught:
        read_policy(text)
    return caught.value.code, caught.value.found or ""


def test_size_is_counted_in_bytes() -> None:
    head = "package policy\n#"
    assert read_policy(head + "x" * (POLICY_LIMIT - len(head))).package == "policy"
    assert refused(head + "x" * (POLICY_LIMIT - len(head) + 1))[0] == "policy-too-large"
    assert refused(head + "ü" * (POLICY_LIMIT // 2))[0] == "policy-too-large"


@pytest.mark.parametrize("pair", ["[]", "{}", "()"])
def test_nesting_is_bounded(pair: str) -> None:
    assert read_policy(policy("x := " + pair[0] * DEPTH_LIMIT + pair[1] * DEPTH_LIMIT))
    code, found = refused(policy("x := " + pair[0] * (DEPTH_LIMIT + 1) + pair[1] * (DEPTH_LIMIT + 1)))
    assert (code, found) == ("policy-too-deep", "more in line 3")


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    many = "[" * 500
    text = policy(f'x := "{many}\\"{many}"\ny := `{many}"`\n# {many} "`\nz := 1')
    assert read_policy(text).text == text


def test_a_string_does_not_hide_what_follows_it() -> None:
    deep = "[" * (DEPTH_LIMIT + 1)
    for quoted in (r'"\\"', '"#"', "`\\`", '"`"', '"a"#"\n'):
        assert refused(policy(f"x := {quoted} {deep}"))[0] == "policy-too-deep", quoted


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ('x := "open', "line 3"),
        ('x := "over\nlines"', "line 3"),
        ("\nx := `open", "line 4"),
        ("x := [1", "line 3"),
        ("x := 1]", "line 3"),
        ("x := [1}", "line 3"),
        (r'x := "\q"', "line 3"),
        (r'x := "\ud800"', "line 3"),
        ('x := "tab\there"', "line 3"),
        ('x := $"{y}"', "line 3"),
        ("x := $`{y}`", "line 3"),
        ("x := 1 # \0", "line 3"),
        ("x := 1 # \ufeff", "line 3"),
    ],
)
def test_what_is_no_rego(body: str, line: str) -> None:
    assert refused(policy(body)) == ("policy-malformed", line)


def test_text_that_is_no_unicode() -> None:
    assert refused(policy('x := "\ud800"'))[0] == "policy-malformed"


def test_strings_get_one_spelling() -> None:
    read = read_policy(policy(r'x := "\u00e9\/\u0041\n\"\\\u0000"'))
    assert read.text == policy('x := "é/A\\n\\"\\\\\\u0000"')


def test_raw_strings_and_comments_stay() -> None:
    text = policy('x := `\\u00e9\\/` # "\\u00e9"')
    assert read_policy(text).text == text


@given(st.text().filter(lambda text: "\ufeff" not in text))
def test_a_string_keeps_its_meaning(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    written = read_policy(policy(f"x := {json.dumps(text)}")).text
    assert json.loads(written.partition(":= ")[2]) == text
    assert spell(text) == written.partition(":= ")[2].strip()


@given(st.text(alphabet='{}[]()"`\\#\n ab$.:=', max_size=60))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        read = read_policy(text)
    except MalformedError:
        return
    assert read_policy(read.text).text == read.text
    assert read.digest == hashlib.sha256(text.encode()).digest()


def test_names() -> None:
    read = read_policy(
        "# package other\npackage policy\nimport data.lib.tools as t\nimport input.x\n"
        'f(x) := count(x)\ndefault g(_) := 1\nallow if { f(1); t.go(1); x.y(1); nope(1); not input.a; "h(1)" }\n'
        "y := now(1)\n"
    )
    assert read.package == "policy"
    assert read.functions == {"f", "g"}
    assert read.calls == ("nope",)
    assert read.speaks_of("allow")
    assert read.speaks_of("t")
    assert not read.speaks_of("deny")


def test_spelling_of_values() -> None:
    assert (
        spell({"a": 'é\n"', "b": [1, True, None, 2**70]}) == '{"a":"é\\n\\"","b":[1,true,null,1180591620717411303424]}'
    )


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, "\ud800", {1: 2}, [[[]] * 1]])
def test_values_without_a_spelling(value: object) -> None:
    deep: object = value
    if value == [[[]]]:
        for _ in range(40):
            deep = [deep]
    with pytest.raises(ValueError):
        spell(deep)


def test_values_of_other_types() -> None:
    with pytest.raises(TypeError):
        spell({"a": b"bytes"})
