"""The simulated processor as a process: it starts one QEMU, answers that QEMU's guest and nobody else, and ends with
it.

The guest's port is a UNIX socket that QEMU connects to; the kernel tells which process is at the other end, so only
the QEMU that was measured and started here is answered. [machine's edge: sockets, processes, randomness]
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from kokon.errors import HostError, KokonError, MalformedError
from kokon.tee.simulated import wire
from kokon.tee.simulated.launch import Measured, Order, measure_order, open_log, start_qemu
from kokon.tee.simulated.processor import GuestContext, KeyRequest, Processor
from kokon.tee.snp.certtable import encode_extended

CONNECT_TIMEOUT: Final = 30.0
SEND_TIMEOUT: Final = 10.0
_CREDENTIALS = struct.Struct("3i")


def answer(context: GuestContext, request: bytes) -> bytes:
    """The answer frame to one request (kind and body). A request that makes no sense gets status INVALID_PARAM."""
    try:
        return wire.frame(wire.STATUS_OK, _body(context, request))
    except (MalformedError, struct.error):
        return wire.frame(wire.STATUS_INVALID, b"")


def _body(context: GuestContext, request: bytes) -> bytes:
    kind, body = request[0], request[1:]
    if kind == wire.KIND_REPORT:
        report_data, vmpl, reserved = wire.REPORT_BODY.unpack(body)
        if any(reserved):
            raise MalformedError("guest-request", "reserved bytes are set in the request")
        return encode_extended(context.evidence(report_data, vmpl))
    if kind == wire.KIND_KEY:
        root, reserved, fields, vmpl, guest_svn, tcb = wire.KEY_BODY.unpack(body)
        if reserved:
            raise MalformedError("guest-request", "reserved bytes are set in the request")
        return context.derived_key(KeyRequest(root, fields, vmpl, guest_svn, tcb))
    raise MalformedError("guest-request", "unknown kind of request", found=kind)


class Requests:
    """Cuts a byte stream into requests; at most one request's size is ever held."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The requests completed by `data`. Raises `MalformedError` (`guest-request`) if one is empty or too long."""
        self._buffer += data
        requests = []
        while len(self._buffer) >= wire.LENGTH.size:
            (length,) = wire.LENGTH.unpack_from(self._buffer)
            if not 1 <= length <= wire.REQUEST_LIMIT:
                raise MalformedError(
                    "guest-request", "a request is empty or too long", expected=f"<= {wire.REQUEST_LIMIT}", found=length
                )
            end = wire.LENGTH.size + length
            if len(self._buffer) < end:
                break
            requests.append(bytes(self._buffer[wire.LENGTH.size : end]))
            del self._buffer[:end]
        return requests


class Service:
    """One guest's processor. `start` and then `serve`; everything noteworthy goes to the log."""

    def __init__(self, processor: Processor, order: Order) -> None:
        self._order = order
        self._measured: Measured = measure_order(order)
        self._context = processor.launch(
            self._measured.measurement, order.host_data, order.policy, secrets.token_bytes(32)
        )
        self._qemu: subprocess.Popen[bytes] | None = None
        self._guest: socket.socket | None = None

    @property
    def measurement(self) -> bytes:
        """The launch digest, 48 bytes."""
        return self._measured.measurement

    def start(self) -> int:
        """Start QEMU and wait until it has opened the guest's port; its process id.

        Raises `HostError`: `processor-socket`, `processor-log`, `qemu-missing`, `qemu-failed`. QEMU is then not
        running.
        """
        listener = self._listen()
        try:
            with open_log(self._order.log) as log:
                self._qemu = start_qemu(self._order, self._measured, log)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
            self._measured.close()
            self._guest = self._accept(listener, self._qemu)
        finally:
            listener.close()
            self._order.socket.unlink(missing_ok=True)
        return self._qemu.pid

    def stop(self) -> None:
        """Ask QEMU to end; `serve` then returns."""
        if self._qemu is not None and self._qemu.returncode is None:
            self._qemu.terminate()

    def log(self, text: str) -> None:
        """Append a line to the log."""
        with open_log(self._order.log) as log:
            os.write(log, f"processor: {text}\n".encode())

    def _listen(self) -> socket.socket:
        path = self._order.socket
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.is_socket():
                path.unlink()
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(4)
        except OSError as error:
            listener.close()
            raise HostError(
                "processor-socket", f"cannot listen on {path}", found=error.strerror or str(error)
            ) from error
        return listener

    def _accept(self, listener: socket.socket, qemu: subprocess.Popen[bytes]) -> socket.socket:
        """The one connection, from QEMU itself; others are refused. Raises `HostError` (`qemu-failed`)."""
        deadline = time.monotonic() + CONNECT_TIMEOUT
        descriptor = os.pidfd_open(qemu.pid)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(descriptor, select.POLLIN)
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready = dict(poll.poll(left * 1000))
                if listener.fileno() in ready:
                    connection, _address = listener.accept()
                    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                    peer = _CREDENTIALS.unpack(raw)[0]
                    if peer == qemu.pid:
                        connection.settimeout(SEND_TIMEOUT)
                        return connection
                    connection.close()
                    self.log(f"refused a connection from process {peer}, which is not the guest's")
                elif descriptor in ready:
                    break
        finally:
            os.close(descriptor)
        qemu.kill()
        raise HostError(
            "qemu-failed",
            "QEMU did not start",
            found=f"status {qemu.wait()}: {_tail(self._order.log)}",
            hint=f"its messages are in {self._order.log}",
        )

    def serve(self) -> None:
        """Answer the guest until QEMU ends, then write the exit file."""
        qemu, guest = self._qemu, self._guest
        if qemu is None or guest is None:
            raise HostError("qemu-failed", "QEMU was not started")
        descriptor = os.pidfd_open(qemu.pid)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(guest, select.POLLIN)
        requests, listening = Requests(), True
        try:
            while descriptor not in (ready := dict(poll.poll())):
                if listening and ready and not self._serve_once(guest, requests):
                    poll.unregister(guest)
                    guest.close()
                    listening = False
        finally:
            if qemu.poll() is None and descriptor not in dict(poll.poll(0)):
                qemu.terminate()
            os.close(descriptor)
            guest.close()
            write_exit(self._order.exit, qemu.wait())

    def _serve_once(self, guest: socket.socket, requests: Requests) -> bool:
        """Answer what is there; False if the guest's side is gone or made no sense."""
        try:
            data = guest.recv(wire.REQUEST_LIMIT)
            if not data:
                self.log("QEMU closed the guest's port")
                return False
            for request in requests.feed(data):
                guest.sendall(answer(self._context, request))
        except (OSError, MalformedError) as error:
            self.log(f"the guest's port is closed: {error}")
            return False
        return True


def write_exit(path: Path, returncode: int) -> None:
    """Write how QEMU ended, at once and whole: `{"status": exit code or 128 + signal, "signal": number or null}`."""
    number = -returncode if returncode < 0 else None
    status = {"status": 128 + number if number else returncode, "signal": number}
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(status, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def error_answer(error: KokonError) -> dict[str, Any]:
    """What the host reads if nothing was started."""
    return {"error": error.as_dict()}


def _tail(path: Path, size: int = 300) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return " | ".join(file.read(size).decode("utf-8", "replace").strip().splitlines())
    except OSError:
        return ""
