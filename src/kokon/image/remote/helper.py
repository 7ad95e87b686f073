"""Credential helpers: programs named `docker-credential-NAME` that keep logins in a keychain.

Protocol: docker/docker-credential-helpers, README: `get` with the server's name on stdin; JSON with Username and Secret
on stdout. A secret passes through that pipe alone: never in arguments, the environment or a message.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading

from kokon.errors import HostError, MalformedError
from kokon.wire import Fields, parse_json

ANSWER_LIMIT = 1 << 16
TIMEOUT_S = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What every helper of the project prints when it has nothing (credentials/error.go).
_NOTHING = b"credentials not found"


def ask_helper(name: str, server: str, timeout: float = TIMEOUT_S) -> tuple[str, str] | None:
    """User and secret that helper `name` keeps for `server`, or None. `timeout` is in seconds.

    Raises `HostError` (`credential-helper-missing`, `credential-helper-failed`), `MalformedError` (`login-malformed`).
    """
    program = shutil.which(f"docker-credential-{name}") if _NAME.fullmatch(name) else None
    if program is None:
        raise HostError(
            "credential-helper-missing",
            f"the credential helper docker-credential-{name[:64]} is not there",
            hint="install it, or remove it from config.json",
        )
    status, answer = _run(program, server, timeout)
    if status != 0 and _NOTHING in answer:
        return None
    if status != 0:
        raise HostError(
            "credential-helper-failed",
            f"docker-credential-{name} fails",
            found=f"exit status {status}",
            hint=f"try: echo {server} | docker-credential-{name} get",
        )
    return _parse(answer, name)


def _parse(answer: bytes, name: str) -> tuple[str, str]:
    try:
        fields = Fields(parse_json(answer, limit=ANSWER_LIMIT, what="credential"), "credential")
        return fields.text("Username", limit=ANSWER_LIMIT), fields.text("Secret", limit=ANSWER_LIMIT)
    except MalformedError:
        # Without its cause: that might quote a part of the secret.
        raise MalformedError(
            "login-malformed", f"docker-credential-{name} answers no login", expected="JSON with Username and Secret"
        ) from None


def _run(program: str, server: str, timeout: float) -> tuple[int, bytes]:
    try:
        process = subprocess.Popen(
            [program, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise HostError("credential-helper-failed", f"cannot run {program}", found=error.strerror) from error
    if process.stdin is None or process.stdout is None:
        raise HostError("credential-helper-failed", f"cannot talk to {program}")
    watch = threading.Timer(timeout, process.kill)
    watch.start()
    try:
        with process:
            try:
                process.stdin.write(server.encode() + b"\n")
                process.stdin.close()
            except BrokenPipeError:
                pass  # a helper that does not read what it is asked: its answer or its status says more
            answer = process.stdout.read(ANSWER_LIMIT + 1)
            if len(answer) > ANSWER_LIMIT:
                process.kill()
    finally:
        watch.cancel()
    return process.returncode, answer
