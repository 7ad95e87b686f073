"""The owner's commands about secrets, workloads, policies, projects and tokens, against a server."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kokon.cli.main import main
from kokon.provisioning.client import AdminClient, read_access

pytest_plugins = ("owner_kit",)

CANARY = "horse-battery-staple"


# -- secrets -------------------------------------------------------------------------------------------------------


def test_secrets_come_and_go(kokon, tmp_path: Path) -> None:
    (tmp_path / "value").write_text(CANARY)
    assert kokon.done("secret", "put", "a/b", "value") == {"path": "a/secret/b", "version": 1, "size": len(CANARY)}
    kokon.typed(b"other")
    assert kokon.done("secret", "put", "a/b", "-", "--expires", "30d", "--previous", "1")["version"] == 2
    assert kokon.done("secret", "put", "a/b", "--file", "value", "--keep", "1")["version"] == 3
    one = kokon.done("secret", "list")["secrets"][0]
    assert (one["path"], one["versions"], one["expires"]) == ("a/secret/b", [3], None)
    assert kokon.refused("secret", "put", "a/b", "value", "--previous", "0") == "changed-meanwhile"
    assert kokon.refused("secret", "put", "a/b", "value", "--expires", "yesterday") == "time-malformed"
    assert kokon.refused("secret", "put", "a/b", "none") == "secret-unreadable"
    assert kokon.refused("secret", "rotate", "a/b") == "secret-not-generated"
    kokon.done("secret", "put", "a/b", "value")
    assert kokon.done("secret", "rm", "a/b", "--version", "3") == {"deleted": "a/secret/b", "version": 3}
    assert kokon.refused("secret", "rm", "a/b", "--version", "3") == "resource-unknown"
    assert "deleted" in kokon.said("secret", "rm", "a/b")
    assert kokon.said("secret", "list") == "no secrets\n"


def test_secrets_that_nobody_sees(kokon, capsys: pytest.CaptureFixture[str]) -> None:
    made = kokon.done("secret", "generate", "a/key", "--recipe", "ed25519")
    assert made["public"].startswith("-----BEGIN PUBLIC KEY-----")
    assert "PRIVATE" not in json.dumps(made)
    rotated = kokon.said("secret", "rotate", "a/key", "--previous", "1")
    assert rotated.startswith("a/secret/key: version 2, rotated\n-----BEGIN PUBLIC KEY-----")
    assert kokon.done("secret", "generate", "a/bytes") == {"path": "a/secret/bytes", "version": 1, "kind": "generated"}
    assert (
        kokon.said("secret", "derive", "a/disk", "--per", "platform")
        == "a/secret/disk: version 1, derived per platform\n"
    )
    assert kokon.refused("secret", "generate", "a/x", "--recipe", "bytes:1") == "secret-recipe"
    assert main(["secret", "derive", "a/x", "--per", "universe"]) == 2
    capsys.readouterr()
    listed = kokon.said("secret", "list")
    assert re.search(r"a/secret/key +version 2 and 1 older +generated \(ed25519\)", listed)
    assert re.search(r"a/secret/disk +version 1 +derived \(platform\)", listed)


# -- workloads -----------------------------------------------------------------------------------------------------

REFERENCES = f'[[reference]]\ntee = "snp"\nmeasurement = "{"ab" * 48}"\n'


def references(tmp_path: Path) -> str:
    path = tmp_path / "billing.toml"
    path.write_text(REFERENCES)
    return str(path)


def test_workloads_by_measurement(kokon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["workload", "add", "billing", "--references", references(tmp_path), "--secret", "billing/db"]
    first = kokon.done(*words, "--previous", "none", "--days", "3")
    assert first["resources"] == ["billing/secret/db"]
    assert kokon.refused(*words, "--previous", "none") == "changed-meanwhile"
    second = kokon.done(*words, "--previous", first["digest"], "--max-activations", "7")
    assert kokon.refused(*words, "--previous", first["digest"]) == "changed-meanwhile"
    assert kokon.refused(*words, "--previous", "no digest") == "previous-malformed"
    shown = kokon.done("workload", "show", "billing")
    assert (shown["digest"], shown["max_activations"]) == (second["digest"], 7)
    text = kokon.said("workload", "show", "billing")
    assert f"digest: {second['digest']}" in text
    assert "references:\n  [[reference]]" in text
    history = kokon.done("workload", "history", "billing")["history"]
    assert [one["digest"] for one in history] == [first["digest"], second["digest"]]
    assert first["digest"] in kokon.said("workload", "history", "billing")
    assert re.search(
        "billing +by measurement +until .* 1 resources +at most 7 activations", kokon.said("workload", "list")
    )
    main(words)
    assert "still missing: kokon secret put billing/secret/db" in capsys.readouterr().err
    assert kokon.done("workload", "rm", "billing") == {"withdrawn": "billing"}
    assert kokon.said("workload", "list") == "no workloads\n"
    for command in ("show", "history", "rm"):
        assert kokon.refused("workload", command, "billing") == "workload-not-found"


def test_workloads_typed_wrong(kokon, tmp_path: Path) -> None:
    words = ["workload", "add", "billing", "--references"]
    assert kokon.refused(*words, "none.toml") == "file-unreadable"
    assert kokon.refused(*words, references(tmp_path), "--days", "0") == "days-malformed"
    assert kokon.refused(*words, references(tmp_path), "--secret", "x") == "secret-name"
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert kokon.refused(*words, "large.toml") == "input-too-large"
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    assert kokon.refused(*words, "binary.toml") == "file-unreadable"


# -- policies and references ---------------------------------------------------------------------------------------


def test_policies(kokon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "strict.toml").write_text("[allow]\ndebug = false\n")
    (tmp_path / "lax.toml").write_text("[allow]\ndebug = true\n")
    assert "the server's hold" in kokon.said("policy", "list")
    first = kokon.done("policy", "set", "platform", "strict.toml", "--previous", "none")
    second = kokon.done("policy", "set", "platform/default", "lax.toml", "--previous", first["digest"])
    assert second["version"] == 2
    assert (
        kokon.refused("policy", "set", "platform", "strict.toml", "--previous", first["digest"]) == "changed-meanwhile"
    )
    assert main(["policy", "show", "platform"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "[allow]\ndebug = true\n"
    assert second["digest"] in shown.err
    assert kokon.done("policy", "show", "platform")["text"] == "[allow]\ndebug = true\n"
    versions = kokon.done("policy", "show", "platform", "--history")["history"]
    assert [(one["digest"], one["previous"]) for one in versions] == [
        (first["digest"], ""),
        (second["digest"], first["digest"]),
    ]
    assert first["digest"] in kokon.said("policy", "show", "platform", "--history")
    assert second["digest"] in kokon.said("policy", "list")
    kokon.typed(b"no policy")
    assert kokon.refused("policy", "set", "platform", "-") != "internal-error"
    assert kokon.done("policy", "rm", "platform") == {"deleted": "platform/default"}
    assert kokon.refused("policy", "show", "platform") == "policy-unknown"
    assert kokon.refused("policy", "show", "platforms") == "policy-kind"


# -- projects and tokens -------------------------------------------------------------------------------------------


def test_projects(kokon, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kokon.done("project", "add", "ward-7")["url"] == f"{kokon.server.url}/p/ward-7"
    assert kokon.refused("project", "add", "ward-7") == "project-exists"
    assert kokon.said("project", "list") == "default\nward-7\n"
    kokon.done("secret", "generate", "a/b", "--project", "ward-7")
    assert kokon.done("secret", "list")["secrets"] == []
    assert kokon.refused("secret", "list", "--project", "ward-8") == "project-unknown"
    assert kokon.refused("secret", "list", "--project", "Ward") == "project-name"
    monkeypatch.setenv("KOKON_PROJECT", "ward-7")
    assert len(kokon.done("secret", "list")["secrets"]) == 1
    assert kokon.done("secret", "list", "--project", "default")["secrets"] == []
    assert kokon.done("project", "list")["projects"] == ["default", "ward-7"]
    assert kokon.done("project", "rm", "ward-7") == {"closed": "ward-7"}
    assert kokon.refused("secret", "list") == "project-unknown"
    assert kokon.refused("project", "rm", "default") == "project-default"


def test_tokens_are_shown_once(kokon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["token", "new", "--name", "an auditor", "--role", "auditor", "--scope", "default:*"]
    made = kokon.done(*words, "--scope", "ward-7:a/*")
    assert made["token"].startswith(f"kokon_{made['id']}_")
    assert main(words) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(r"kokon_[a-z2-7]{12}_[\w-]{43}\n", shown.out)
    assert shown.out.strip() not in shown.err
    listed = kokon.said("token", "list")
    assert re.search(rf"{made['id']} +auditor +an auditor +default:\* ward-7:a/\* +token", listed)
    for token in (made["token"], shown.out.strip(), kokon.server.token):
        assert token not in listed
        assert token not in json.dumps(kokon.done("token", "list"))
    assert kokon.done("token", "rm", made["id"]) == {"deleted": made["id"]}
    assert made["id"] not in kokon.said("token", "list")
    assert kokon.refused("token", "rm", made["id"]) == "principal-not-found"


def test_tokens_in_a_file(kokon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kokon.done("project", "add", "ward-7")
    words = ["token", "new", "--name", "op", "--role", "operator", "-o", "op.json", "--expires", "1d", "--scope"]
    assert main([*words, "ward-7:*"]) == 0
    shown = capsys.readouterr()
    access = read_access(tmp_path / "op.json")
    assert access.token not in shown.out + shown.err
    assert (tmp_path / "op.json").stat().st_mode & 0o777 == 0o600
    assert (access.project, access.root) == ("ward-7", kokon.server.url)
    with AdminClient(access) as client:
        assert client.put("a/b/c", b"x") == 1
    assert kokon.refused("secret", "list", "--admin", "op.json", "--project", "default") == "scope-exceeded"
    assert kokon.refused("log", "--admin", "op.json") == "role-insufficient"
    assert kokon.refused(*words, "ward-7:*") == "output-exists"
    before = len(kokon.done("token", "list")["principals"])
    for file in ("op.json", "no/op.json"):
        words[words.index("-o") + 1] = file
        assert kokon.refused(*words, "ward-7:*") in ("output-exists", "output-not-written")
    words[words.index("-o") + 1] = "new.json"
    assert kokon.refused(*words, "ward-7:a//b") == "scope-malformed"
    assert not (tmp_path / "new.json").exists()
    assert len(kokon.done("token", "list")["principals"]) == before, "nobody is made whose token would be lost"
    kokon.done("token", "new", "--name", "op", "--role", "operator", "-o", "two.json", "--scope", "*:*")
    assert read_access(tmp_path / "two.json").url == kokon.server.url


def test_the_file_is_gone_if_nobody_was_made(kokon, tmp_path: Path) -> None:
    kokon.done("token", "new", "--name", "a", "--role", "auditor", "-o", "a.json", "--scope", "*:*")
    words = ["token", "new", "--name", "b", "--role", "owner", "-o", "b.json", "--scope", "*:*", "--admin", "a.json"]
    assert kokon.refused(*words) == "role-insufficient"
    assert not (tmp_path / "b.json").exists()


def test_tokens_typed_wrong(kokon, tmp_path: Path) -> None:
    words = ["token", "new", "--name", "a", "--role", "auditor", "--scope", "*:*"]
    (tmp_path / "me.pem").write_text("junk")
    assert kokon.refused(*words, "--certificate", "me.pem") == "client-certificate-malformed"
    assert kokon.refused(*words, "--certificate", "me.pem", "-o", "a.json") == "token-none"
    assert kokon.refused(*words, "--expires", "2001-01-01T00:00:00Z") == "time-malformed"
    assert kokon.refused(*words[:-1], "everything") == "scope-malformed"
    end = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    made = kokon.done(*words, "--expires", end.isoformat())
    assert made["expires"] == f"{end:%Y-%m-%dT%H:%M:%SZ}"


# -- the server ----------------------------------------------------------------------------------------------------


def test_status_and_rotation(kokon) -> None:
    told = kokon.done("provision", "status")
    assert (told["url"], told["database"]) == (kokon.server.url, "sqlite")
    text = kokon.said("provision", "status")
    assert re.search(r"default +0 secrets +0 workloads", text)
    assert "simulated roots" in text
    kid = kokon.done("provision", "rotate")["kid"]
    assert kid != told["token_key"]
    assert kid == kokon.done("provision", "status")["token_key"]
    assert kokon.done("provision", "rotate", "--data-key")["key_id"] == 2
    assert kokon.refused("provision", "rotate", "--data-key", "--master") == "rotate-options"


def test_the_log_is_told(kokon) -> None:
    kokon.done("secret", "generate", "a/b")
    entries = kokon.done("log")["entries"]
    assert [(one["index"], one["event"]) for one in entries] == [(0, "admin-login"), (1, "resource-put")]
    last = kokon.done("log", "--last", "1")
    assert [one["index"] for one in last["entries"]] == [1]
    assert (last["verified"], last["head"]["size"]) == (True, 2)
    assert "resource=a/secret/b" in kokon.said("log")
    assert re.search(r"principal-added +id=\w+ +name=owner +role=owner", kokon.said("log", "--server"))
    key = kokon.done("audit", "checkpoint")["key"]
    assert kokon.done("log", "--key", key)["verified"]
    server_key = kokon.done("audit", "checkpoint", "--server")["key"]
    assert kokon.refused("log", "--key", server_key) == "log-signature"


def test_reference_values(kokon) -> None:
    kokon.done("reference", "set", "digest=1f", "digest=2e", "rvps:///a/b:tag:=3")
    listed = {one["name"]: one["value"] for one in kokon.done("reference", "list")["references"]}
    assert listed == {"digest": ["1f", "2e"], "rvps:///a/b:tag": 3}
    assert kokon.done("reference", "rm", "rvps:///a/b:tag") == {"deleted": ["rvps:///a/b:tag"]}
    assert [one["name"] for one in kokon.done("reference", "list")["references"]] == ["digest"]
    kokon.typed(b'{"version": "0.1.0", "type": "odd", "payload": ""}')
    assert kokon.refused("reference", "set", "--message", "-") == "reference-type"
