"""Hypothesis over every message of the protocol, against a server: what is altered is refused, or it was no alteration;
never a server error; and whatever came out is in the log."""

from __future__ import annotations

import copy
import http.client
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from bench.load.crowd import PATH, VALUE
from bench.load.fleet import Fleet, fleet
from bench.load.guest import GuestClient, identity
from bench.load.scenarios import prepare
from bench.load.seen import Seen, audit
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.jose.jwe import decrypt

EXAMPLES = int(os.environ.get("LOAD_EXAMPLES", "40"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SEED = seed(int(os.environ.get("LOAD_SEED", "4")))
REQUEST = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
REFUSED = {400, 401, 403, 404, 405, 413, 414, 431}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "A" * 10_000, "\x00", "\ud800", "0.1.1", "0.2.0", "0.3.0", "sample", "tdx", "../..", "é"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, message: Any) -> bytes:
    """A message with something in it replaced, left out or added, or its bytes damaged."""
    made = copy.deepcopy(message)
    if draw(st.booleans()):
        _alter(draw, made)
    data = json.dumps(made).encode("utf-8", "surrogatepass")
    how = draw(st.sampled_from(["as it is", "as it is", "cut", "flipped", "twice", "nested", "noise"]))
    at = draw(st.integers(0, 999_999)) * len(data) // 1_000_000  # drawn without looking at what differs each time
    return {
        "as it is": data,
        "cut": data[:at],
        "flipped": data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :],
        "twice": data + data,
        "nested": b"[" * 5000 + data + b"]" * 5000,
        "noise": draw(st.binary(max_size=200)),
    }[how]


def _alter(draw: st.DrawFn, made: Any) -> None:
    place = made
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        how = draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "replace":
            place[key] = draw(values)
        elif how == "remove":
            del place[key]
        elif isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(values)
        return


@dataclass
class World:
    """A server, one connection to it, and what came out."""

    servers: Fleet
    seen: Seen = field(default_factory=Seen)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.guest = GuestClient(self.seen, self.servers.context, self.servers.ports, self.servers.guest)
        self.http = http.client.HTTPSConnection("127.0.0.1", self.servers.ports[0], context=self.servers.context)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, str]:
        """Status, body and the session's cookie; never a server error."""
        try:
            self.http.request(method, path, body, headers)
            answer = self.http.getresponse()
            data = answer.read()
        finally:
            if self.http.sock is not None and (headers or body):
                self.http.close()
        assert answer.status == 200 or answer.status in REFUSED, (answer.status, data[:300])
        return answer.status, data, (answer.headers.get("Set-Cookie") or "").partition(";")[0]

    def begin(self) -> tuple[str, str]:
        """A session's cookie and nonce."""
        status, data, cookie = self.ask("POST", "/kbs/v0/auth", json.dumps(REQUEST).encode())
        assert status == 200
        return cookie, json.loads(data)["nonce"]

    def attested(self) -> tuple[str, str]:
        """A session's cookie with a token, and the token."""
        cookie, nonce = self.begin()
        body = json.dumps(self.guest.message(nonce)).encode()
        status, data, cookie = self.ask("POST", "/kbs/v0/attest", body, Cookie=cookie)
        assert status == 200
        return cookie, self.granted(data)

    def granted(self, data: bytes) -> str:
        token = str(json.loads(data)["token"])
        self.seen.granted.add(identity(token))
        return token


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with fleet(tmp_path_factory.mktemp("messages"), 1, None, "--rate", "0") as servers:
        prepare(servers)
        yield World(servers)


@SEED
@few
@given(data=altered(REQUEST))
def test_requests(world: World, data: bytes) -> None:
    world.ask("POST", "/kbs/v0/auth", data)


@SEED
@few
@given(data=st.data())
def test_attestations(world: World, data: st.DataObject) -> None:
    cookie, nonce = world.begin()
    good = world.guest.message(nonce)
    body = data.draw(altered(good))
    status, answer, _ = world.ask("POST", "/kbs/v0/attest", body, Cookie=cookie)
    if status == 200:  # then what is proved is what it was
        world.granted(answer)
        made = json.loads(body)
        runtime, evidence = made["runtime-data"], made["tee-evidence"]["primary_evidence"]
        assert runtime["nonce"] == nonce
        assert {name: runtime["tee-pubkey"][name] for name in "xy"} == {
            name: good["runtime-data"]["tee-pubkey"][name] for name in "xy"
        }
        assert evidence["attestation_report"] == good["tee-evidence"]["primary_evidence"]["attestation_report"]


@SEED
@few
@given(data=st.data())
def test_sessions_and_tokens(world: World, data: st.DataObject) -> None:
    """Of what opens a secret no bit may be another."""
    cookie, token = world.attested()
    name, _, value = cookie.partition("=")
    which = data.draw(st.sampled_from(["session", "token", "both", "swapped"]))
    shown = {"session": value, "token": token, "both": value, "swapped": token}[which]
    at = data.draw(st.integers(0, len(shown) - 1))
    other = data.draw(st.sampled_from("ABCDEFabcdef0189-_.=+/ %~"))
    made = shown[:at] + other + shown[at + data.draw(st.integers(0, 2)) :]
    headers = {"Authorization": f"Bearer {made}"} if which == "token" else {"Cookie": f"{name}={made}"}
    status, answer, _ = world.ask("GET", f"/kbs/v0/resource/{PATH}", **headers)
    if status == 200:
        world.seen.released[identity(token), PATH] += 1
        assert made.strip() == shown
        with pytest.raises(KokonError):  # and it is for the guest's key, not for ours
            decrypt(json.loads(answer), world.key)


@SEED
@few
@given(path=st.text(max_size=60) | st.sampled_from(["load/secret/other", f"{PATH}/", f"/{PATH}", "load/secret/%6bey"]))
def test_paths(world: World, path: str) -> None:
    if not hasattr(world, "session"):
        world.session = world.attested()  # type: ignore[attr-defined]
    cookie, token = world.session  # type: ignore[attr-defined]
    shown = "".join(c if (c.isascii() and c.isalnum()) or c in "/%._-" else f"%{ord(c) & 255:02x}" for c in path)
    status, _, _ = world.ask("GET", f"/kbs/v0/resource/{shown}", Cookie=cookie)
    if status == 200:
        world.seen.released[identity(token), PATH] += 1
        assert shown in (PATH, "load/secret/%6bey")


@SEED
@few
@given(data=altered({"code": "started", "text": "as it should"}))
def test_events(world: World, data: bytes) -> None:
    _, token = world.attested()
    world.ask("POST", "/kokon/v1/events", data, Authorization=f"Bearer {token}")


ADMISSION = {
    "name": "other",
    "references": f'[[reference]]\ntee = "snp"\nmeasurement = "{"ab" * 48}"\n',
    "resources": ["kbs:///load/secret/key"],
    "not_after": "2099-01-01T00:00:00+00:00",
    "max_activations": 3,
    "tees": ["snp"],
    "previous": "",
}


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/kokon/v1/workloads", ADMISSION),
        ("PUT", "/kokon/v1/secrets/load/fuzz/given", {"value": "AAAA", "expires": "2099-01-01T00:00:00Z", "keep": 2}),
        ("PUT", "/kokon/v1/secrets/load/fuzz/made", {"generate": "bytes:32", "keep": 1}),
        ("PUT", "/kokon/v1/policies/platform/default", {"text": 'name = "x"\n'}),
        ("POST", "/kbs/v0/reference-value", {"version": "0.1.0", "type": "sample", "payload": "e30="}),
        ("POST", "/kbs/v0/resource-policy", {"policy": "cGFja2FnZSBwb2xpY3kKZGVmYXVsdCBhbGxvdyA9IGZhbHNlCg"}),
        ("POST", "/kokon/v1/principals", {"name": "x", "role": "auditor", "scopes": [{"project": "*", "path": "*"}]}),
        ("POST", "/kokon/v1/projects", {"name": "fuzzed"}),
        ("POST", "/kokon/v1/log/cosignature", {"checkpoint": "a\n1\nAAAA\n", "line": "x", "key": "k"}),
    ],
)
def test_the_owners_messages(world: World, method: str, path: str, message: Any) -> None:
    token = world.servers.access.token

    @SEED
    @settings(few, max_examples=max(EXAMPLES // 3, 5))
    @given(data=altered(message))
    def ask(data: bytes) -> None:
        try:
            world.http.request(method, path, data, {"Authorization": f"Bearer {token}"})
            answer = world.http.getresponse()
            text = answer.read()
        finally:
            world.http.close()
        assert answer.status == 200 or answer.status in REFUSED | {409}, (answer.status, text[:300], data[:300])

    ask()


@pytest.mark.parametrize("previous", [{}, [], 0, 1.5, True, "x", "a" * 63, ["a" * 64]])
def test_a_previous_digest_that_is_none(world: World, previous: Any) -> None:
    """Found by the test above: 500, where 400 was due."""
    body = json.dumps({**ADMISSION, "previous": previous}).encode()
    bearer = f"Bearer {world.servers.access.token}"
    status, answer, _ = world.ask("POST", "/kokon/v1/workloads", body, Authorization=bearer)
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "previous-malformed"


def test_and_every_promise_holds(world: World) -> None:
    """After all that: the log is whole, what came out is in it, and the server goes on."""
    with world.servers.admin() as admin:
        for policy in admin.policies():
            admin.remove_policy(policy["kind"], policy["name"])
    _, token = world.attested()
    status, answer, _ = world.ask("GET", f"/kbs/v0/resource/{PATH}", Authorization=f"Bearer {token}")
    assert status == 200
    assert decrypt(json.loads(answer), world.guest._key) == VALUE
    world.seen.released[identity(token), PATH] += 1
    audit(world.servers, world.seen)
