"""Workers: how many, how long they serve, what is refused when there are none."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rego_kit import ASKED, NONE, NOW, SAMPLE, SAMPLE_VALUES, policy, quick, references, refusal, token

from kokon.errors import HostError
from kokon.provisioning.rego import process
from kokon.provisioning.rego.defaults import default_policy
from kokon.provisioning.rego.engine import PolicyEngine
from kokon.provisioning.rego.frame import pack
from kokon.provisioning.rego.pool import Limits
from kokon.provisioning.rego.process import WorkerLimits, WorkerProcess

GOOD = policy("allow := true")


def test_nothing_is_started_before_it_is_needed() -> None:
    engine = PolicyEngine()
    assert engine.statistics().started == 0
    engine.close()
    engine.close()


def test_a_worker_serves_for_so_many_evaluations() -> None:
    with quick(workers=1, evaluations=3) as engine:
        for _ in range(7):
            assert engine.evaluate_resource(GOOD, {}, ASKED)
        found = engine.statistics()
        assert (found.started, found.evaluations, found.lost) == (3, 7, {})


def test_a_worker_that_has_grown_is_replaced() -> None:
    """64 compiled policies that are kept must not become the next one's memory."""
    with PolicyEngine(Limits(workers=1, worker=WorkerLimits(memory=64 << 20))) as engine:
        rules = "".join(f"r{number} := {number}\n" for number in range(400))
        for number in range(7):
            assert engine.evaluate_resource(policy(f"{rules}allow if input.x == {number}"), {"x": number}, ASKED)
        found = engine.statistics()
        assert found.started > 1
        assert found.lost == {}


def test_memory_stays_flat() -> None:
    with PolicyEngine(Limits(workers=1)) as engine:
        values = references(SAMPLE_VALUES)

        def evaluate(times: int) -> int:
            for number in range(times):
                given = {**SAMPLE, "report_data": f"{number:0128x}"}
                engine.evaluate_attestation(default_policy("default_cpu"), given, values, NOW)
            return engine._pool._idle[0].resident()

        before = evaluate(40)
        after = evaluate(100)
        assert engine.statistics().started == 1
        assert after < before + (2 << 20)


def test_many_threads_share_few_workers() -> None:
    with quick(workers=2) as engine, ThreadPoolExecutor(8) as threads:
        body = policy('allow if input.name == data["resource-path"][2]')

        def ask(number: int) -> bool:
            data = {**ASKED, "resource-path": ["default", "key", str(number % 5)]}
            return engine.evaluate_resource(body, {"name": str(number % 5 if number % 3 else -1)}, data)

        assert list(threads.map(ask, range(120))) == [bool(number % 3) for number in range(120)]
        found = engine.statistics()
        assert found.started <= 2
        assert found.evaluations == 120


def test_beside_an_event_loop() -> None:
    async def many(engine: PolicyEngine) -> list[bool]:
        calls = [asyncio.to_thread(engine.evaluate_resource, GOOD, {}, ASKED) for _ in range(10)]
        return await asyncio.gather(*calls)

    with quick(workers=2) as engine:
        assert asyncio.run(many(engine)) == [True] * 10


def test_who_waits_too_long_is_told_to_come_back() -> None:
    with PolicyEngine(Limits(workers=1, queue_seconds=0.05)) as engine:
        engine.evaluate_resource(GOOD, {}, ASKED)
        worker = engine._pool._idle.pop()  # as if another request had it
        engine._pool._busy.add(worker)
        error = refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED))
        assert isinstance(error, HostError)
        assert error.code == "policy-busy"
        engine._pool._give_back(worker)
        with engine._pool._slow:
            assert refusal(lambda: engine.check(GOOD, "resource")).code == "policy-busy"
            assert engine.evaluate_resource(GOOD, {}, ASKED)


def test_after_the_end() -> None:
    engine = quick(workers=1)
    engine.evaluate_resource(GOOD, {}, ASKED)
    pid = engine._pool._idle[0].pid
    waiting: list[Any] = []
    worker = engine._pool._idle.pop()
    engine._pool._busy.add(worker)
    thread = threading.Thread(
        target=lambda: waiting.append(refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED)).code)
    )
    thread.start()
    engine.close()
    thread.join()
    engine._pool._give_back(worker)
    assert waiting == ["policy-busy"]
    assert refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED)).code == "policy-busy"
    assert not Path(f"/proc/{pid}").exists()


BLOCK_BY_FINDER = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "regopy":
            raise ImportError("No module named regopy")
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("block", ["sys.modules['regopy'] = None", BLOCK_BY_FINDER])
def test_without_the_engine(block: str) -> None:
    """The server starts without regopy, and says what to install as soon as a policy is to be evaluated."""
    code = f"""
import json, sys
{block}
from kokon.errors import HostError
from kokon.provisioning.rego.engine import PolicyEngine
with PolicyEngine() as engine:
    try:
        engine.check("package policy\\nallow := true", "resource")
    except HostError as error:
        print(json.dumps(error.as_dict()))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    error = json.loads(done.stdout)
    assert (error["code"], error["kind"]) == ("policy-engine-missing", "host")
    assert "pip install 'kokon[rego]'" in error["hint"]


def test_an_engine_that_is_installed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with quick() as engine:
        error = refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED))
        assert (type(error), error.code) == (HostError, "policy-engine-missing")
        monkeypatch.undo()
        assert engine.evaluate_resource(GOOD, {}, ASKED)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import sys; sys.exit(3)", "exit status 3"),
        (f"import os; os.write(1, {pack({'failed': 'reason'})!r})", "reason"),
        ("import os; os.write(1, b'\\xff' * 9)", "are allowed"),
        ("import os, time; os.close(1); time.sleep(60)", "it closed its pipe"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
def test_a_worker_that_does_not_start(monkeypatch: pytest.MonkeyPatch, code: str, found: str) -> None:
    monkeypatch.setattr(process, "_MAIN", code)
    monkeypatch.setattr(process, "END_SECONDS", 0.2)
    with quick(workers=1) as engine:
        for _ in range(2):
            error = refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED))
            assert (type(error), error.code) == (HostError, "policy-engine-failed")
            assert found in (error.found or "")
        assert engine.statistics().workers == 0


def test_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with quick() as engine:
        assert refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED)).code == "policy-engine-failed"


@pytest.mark.parametrize(
    "answer",
    [
        pack({}),
        pack({}) + b"x",
        pack([]),
        b"\xff\xff\xff\xff",
        pack({"results": {}}),
        pack({"results": {"policy/allow": '{"expressions":[true]}', "policy/more": ""}}),
        pack({"results": ["policy/allow"]}),
        pack({"results": {"policy/allow": True}}),
        pack({"refused": 7}),
    ],
)
def test_an_answer_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """A worker that a policy has taken over may say what it likes, but not what is then believed."""
    greeting = pack({"ready": "1", "filtered": False})
    monkeypatch.setattr(
        process,
        "_MAIN",
        f"import os; os.write(1, {greeting!r}); os.read(0, 9999); os.write(1, {answer!r}); os.read(0, 1)",
    )
    with quick(workers=1) as engine:
        assert refusal(lambda: engine.evaluate_resource(GOOD, {}, ASKED)).code == "policy-malformed"


def test_an_answer_before_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker says unasked is never taken for the answer to the next request."""
    greeting = pack({"ready": "1", "filtered": False})
    yes = pack({"results": {"policy/allow": '{"expressions":[true]}'}})
    code = (
        f"import os; os.write(1, {greeting!r}); os.read(0, 9999); os.write(1, {yes!r})\n"
        f"import time; time.sleep(0.05); os.write(1, {yes!r}); os.read(0, 9999); time.sleep(60)"
    )
    with quick(workers=1) as engine:
        monkeypatch.setattr(process, "_MAIN", code)
        assert engine.evaluate_resource(policy("allow := false"), {}, ASKED) is True  # it is the liar's own policy
        monkeypatch.undo()
        for worker in engine._pool._idle:
            while worker.quiet:
                os.sched_yield()
        assert engine.evaluate_resource(policy("allow := false"), {}, ASKED) is False
        assert engine.statistics().started == 2


def test_tenants_do_not_share_a_process() -> None:
    with quick(workers=2) as engine:

        def ask(tenant: str, text: str = GOOD) -> int:
            assert engine.evaluate_resource(text, token(), ASKED, tenant=tenant)
            return engine._pool._idle[-1].pid

        first, second = ask("a"), ask("b")
        assert first != second
        assert (ask("a"), ask("b")) == (first, second)
        third = ask("c")  # in the place of a's, which has been idle longest
        assert third not in (first, second)
        assert not Path(f"/proc/{first}").exists()
        assert ask("b") == second
        assert ask("a") not in (first, second, third)
        engine.check(GOOD, "resource", tenant="a")
        found = engine.statistics()
        assert (found.workers, found.started, found.lost) == (2, 4, {})
        shared = ask("a", default_policy("affirming"))
        assert ask("b", default_policy("affirming")) == shared  # our own policies harm nobody
        assert engine._pool._idle[-1].tenant == ""


def test_a_tenant_waits_for_a_place() -> None:
    with quick(workers=1) as engine, ThreadPoolExecutor(6) as threads:
        calls = [
            threads.submit(engine.evaluate_resource, GOOD, {}, ASKED, tenant=f"tenant-{number % 2}")
            for number in range(6)
        ]
        assert [call.result() for call in calls] == [True] * 6
        assert engine.statistics().workers == 1


def test_a_tenant_leaves_a_worker_for_the_others() -> None:
    """Of three workers its policies hold two, however many wait; of two or one it may have all."""
    with quick(workers=3) as engine:
        pool = engine._pool
        held = [pool._take("a", time.monotonic() + 60) for _ in range(2)]
        with pytest.raises(HostError) as caught:
            pool._take("a", time.monotonic() + 0.05)
        assert caught.value.code == "policy-busy"
        other = pool._take("b", time.monotonic() + 60)
        for worker in (*held, other):
            pool._give_back(worker)
        assert pool._take("a", time.monotonic()) in held
        assert pool.statistics().started == 3
        assert not pool._starting
    assert (quick(workers=2)._pool._share, quick(workers=1)._pool._share) == (2, 1)


def test_a_worker_ends_with_its_server() -> None:
    code = (
        "import os; from kokon.provisioning.rego.process import WorkerLimits, WorkerProcess\n"
        "print(WorkerProcess(WorkerLimits()).pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    pid = int(done.stdout)
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        os.sched_yield()


def test_a_request_that_is_larger_than_a_pipe() -> None:
    with quick(workers=1) as engine:
        claims = {"names": [f"{number:040}" for number in range(20_000)]}
        assert engine.evaluate_resource(policy("allow if count(input.names) == 20000"), claims, ASKED)


def test_limits_of_one_worker_hold_for_each_request() -> None:
    """CPU time is counted from request to request, not from the start."""
    with quick(workers=1) as engine:
        for _ in range(4):
            body = "allow if { some a in numbers.range(1, 60); some b in numbers.range(1, 60); a * b == 3600 }"
            assert engine.evaluate_resource(policy(body), {}, ASKED)
        assert engine.statistics().started == 1


def test_system_calls_are_filtered() -> None:
    worker = WorkerProcess(WorkerLimits())
    try:
        assert worker.filtered is (os.uname().machine == "x86_64")
        assert worker.alive
    finally:
        worker.kill()
    assert not worker.alive
    assert worker.resident() == 0


def test_tokens_of_both_kinds() -> None:
    with quick(workers=1) as engine:
        body = policy('allow if input.submods.cpu0["ear.status"] == "affirming"')
        assert engine.evaluate_resource(body, token(), ASKED)
        assert not engine.evaluate_resource(body, token("none"), ASKED)
        assert engine.evaluate_attestation(body, {}, NONE, NOW).status == "none"
