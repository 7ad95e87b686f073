"""What the owner's commands read of their command lines, and what they send for it."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from kokon.cli.access import Access, moment, rfc3339, table
from kokon.cli.admit import Limits, limits_of
from kokon.cli.main import main
from kokon.cli.policy import digest_option
from kokon.cli.reference import parse_values
from kokon.errors import UsageError
from kokon.image.ecdsa import public_pem
from kokon.provisioning.client import AdminClient
from kokon.provisioning.client_records import sample_message
from kokon.provisioning.rego.reference import read_message
from kokon.provisioning.rules.rule import parse_rule

NOW = datetime(2026, 5, 1, 12, 0, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1h", "2026-05-01T13:00:00Z"),
        ("30d", "2026-05-31T12:00:00Z"),
        ("2w", "2026-05-15T12:00:00Z"),
        ("1y", "2027-05-01T12:00:00Z"),
        ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00Z"),
    ],
)
def test_times_in_the_future(text: str, found: str) -> None:
    assert rfc3339(moment(text, NOW)) == found


@pytest.mark.parametrize(
    "text",
    ["", "30", "0d", "-1d", "1m", "200y", "999999y", "2026-05-01T12:00:00Z", "2027-01-31T12:00:00", "2027-01-31", "x"],
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        moment(text, NOW)
    assert caught.value.code == "time-malformed"


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,8}[hdwy]", fullmatch=True))
def test_property_moments_are_later(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert NOW < moment(text, NOW) + timedelta(seconds=1) <= NOW + timedelta(days=36501)


def test_tables_are_aligned() -> None:
    assert table([("a", "bb"), ("ccc", "")], "none") == "a    bb\nccc"
    assert table([], "none") == "none"


def test_previous_as_typed() -> None:
    assert (digest_option(None), digest_option("none"), digest_option("ab")) == (None, "", "ab")


def test_reference_values_as_typed() -> None:
    texts = ("launch_digest=1f", "launch_digest=2e", "svn:=3", "rvps:///a:tag=x=y", 'pair:={"a": [1.5]}', "empty=")
    values = parse_values(texts)
    assert values == {
        "launch_digest": ["1f", "2e"],
        "svn": 3,
        "rvps:///a:tag": ["x=y"],
        "pair": {"a": [1.5]},
        "empty": [""],
    }
    read = read_message(sample_message(values), NOW)
    assert {one.name: one.value for one in read} == values


@pytest.mark.parametrize(
    "texts", [("a",), ("=b",), (":=3",), ("a:=x",), ("a:=1", "a:=2"), ("a=b", "a:=1"), ("a:=1", "a=b"), ("a:=[1",)]
)
def test_reference_values_typed_wrong(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_values(texts)
    assert caught.value.code == "reference-value"


def test_limits_are_sent_as_they_are_typed(tmp_path: Path) -> None:
    assert limits_of(Limits(), "policy") == {}
    (tmp_path / "p.toml").write_text("x")
    limits = Limits(tee=("snp",), chip=("ab",), policy=tmp_path / "p.toml", max_activations=0)
    assert limits_of(limits, "platform") == {"tees": ["snp"], "chips": ["ab"], "max_activations": 0, "platform": "x"}


# -- rules ---------------------------------------------------------------------------------------------------------


def key_file(path: Path) -> str:
    path.write_text(public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    return str(path)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What commands ask the server for; it grants everything."""
    asked: list[Any] = []

    class Granting:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def admit(self, body: dict[str, Any]) -> dict[str, Any]:
            asked.append(body)
            return {"resources": ["clinic/secret/db"], "not_after": "2027"}

        def secrets(self) -> list[dict[str, Any]]:
            return []

        def remove_statement(self, name: str, host_data: str) -> None:
            asked.append((name, host_data))

        def register(self, message: bytes) -> None:
            asked.append(message)

        def remove_reference(self, name: str) -> None:
            asked.append(name)

        def references(self) -> list[dict[str, Any]]:
            return [{"name": "a", "value": ["b"], "expires": "2027"}]

    monkeypatch.setattr(AdminClient, "from_home", lambda *_: Granting())
    return asked


def test_a_rule_is_sent_as_the_server_reads_it(sent, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["workload", "allow", "clinic", "--signer", key_file(tmp_path / "s.pub"), "--minimum-version", "2.1.0"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == "admitted clinic: until 2027\n"
    assert "kokon secret put clinic/secret/db" in shown.err
    rule = parse_rule(sent.pop(), datetime.now(UTC))
    assert (rule.name, rule.minimum_version, rule.certifiers, rule.resources) == ("clinic", "2.1.0", (), ())
    one, two = (key_file(tmp_path / f"{name}.pub") for name in "ab")
    words += ["--certifier", one, "--certifier", two, "--certifiers-needed", "1", "--image", "h/clinic"]
    words += ["--secret", "clinic/db", "--secret", "kbs:///a/b/c", "--volume", "data", "--volume", "kbs:///d/e/f"]
    words += ["--tee", "snp", "--chip", "ab" * 64, "--max-activations", "5", "--days", "3", "--previous", "none"]
    assert main(words) == 0
    body = sent.pop()
    assert body.pop("previous") == ""
    rule = parse_rule(body, datetime.now(UTC))
    assert (len(rule.certifiers), rule.certifiers_needed, rule.image) == (2, 1, "h/clinic")
    assert rule.resources == ("clinic/secret/db", "a/b/c")
    assert rule.generate == ("clinic/volume/data", "d/e/f")
    assert (rule.tees, rule.chips, rule.max_activations) == (("snp",), (bytes.fromhex("ab" * 64),), 5)
    assert rule.not_after < datetime.now(UTC) + timedelta(days=4)


def test_a_rule_typed_wrong(sent, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["workload", "allow", "clinic", "--minimum-version", "1", "--json", "--signer"]
    for more, code in (
        ([str(tmp_path / "none")], "file-unreadable"),
        ([key_file(tmp_path / "s"), "--days", "0"], "days-malformed"),
    ):
        assert main([*words, *more]) != 0
        assert json.loads(capsys.readouterr().err)["error"]["code"] == code
    assert sent == []


def test_a_release_is_taken_back(sent) -> None:
    assert main(["workload", "revoke", "clinic", "ab" * 32]) == 0
    assert sent == [("clinic", "ab" * 32)]


def test_references_are_sent(sent, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "set", "a=b", "c:=1"]) == 0
    assert capsys.readouterr().out == "a: set\nc: set\n"
    assert {one.name: one.value for one in read_message(sent.pop(), NOW)} == {"a": ["b"], "c": 1}
    (tmp_path / "message.json").write_text('{"type": "corim"}')
    assert main(["reference", "set", "--message", str(tmp_path / "message.json")]) == 0
    assert sent.pop() == b'{"type": "corim"}'
    assert main(["reference", "rm", "a", "rvps:///b:c"]) == 0
    assert sent == ["a", "rvps:///b:c"]
    capsys.readouterr()
    assert main(["reference", "list"]) == 0
    assert capsys.readouterr().out == 'a  ["b"]  until 2027\n'
    for words in (["reference", "set"], ["reference", "set", "a=b", "--message", "x"]):
        assert main([*words, "--json"]) == 2
        assert json.loads(capsys.readouterr().err)["error"]["code"] == "reference-values-missing"


def test_access_is_told_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    from kokon.cli.access import connect

    asked: list[Any] = []
    monkeypatch.setattr(AdminClient, "from_home", lambda *words: asked.append(words))
    connect(Access(admin=Path("a"), project="b"))
    assert asked == [(Path("a"), "b")]
