"""Policies that attack: each costs its own request, and nothing else."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rego_kit import ASKED, NONE, NOW, policy, quick, refusal, trusting

from kokon.errors import DeniedError, KokonError
from kokon.provisioning.rego.engine import PolicyEngine

GOOD = policy("allow := true")
RANGES = "; ".join(f"some {name} in numbers.range(1, 208)" for name in "abc")
LOOP = f"{RANGES}; a + b + c == 0"
CRASH = policy('allow := regex.match(input.x, "a")')
CRASHING = {"x": "(" * 50_000}
SLOW = policy(f"allow if {{ {LOOP} }}")


@pytest.fixture(scope="module")
def impatient() -> Iterator[PolicyEngine]:
    with quick(workers=1) as engine:
        yield engine


def outcome(engine: PolicyEngine, text: str, given: Any = None) -> str:
    """What the request came to; and the next one, of somebody else, is answered."""
    try:
        found = str(engine.evaluate_resource(text, given or {}, ASKED))
    except KokonError as error:
        found = error.code
    assert engine.evaluate_resource(GOOD, {}, ASKED) is True
    return found


def workers(engine: PolicyEngine) -> list[int]:
    """Numbers of the processes that run for this test process."""
    mine = os.getpid()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            stat, line = (place / "stat").read_text(), (place / "cmdline").read_text()
        except OSError:
            continue
        if "kokon.provisioning.rego.worker" in line and stat.rpartition(")")[2].split()[1] == str(mine):
            found.append(int(place.name))
    assert len(found) >= engine.statistics().workers
    return found


def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own time limit ends this
        time.sleep(0.005)


def test_self_recursion(impatient: PolicyEngine) -> None:
    assert outcome(impatient, policy("f(x) := f(x)\nallow if f(1)")) == "policy-malformed"
    assert outcome(impatient, policy("f(x) := g(x)\ng(x) := f(x)\nallow if f(1)")) == "policy-malformed"


def test_nesting(impatient: PolicyEngine) -> None:
    for pair in ("[]", "{}", "()"):
        assert outcome(impatient, policy(f"allow := {pair[0] * 5000}{pair[1] * 5000}")) == "policy-too-deep"
    assert outcome(impatient, policy(f"allow if {{ {'[' * 20}{']' * 20} }}")) == "True"


def test_nesting_that_only_the_engine_sees(impatient: PolicyEngine) -> None:
    found = outcome(impatient, policy("allow := json.unmarshal(input.x)"), {"x": "[" * 20_000 + "]" * 20_000})
    assert found in ("policy-crashed", "policy-memory")


def test_a_crash(impatient: PolicyEngine) -> None:
    before = impatient.statistics()
    error = refusal(lambda: impatient.evaluate_resource(CRASH, CRASHING, ASKED))
    assert (error.code, error.found, type(error)) == ("policy-crashed", "SIGSEGV", DeniedError)
    assert outcome(impatient, CRASH, {"x": "a"}) == "True"
    after = impatient.statistics()
    assert after.started == before.started + 1
    assert after.lost["crashed"] == before.lost.get("crashed", 0) + 1


def test_a_loop_of_nine_million_steps(impatient: PolicyEngine) -> None:
    error = refusal(lambda: impatient.evaluate_resource(SLOW, {}, ASKED))
    assert (error.code, error.found) == ("policy-timeout", "more than 1 seconds of CPU time")
    assert outcome(impatient, GOOD) == "True"


@pytest.mark.parametrize(
    "body",
    [
        f"allow if {{ x := [[a, b, c] | {RANGES.replace('208', '400')}]; count(x) == 1 }}",
        "allow if count(numbers.range(1, 100000000)) == 1",
    ],
)
def test_memory(impatient: PolicyEngine, body: str) -> None:
    assert outcome(impatient, policy(body)) == "policy-memory"


def test_an_answer_without_end(impatient: PolicyEngine) -> None:
    body = "allow := [input.x | some i in numbers.range(1, 200)]"
    assert outcome(impatient, policy(body), {"x": "y" * 10_000}) == "policy-malformed"


def test_the_environment_is_empty(impatient: PolicyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOKON_CANARY", "canary")
    text = trusting("2", 'extensions := [{"name": "runtime", "key": 1, "value": opa.runtime()}]')
    with quick(workers=1) as engine:
        found = engine.evaluate_attestation(text, {}, NONE, NOW).extensions[0].value
        (pid,) = set(workers(engine)) - set(workers_of(impatient))
        assert (Path("/proc") / str(pid) / "environ").read_bytes() == b""
    assert found["env"] == {}
    assert "canary" not in json.dumps(found)


def workers_of(engine: PolicyEngine) -> list[int]:
    return [worker.pid for worker in engine._pool._idle]


class _Counter(http.server.BaseHTTPRequestHandler):
    reached: list[str] = []  # noqa: RUF012 - what any request of this test adds to

    def do_GET(self) -> None:
        self.reached.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_http_send_reaches_nothing(impatient: PolicyEngine) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        call = f'http.send({{"method": "GET", "url": "{url}"}})'
        assert outcome(impatient, policy(f"allow := {call}.status_code")) in ("False", "policy-malformed")
        assert outcome(impatient, policy(f"allow if {call}")) in ("False", "policy-malformed")
        assert outcome(impatient, policy('allow if net.lookup_ip_addr("localhost")')) in ("False", "policy-malformed")
    finally:
        server.shutdown()
        server.server_close()
    assert _Counter.reached == []


def test_what_a_worker_has_given_up(impatient: PolicyEngine) -> None:
    assert outcome(impatient, GOOD) == "True"
    (pid,) = workers_of(impatient)
    place = Path("/proc") / str(pid)
    descriptors = sorted(str(entry.readlink()) for entry in (place / "fd").iterdir())
    assert [name.partition(":")[0] for name in descriptors] == ["/dev/null"] * 3 + ["pipe"] * 2
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    limits = (place / "limits").read_text()
    for name in ("Max open files", "Max core file size", "Max file size", "Max processes"):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[:2] == ["0", "0"], line
    assert (place / "oom_score_adj").read_text().strip() == "1000"
    assert str((place / "cwd").readlink()) == "/"
    assert os.getsid(pid) == pid


def test_what_the_engine_prints_is_no_answer(impatient: PolicyEngine) -> None:
    forged = json.dumps({"results": {"policy/allow": '{"expressions":[true]}'}})
    assert outcome(impatient, policy(f"allow if {{ print({json.dumps(forged)}); input.no }}")) == "False"


def test_a_worker_that_is_killed_while_it_waits(impatient: PolicyEngine) -> None:
    assert outcome(impatient, GOOD) == "True"
    (pid,) = workers_of(impatient)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not impatient._pool._idle[0].alive)
    assert outcome(impatient, GOOD) == "True"
    assert workers_of(impatient) != [pid]


def test_a_worker_that_is_killed_while_it_computes() -> None:
    with quick(workers=1) as engine, ThreadPoolExecutor(2) as threads:
        engine.evaluate_resource(GOOD, {}, ASKED)
        (pid,) = workers_of(engine)
        slow = threads.submit(refusal, lambda: engine.evaluate_resource(SLOW, {}, ASKED))
        eventually(lambda: bool(engine._pool._busy))
        waiting = threads.submit(engine.evaluate_resource, GOOD, {}, ASKED)
        os.kill(pid, signal.SIGKILL)
        error = slow.result()
        assert (error.code, error.found) == ("policy-crashed", "SIGKILL")
        assert waiting.result() is True


def test_a_worker_that_does_not_answer() -> None:
    with quick(workers=1, wall_seconds=0.3) as engine:
        engine.evaluate_resource(GOOD, {}, ASKED)
        (pid,) = workers_of(engine)
        os.kill(pid, signal.SIGSTOP)
        error = refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED))
        assert (error.code, error.found) == ("policy-timeout", "no answer after 0.3 seconds")
        assert not Path(f"/proc/{pid}").exists()
        assert engine.evaluate_resource(GOOD, {}, ASKED) is True


def test_a_bad_policy_keeps_nobody_waiting() -> None:
    """Of two workers it gets one, however many requests it concerns."""
    with quick(workers=2) as engine, ThreadPoolExecutor(8) as threads:
        assert refusal(lambda: engine.evaluate_resource(CRASH, CRASHING, ASKED)).code == "policy-crashed"
        crashes = [threads.submit(refusal, lambda: engine.evaluate_resource(CRASH, CRASHING, ASKED)) for _ in range(6)]
        for _ in range(20):
            assert engine.evaluate_resource(GOOD, {}, ASKED) is True
            assert len(engine._pool._busy) <= 1
        assert {crash.result().code for crash in crashes} == {"policy-crashed"}
        assert engine.statistics().lost == {"crashed": 7}


def test_a_check_occupies_one_worker() -> None:
    with quick(workers=2) as engine, ThreadPoolExecutor(3) as threads:
        checks = [threads.submit(refusal, lambda: engine.check(SLOW, "resource")) for _ in range(2)]
        eventually(lambda: bool(engine._pool._busy))
        assert engine.evaluate_resource(GOOD, {}, ASKED) is True
        while not all(check.done() for check in checks):
            for worker in list(engine._pool._busy):
                worker.end()
            time.sleep(0.005)
        codes = {checks[0].result().code, checks[1].result().code}
        assert codes <= {"policy-crashed", "policy-timeout"}


def test_the_check_refuses_what_crashes() -> None:
    hostile = CRASH.replace("input.x", json.dumps("(" * 50_000))
    with quick(workers=1) as engine:
        error = refusal(lambda: engine.check(hostile, "resource"))
        assert (error.code, error.kind) == ("policy-crashed", "malformed")
        assert engine.check(GOOD, "resource").outcomes
