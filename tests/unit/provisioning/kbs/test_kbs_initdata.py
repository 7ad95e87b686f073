"""Launch documents: what TOML they may be, and that hostile ones cost nothing."""

import hashlib
import resource
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.provisioning.kbs.initdata import ALGORITHMS, LINES, parse_init_data

HEAD = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n'


def refusal(text: str | bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_init_data(text.encode() if isinstance(text, str) else text)
    return caught.value.code


def test_the_vector() -> None:
    """kbs.md g.5."""
    document = parse_init_data(f"{HEAD}\"a.txt\" = '''hi'''\n".encode())
    assert document.digest.hex() == "fd03e8704ab12bd9f7a4525a1f6fcc5ba96969454d7a0855117493a4033df660"
    assert document.data == {"a.txt": "hi"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(algorithm: str) -> None:
    text = HEAD.replace("sha256", algorithm).encode()
    document = parse_init_data(text)
    assert (document.algorithm, document.text) == (algorithm, text)
    assert document.digest == hashlib.new(algorithm, text).digest()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("a = 'x' # comment", "x"),
        ('a = "x\\n\\u00e9\\""', 'x\n\u00e9"'),
        ('"a" = """\nx "quoted" ""\\\n   y"""', 'x "quoted" ""y'),
        ('a = """x"""""', 'x""'),
        ("a = '''\nx = 'y' ''\n[[z]]\n'''", "x = 'y' ''\n[[z]]\n"),
        ("a = '''x'''''", "x''"),
        ("a\t=\t''\r", ""),
        ("'a'=''''x'''", "'x"),
    ],
)
def test_texts_of_every_kind(entry: str, value: str) -> None:
    text = f"# first\n\n  {HEAD}\n \t\n{entry}\n# last"
    assert parse_init_data(text.encode()).data == {"a": value} == tomllib.loads(text)["data"]


@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.text()))
@settings(max_examples=60)
def test_what_json_escapes_is_read_back(data: dict[str, str]) -> None:
    import json

    entries = (f'"{name}" = {json.dumps(value)}'.replace("\x7f", "\\u007f") for name, value in data.items())
    plain = [entry for entry in entries if "\\ud" not in entry]
    document = parse_init_data((HEAD + "\n".join(plain)).encode())
    assert dict(document.data) == {name: value for name, value in data.items() if name in document.data}
    assert len(document.data) == len(plain)


@given(st.text(st.sampled_from("a.'\"\\=[]{}\n# \t\r\x00"), max_size=40))
@settings(max_examples=150)
def test_only_toml_gets_through(entry: str) -> None:
    text = HEAD + entry
    try:
        data = parse_init_data(text.encode()).data
    except MalformedError:
        return
    assert data == tomllib.loads(text)["data"]


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        "",
        HEAD.replace("0.1.0", "0.2.0"),
        HEAD.replace("sha256", "sm3"),
        HEAD.replace("sha256", "md5"),
        HEAD.replace("[data]", ""),
        HEAD.replace("[data]", "data = 'x'"),
        HEAD.replace("version", "versio"),
        "more = 'x'\n" + HEAD,
        HEAD + "a = 1",
        HEAD + "a = ['x']",
        HEAD + "a.b = 'x'",
        HEAD + "a = {b = 'x'}",
        HEAD + "[other]",
        HEAD + "a = 'x'\na = 'y'",
        HEAD + "a = 'x' b = 'y'",
        HEAD + 'a = "\\x"',
        HEAD + "a = '''x''''''",
        HEAD + "a = 'x\ny'",
        HEAD + "a = '\x00'",
    ],
)
def test_what_is_refused(text: str | bytes) -> None:
    assert refusal(text) == "init-data-malformed"


@pytest.mark.parametrize(
    "text",
    [
        "a." * 300_000 + "a = 1",
        "[" + "a." * 300_000 + "a]",
        "a = " + "[" * 300_000,
        "a = " + "{a=" * 200_000,
        HEAD + "\n" * (LINES + 1),
        HEAD + "\n".join(f"k{number} = ''" for number in range(LINES + 1)),
        HEAD + 'a = """' + '"x' * 300_000,
        HEAD + "a = '''" + "''x" * 200_000,
    ],
)
def test_hostile_documents_take_no_memory(text: str) -> None:
    """tomllib alone takes gigabytes for the first of these."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(text) == "init-data-malformed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
