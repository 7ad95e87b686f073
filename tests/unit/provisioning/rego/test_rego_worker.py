"""The worker's own code, in this process: compiling once, answering, both ways in which values reach the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rego_kit import policy

from kokon.provisioning.rego import worker as module
from kokon.provisioning.rego.text import spell
from kokon.provisioning.rego.worker import RegoWorker, plain_value


@pytest.fixture(scope="module")
def worker() -> RegoWorker:
    return RegoWorker()


def request(body: str, given: Any = None, data: Any = None, rule: str = "policy/x", **members: Any) -> dict[str, Any]:
    return {
        "modules": [["policy.rego", policy(body)]],
        "data": spell(data or {}),
        "input": spell(given or {}),
        "rules": [rule],
        **members,
    }


def answer(worker: RegoWorker, *args: Any, **members: Any) -> Any:
    return worker.handle(request(*args, **members))["results"]["policy/x"]


def test_what_is_compiled_is_kept(worker: RegoWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    original = worker._engine.Interpreter.build
    monkeypatch.setattr(worker._engine.Interpreter, "build", lambda *args: compiled.append(1) or original(*args))
    for x, data in ((1, {"d": 1}), (2, {"d": 1}), (3, {"d": 2}), (1, {"d": 1})):
        found = answer(worker, "x := [input.x, data.d, 77]", {"x": x}, data)
        assert json.loads(found) == {"expressions": [[x, data["d"], 77]]}
    assert len(compiled) == 2


def test_parts_of_the_key_do_not_run_together() -> None:
    assert module._digest(("ab", "c")) != module._digest(("a", "bc"))
    assert module._digest(("ab", "")) != module._digest(("ab",))


def test_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    worker = RegoWorker()
    for number in (1, 2, 3, 1, 2, 3):
        assert json.loads(answer(worker, f"x := {number}")) == {"expressions": [number]}
        assert len(worker._kept) <= 2


def test_functions_that_do_not_exist(worker: RegoWorker) -> None:
    assert worker.handle(request("x := 1", calls=["count", "nope", "http.send"])) == {"missing": ["nope", "http.send"]}
    assert worker.missing(["object.union_n", "time.parse_rfc3339_ns", "io.jwt.decode_verify"]) == []


@pytest.mark.parametrize("body", ["x := := 1", "x if {", "x := with input as"])
def test_what_does_not_compile(worker: RegoWorker, body: str) -> None:
    assert "refused" in worker.handle(request(body))


@pytest.mark.parametrize("members", [{}, {"modules": 1}, {"rules": None}])
def test_what_is_no_request(worker: RegoWorker, members: Any) -> None:
    with pytest.raises((KeyError, TypeError)):
        worker.handle({**({"data": "{}", "input": "{}"} if members else {}), **members})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**64), 2**64)
    | st.integers(-4000, 4000).map(lambda number: number / 4)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=50)
@given(VALUES)
def test_values_survive_the_engine(value: Any) -> None:
    """As input, in whichever of the two ways it is handed over, and as data."""
    try:
        text = spell({"v": value})
    except ValueError:
        return
    found = answer(SHARED, "x := [input.v, data.v, input.v == data.v]", {"v": value}, {"v": value})
    assert json.loads(found) == {"expressions": [[value, value, True]]}
    interpreter = SHARED._interpreter()
    interpreter.set_input_term(text)
    compiled = SHARED._compiled([["policy.rego", policy("x := input.v")]], "{}", ["policy/x"])
    assert json.loads(SHARED._evaluate(interpreter, compiled, "policy/x")) == {"expressions": [value]}


SHARED = RegoWorker()


@pytest.mark.parametrize("value", [1.5, 2**63, -(2**63), 'a"b', "a\\b", "a\nb", "a\0b", ["\t"], {"\x01": 1}])
def test_values_that_the_engine_must_parse(value: Any) -> None:
    assert plain_value(spell({"v": value})) is None


@pytest.mark.parametrize("value", [0, 2**63 - 1, 1 - 2**63, "é😀", "\x7f", [], {}, True, None, "`${x}{{"])
def test_values_that_may_be_handed_over(value: Any) -> None:
    assert plain_value(spell({"v": value})) == {"v": value}
