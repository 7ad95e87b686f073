"""Two real replicas on one PostgreSQL: what is done at one holds at the other, even at one that hears of nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from database_factory import Postgres
from provisioning_factory import DEBUG, POLICY, attestation, launch
from test_provisioning_admin import LAX, PATH, STRICT, call, of_project, principal, released

from kokon.provisioning.ledger.audit import verify_export
from kokon.provisioning.ledger.keys import parse_verifier_key
from kokon.provisioning.state import Settings
from kokon.tee.endorsements import Endorsements


@dataclass
class Replicas:
    """Starts and ends replicas; all have the master key, the owner's token and the author of the first."""

    home: Path
    settings: Settings
    endorsements: Endorsements
    serve: Callable[..., contextlib.AbstractContextManager[Any]]
    stack: contextlib.ExitStack
    running: dict[str, contextlib.ExitStack] = field(default_factory=dict)
    first: Any = None

    def start(self, name: str) -> Any:
        options: dict[str, Any] = {"settings": self.settings}
        if self.first is not None:
            (self.home / name).mkdir(0o700)
            shutil.copy(self.first.replica.directory / "master.key", self.home / name)
            options["token"] = self.first.token
        stack = self.running[name] = self.stack.enter_context(contextlib.ExitStack())
        server = stack.enter_context(self.serve(self.home / name, self.endorsements, **options))
        self.first = self.first or server
        server.author, server.tee_key = self.first.author, self.first.tee_key
        return server

    def end(self, name: str) -> None:
        self.running[name].close()


@pytest.fixture
def replicas(tmp_path: Path, chip: Any, serve: Any, postgres: Postgres) -> Iterator[Replicas]:
    endorsements = Endorsements(accepted_simulated=frozenset({chip.root}))
    with contextlib.ExitStack() as stack:
        yield Replicas(tmp_path, Settings(database=postgres.reuse()), endorsements, serve, stack)


@pytest.fixture
def pair(replicas: Replicas) -> tuple[Any, Any]:
    return replicas.start("one"), replicas.start("two")


def soon(holds: Callable[[], bool]) -> None:
    """Until a replica has heard of it."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "never"
        time.sleep(0.01)


def hear(server: Any) -> None:
    """Let a replica know all that there is."""
    server.store._writer.refresh_all().result()


def deafen(server: Any) -> None:
    """From now on a replica hears of nothing, as if its listening connection were dead and nobody had noticed."""
    hear(server)
    server.store._listener.close()
    server.store._writer._task(lambda: None).result()


def released_events(server: Any) -> list[dict[str, Any]]:
    return [one for one in server.events() if one["event"] == "resource-released"]


def get(server: Any, token: str, path: str = PATH) -> httpx2.Response:
    """A resource, by a guest that has nothing but its token."""
    with server.client() as client:
        return client.get(f"/kbs/v0/resource/{path}", headers={"Authorization": f"Bearer {token}"})


def token_keys(server: Any) -> list[str]:
    return [one["kid"] for one in server.guest.get("/.well-known/jwks.json").json()["keys"]]


def header_of(token: str) -> str:
    return token.partition(".")[0]


# -- what both are -------------------------------------------------------------------------------------------------


def test_both_are_one_server(pair: tuple[Any, Any]) -> None:
    one, two = pair
    assert one.certificate == two.certificate
    assert token_keys(one) == token_keys(two)
    keys = [server.guest.get("/kokon/v1/owner-key").json() for server in pair]
    assert keys[0] == keys[1]
    found = [call(server, one.token, "GET", "/kokon/v1/status").json()["key_ring"] for server in pair]
    assert found[0] == found[1]
    assert len(call(one, one.token, "GET", "/kokon/v1/principals").json()["principals"]) == 1, "one owner, made once"
    starts = [entry for entry in two.server_events() if entry["event"] == "server-started"]
    assert len(starts) == 2
    assert [entry["event"] for entry in two.server_events()].count("server-key-made") == 4


def test_replicas_that_start_at_once_are_one_server(replicas: Replicas) -> None:
    """On an empty database, with the master key that `init` made for both."""
    from kokon.provisioning.custody.file import FileHolder
    from kokon.provisioning.custody.vault import create

    names = ("one", "two", "three")
    create(replicas.home, FileHolder())
    for name in names:
        (replicas.home / name).mkdir(0o700)
        shutil.copy(replicas.home / "master.key", replicas.home / name)
    gate = threading.Barrier(len(names))

    def start(name: str) -> tuple[str, str, list[str], tuple[str, ...]]:
        with contextlib.ExitStack() as stack:
            gate.wait(20)
            server = stack.enter_context(
                replicas.serve(replicas.home / name, replicas.endorsements, settings=replicas.settings, token="none")
            )
            gate.wait(20)
            owners = server.store.snapshot("").names("principal")
            return server.certificate, server.store.ring.identity, token_keys(server), owners

    with ThreadPoolExecutor(len(names)) as threads:
        found = list(threads.map(start, names))
    assert found == [found[0]] * len(names)
    assert len(found[0][3]) == 1, "one owner"


def test_a_handshake_may_be_spread_over_both(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    with one.client() as client:
        nonce = one.challenge(client)
        message = attestation(launch(chip.processor, document), nonce, one.tee_key, document)
        answer = client.post(f"{two.url}/kbs/v0/attest", json=message)
        assert answer.status_code == 200, answer.text
        assert client.get(f"{one.url}/kbs/v0/resource/{PATH}").status_code == 200, "by the cookie"
    for server in pair:
        assert released(server, token=answer.json()["token"]) == b"correct horse"
    told = [entry["token"] for entry in released_events(one)]
    assert len(told) == 3
    assert len(set(told)) == 1


def test_one_log_tells_of_both(pair: tuple[Any, Any]) -> None:
    one, two = pair
    versions = [server.admin.put(PATH, str(number).encode()) for number in range(3) for server in pair]
    assert versions == [1, 2, 3, 4, 5, 6]
    assert [entry["event"] for entry in two.events()] == ["resource-put"] * 6
    key = parse_verifier_key(call(two, one.token, "GET", "/kokon/v1/log/key").text.strip())
    for server in pair:
        lines = call(server, one.token, "GET", "/kokon/v1/log/export").content.splitlines(keepends=True)
        assert verify_export(lines, [key]).size >= 6


# -- nothing is released on what was ---------------------------------------------------------------------------------


def test_what_is_withdrawn_at_one_is_refused_at_the_other_at_once(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    token = two.attest(chip, document).json()["token"]
    assert released(two, token=token) == b"correct horse"
    deafen(two)
    one.admin.withdraw("clinic")
    assert two.core.known_catalogue("default").workloads, "it does not know yet"
    answer = get(two, token)
    assert (answer.status_code, one.denial(answer)[0]) == (403, "workload-withdrawn")
    events = [entry["event"] for entry in one.events()]
    assert "resource-released" not in events[events.index("workload-withdrawn") :]


def test_nobody_attests_to_what_was_withdrawn_at_the_other(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    assert two.attest(chip, document).status_code == 200
    deafen(two)
    one.admin.withdraw("clinic")
    assert two.core.known_catalogue("default").workloads, "it does not know yet"
    answer = two.attest(chip, document)
    assert (answer.status_code, one.denial(answer)[0]) == (403, "workload-unknown")
    events = [entry["event"] for entry in one.events()]
    assert "attestation-granted" not in events[events.index("workload-withdrawn") :]


def test_a_policy_of_one_holds_at_the_other_at_once(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    one.admin.set_policy("platform", "default", LAX)
    hear(two)
    assert two.attest(chip, document, policy=POLICY | DEBUG).status_code == 200
    deafen(two)
    one.admin.set_policy("platform", "default", STRICT)
    assert one.denial(two.attest(chip, document, policy=POLICY | DEBUG))[0] == "debug-enabled"


def test_the_newest_secret_is_released_at_once(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    token = two.attest(chip, document).json()["token"]
    assert released(two, token=token) == b"correct horse"
    deafen(two)
    assert one.admin.put(PATH, b"changed after a leak") == 2
    assert released(two, token=token) == b"changed after a leak"
    one.admin.delete(PATH)
    assert one.denial(get(two, token))[0] == "resource-unknown"


def test_access_that_is_taken_away_at_one_ends_at_the_other_at_once(pair: tuple[Any, Any]) -> None:
    one, two = pair
    token = principal(one, "operator", ("default", "*"))
    soon(lambda: call(two, token, "GET", "/kokon/v1/secrets").status_code == 200)
    deafen(two)
    identity = token.split("_")[1]
    assert call(one, one.token, "DELETE", f"/kokon/v1/principals/{identity}").status_code == 200
    answer = call(two, token, "POST", f"/kbs/v0/resource/{PATH}", content=b"mine")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "principal-unknown")
    assert one.admin.secrets() == []


def test_a_project_that_one_closed_is_closed_to_admins_at_once(pair: tuple[Any, Any]) -> None:
    one, two = pair
    call(one, one.token, "POST", "/kokon/v1/projects", json={"name": "bank"})
    hear(two)
    assert call(two, one.token, "POST", f"/p/bank/kbs/v0/resource/{PATH}", content=b"x").status_code == 200
    deafen(two)
    call(one, one.token, "DELETE", "/kokon/v1/projects/bank")
    answer = call(two, one.token, "POST", f"/p/bank/kbs/v0/resource/{PATH}", content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "project-unknown")


def test_two_who_change_at_both(pair: tuple[Any, Any]) -> None:
    """Of two who both looked at what was there before, one loses."""
    one, two = pair
    first = one.admin.set_policy("platform", "default", LAX, "")
    deafen(two)
    second = one.admin.set_policy("platform", "default", STRICT, first["digest"])
    body = {"text": 'name = "mine"\n', "previous": first["digest"]}
    answer = call(two, one.token, "PUT", "/kokon/v1/policies/platform/default", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "changed-meanwhile")
    assert one.admin.policy("platform", "default")["digest"] == second["digest"]


def test_a_limit_on_activations_holds_over_both(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit(max_activations=5)
    hear(two)

    def guest(server: Any) -> tuple[int, str]:
        with server.client() as client:
            answer = server.attest(chip, document, client)
            return answer.status_code, answer.json().get("detail", "")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(guest, [one, two] * 8))
    assert sorted(status for status, _ in answers) == [200] * 5 + [403] * 11
    assert all(detail.startswith("activations-exhausted") for status, detail in answers if status != 200)
    events = [entry["event"] for entry in one.events()]
    assert events.count("attestation-granted") == 5


# -- what is heard of ----------------------------------------------------------------------------------------------


def test_a_secret_of_one_is_known_at_the_other(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    soon(lambda: two.attest(chip, document).status_code == 200)
    token = two.attest(chip, document).json()["token"]
    for server, other in ((one, two), (two, one)):
        version = server.admin.put(PATH, server.url.encode())
        assert released(other, token=token) == server.url.encode()
        assert [secret["version"] for secret in other.admin.secrets() if secret["path"] == PATH] == [version]


def test_a_project_of_one_is_known_at_the_other(pair: tuple[Any, Any]) -> None:
    one, two = pair
    challenge = {"version": "0.4.0", "tee": "snp", "extra-params": {}}

    def status() -> int:
        return int(two.guest.post("/p/bank/kbs/v0/auth", json=challenge).status_code)

    assert status() == 404
    call(one, one.token, "POST", "/kokon/v1/projects", json={"name": "bank"})
    soon(lambda: status() == 200)
    with of_project(two, "bank", one.token) as at_two, of_project(one, "bank") as at_one:
        at_two.put(PATH, b"of the bank")
        soon(lambda: [secret["path"] for secret in at_one.secrets()] == [PATH])
        assert [json.loads(entry)["event"] for entry in at_one.log()[0]].count("resource-put") == 1
    call(two, one.token, "DELETE", "/kokon/v1/projects/bank")
    soon(lambda: one.guest.post("/p/bank/kbs/v0/auth", json=challenge).status_code == 404)


# -- keys ----------------------------------------------------------------------------------------------------------


def test_the_token_key_is_rotated_for_both(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    old = {server.url: server.attest(chip, document).json()["token"] for server in pair}
    kid = call(one, one.token, "POST", "/kokon/v1/token-key").json()["kid"]
    assert token_keys(one)[0] == kid
    soon(lambda: token_keys(two) == token_keys(one))
    assert len(token_keys(two)) == 2
    new = {server.url: server.attest(chip, document).json()["token"] for server in pair}
    assert len({header_of(token) for token in (*old.values(), *new.values())}) == 2
    for token in (*old.values(), *new.values()):
        for server in pair:
            assert released(server, token=token) == b"correct horse"


def test_a_rotation_at_a_replica_that_heard_of_none_is_one(pair: tuple[Any, Any]) -> None:
    """It must not take the other's last key for its own new one."""
    one, two = pair
    deafen(two)
    first = call(one, one.token, "POST", "/kokon/v1/token-key").json()["kid"]
    second = call(two, one.token, "POST", "/kokon/v1/token-key").json()["kid"]
    assert first != second
    soon(lambda: token_keys(one)[:2] == [second, first])
    assert token_keys(two) == token_keys(one)


def test_both_rotate_the_token_key_at_once(pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    tokens = [one.attest(chip, document).json()["token"]]

    def rotate(server: Any) -> str:
        with server.client() as client:
            headers = {"Authorization": f"Bearer {one.token}"}
            return str(client.post("/kokon/v1/token-key", headers=headers).json()["kid"])

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(rotate, [one, two] * 3))
    assert len(set(made)) == 6, "each is one of its own"
    rotated = [entry["kid"] for entry in one.server_events() if entry["event"] == "token-key-rotated"]
    assert sorted(rotated) == sorted(made)
    soon(lambda: token_keys(one)[0] == token_keys(two)[0] == rotated[-1])
    assert token_keys(one) == token_keys(two)
    assert len(token_keys(one)) == 7
    tokens += [server.attest(chip, document).json()["token"] for server in pair]
    for server in pair:
        for token in tokens:
            assert released(server, token=token) == b"correct horse"


def test_data_keys_are_rotated_for_both(replicas: Replicas, pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    token = two.attest(chip, document).json()["token"]
    deafen(two)
    for _ in range(2):
        assert call(one, one.token, "POST", "/kokon/v1/data-key").status_code == 200
    assert released(two, token=token) == b"correct horse"
    two.admin.put(PATH, b"sealed by the other")
    assert released(one, token=token) == b"sealed by the other"
    assert released(replicas.start("three"), token=token) == b"sealed by the other"


# -- one ends, one goes on -----------------------------------------------------------------------------------------


def test_one_ends_while_the_other_serves(replicas: Replicas, pair: tuple[Any, Any], chip: Any) -> None:
    one, two = pair
    document = one.admit()
    hear(two)
    token = one.attest(chip, document).json()["token"]
    done = threading.Event()
    seen: list[int] = []
    headers = {"Authorization": f"Bearer {token}"}

    def guest() -> None:
        with two.client() as client:
            while not done.is_set():
                seen.append(client.get(f"/kbs/v0/resource/{PATH}", headers=headers).status_code)

    thread = threading.Thread(target=guest)
    thread.start()
    soon(lambda: len(seen) > 3)
    replicas.end("one")
    before = len(seen)
    soon(lambda: len(seen) > before + 3)
    done.set()
    thread.join()
    assert set(seen) == {200}
    assert two.attest(chip, document).status_code == 200
    assert [entry["event"] for entry in two.server_events()].count("server-stopped") == 1
    three = replicas.start("three")
    assert released(three, token=token) == b"correct horse"
    two.admin.withdraw("clinic")
    assert get(three, token).status_code == 403


def test_a_replica_with_another_master_key_does_not_start(replicas: Replicas, pair: tuple[Any, Any]) -> None:
    from kokon.errors import UntrustedError

    with (
        pytest.raises(UntrustedError) as caught,
        replicas.serve(replicas.home / "stranger", replicas.endorsements, settings=replicas.settings),
    ):
        pass
    assert caught.value.code == "keyring-foreign"
    assert pair[1].admin.secrets() == []
