"""The process in which Rego runs. Standard library and regopy only; started by `process`, confined by `confine`.

A request has `modules` ([name, text]...), `data` and `input` (JSON as text), `rules` (paths such as
"policy/trust_claims"), `seconds` of CPU time, and for a policy that is new `calls`, names of functions that must exist.
The answer has `results`, for each rule what the engine printed; or `refused`, why the modules do not compile; or
`missing`, functions that the engine has not. What the engine prints is looked at by the server, not here.

Compiling takes ten times as long as evaluating. What is compiled, the modules with their data, is kept for next time.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from kokon.provisioning.rego.confine import confine, limit_cpu, take_pipes
from kokon.provisioning.rego.frame import read_message, write_message

KEPT: Final = 64
"""Compiled policies that are kept."""
PRINTED: Final = 4000
"""Characters of the engine's complaints that are handed on."""
OUT_OF_MEMORY: Final = 77
"""Exit status."""

SAFE: Final = 1 << 63
"""Integers between minus this and this are the same to the engine in both ways."""

_WARM_UP: Final = {"modules": [["warm.rego", "package warm\nup if input.up"]], "rules": ["warm/up"]}


class RegoWorker:
    """Compiles and evaluates, one request after the other."""

    def __init__(self) -> None:
        self._engine = importlib.import_module("regopy")
        self._calls = importlib.import_module("regopy.rego_shared")
        self._kept: OrderedDict[bytes, Any] = OrderedDict()

    @property
    def version(self) -> str:
        """The engine's version."""
        return str(self._engine.__version__)

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises `KeyError` and `TypeError` for what is no request."""
        missing = self.missing(request.get("calls", ()))
        if missing:
            return {"missing": missing}
        try:
            compiled = self._compiled(request["modules"], request["data"], request["rules"])
            return {"results": self._run(compiled, request["input"], request["rules"])}
        except self._engine.RegoError as error:
            return {"refused": str(error)[:PRINTED]}

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those names that no builtin function has."""
        interpreter = self._interpreter()
        return [name for name in names if not interpreter.is_builtin(name)]

    def _interpreter(self) -> Any:
        interpreter = self._engine.Interpreter()
        interpreter.log_level = self._engine.LogLevel.NONE
        return interpreter

    def _compiled(self, modules: list[list[str]], data: str, rules: list[str]) -> Any:
        key = _digest((*(text for module in modules for text in module), data, *rules))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        interpreter = self._interpreter()
        for name, text in modules:
            interpreter.add_module(name, text)
        interpreter.add_data_json(data)
        compiled = interpreter.build(None, rules)
        if not compiled.ok():  # evaluating it would crash
            raise self._engine.RegoError("the policy does not compile")
        self._kept[key] = compiled
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return compiled

    def _run(self, compiled: Any, given: str, rules: list[str]) -> dict[str, str]:
        # An interpreter of its own for each evaluation: nothing of one may be seen by the next.
        interpreter = self._interpreter()
        value = plain_value(given)
        if value is None:
            interpreter.set_input_term(given)
        else:
            interpreter.set_input(value)
        return {rule: self._evaluate(interpreter, compiled, rule) for rule in rules}

    def _evaluate(self, interpreter: Any, compiled: Any, rule: str) -> str:
        """What the engine prints for a rule: JSON, "undefined" or an error. The wrapper's own `Output` is not used
        since it takes errors for JSON."""
        output = self._calls.rego_bundle_query_entrypoint(interpreter._impl, compiled._impl, rule)  # noqa: SLF001
        try:
            return str(self._calls.rego_output_string(output))
        except UnicodeDecodeError:
            return "<the value is not UTF-8>"
        finally:
            self._calls.rego_free_output(output)


def plain_value(given: str) -> Any:
    """The value of JSON that may be handed to the engine as such, which is twice as fast as having it parse; else None.

    That way it cuts texts at NUL, folds integers into 64 bits, and takes what must be escaped for an escape.
    """
    if "\\" in given:
        return None
    value = json.loads(given)
    return value if _plain(value) else None


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, float):
        return False
    return not isinstance(value, int) or -SAFE < value < SAFE


def _digest(texts: Sequence[str]) -> bytes:
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


def main() -> None:
    """Serve until the pipe ends. Arguments: bytes of memory, largest request."""
    memory, limit = int(sys.argv[1]), int(sys.argv[2])
    requests, answers = take_pipes()
    try:
        worker = RegoWorker()
        worker.handle({**_WARM_UP, "data": "{}", "input": '{"up": true}'})
        filtered = confine(memory)
    except Exception as error:  # noqa: BLE001 - the server must hear why there is no worker
        write_message(answers, {"failed": repr(error)[:PRINTED]})
        return
    write_message(answers, {"ready": worker.version, "filtered": filtered})
    try:
        while (request := read_message(requests, limit)) is not None:
            limit_cpu(request.pop("seconds"))
            write_message(answers, worker.handle(request))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
