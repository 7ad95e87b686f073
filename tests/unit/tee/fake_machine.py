"""A stand-in for QEMU: an executable of that name that plays a scripted guest behind the processor's port."""

import json
import socket
import struct
import sys
from pathlib import Path
from typing import Any

PROGRAM = "qemu-system-x86_64"

SCRIPT = """#!{python} -IS
import json, os, socket, struct, sys, time
argv = sys.argv
path = next(a for a in argv if a.startswith("socket,id=psp,path=")).partition("path=")[2]
plan = json.loads(open({plan!r}).read())
print("fake qemu is here", file=sys.stderr, flush=True)
if plan.get("die"):
    sys.exit(plan["die"])
psp = socket.socket(socket.AF_UNIX)
psp.connect(path)
answers = []
def get(n):
    data = b""
    while len(data) < n:
        chunk = psp.recv(n - len(data))
        if not chunk:
            return None
        data += chunk
    return data
for request in plan["requests"]:
    psp.sendall(bytes.fromhex(request))
    head = get(4)
    body = None if head is None else get(struct.unpack("<I", head)[0])
    answers.append(None if body is None else body.hex())
seen = dict((name, open(argv[argv.index(name) + 1], "rb").read().hex()) for name in ("-bios", "-kernel", "-initrd"))
with open({out!r} + ".new", "w") as file:
    json.dump(dict(answers=answers, files=seen, argv=argv, environment=sorted(os.environ)), file)
os.rename({out!r} + ".new", {out!r})
if plan.get("close"):
    psp.close()
if plan.get("wait"):
    time.sleep(60)
if plan.get("signal"):
    os.kill(os.getpid(), plan["signal"])
sys.exit(plan.get("status", 0))
"""


class Machine:
    """A directory with the program, files to launch, and what an order needs."""

    def __init__(self, directory: Path, **plan: Any) -> None:
        self.directory = directory
        self.program = directory / PROGRAM
        self.out = directory / "out.json"
        self.socket, self.exit, self.log = (directory / name for name in ("psp.sock", "exit.json", "log"))
        (directory / "plan.json").write_text(json.dumps({"requests": []} | plan))
        self.program.write_text(
            SCRIPT.format(python=sys.executable, plan=str(directory / "plan.json"), out=str(self.out))
        )
        self.program.chmod(0o755)
        self.files = {"firmware": b"\xf0" * 8192, "kernel": b"kernel", "initrd": b"initrd"}
        for name, content in self.files.items():
            (directory / name).write_bytes(content)

    def argv(self, **changed: str) -> list[str]:
        values = {
            "-bios": str(self.directory / "firmware"),
            "-kernel": str(self.directory / "kernel"),
            "-initrd": str(self.directory / "initrd"),
            "-append": "console=ttyS0 quiet",
            "-smp": "1",
            "-cpu": "max,-cx16",
        } | {f"-{name}": value for name, value in changed.items()}
        pairs = [item for pair in values.items() for item in pair]
        return [
            str(self.program),
            *("-nodefaults", "-no-user-config", "-M", "q35", "-accel", "tcg", *pairs),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=psp,path={self.socket}"),
            *("-device", "virtserialport,chardev=psp,name=kokon.psp"),
        ]

    def order(self, **changed: Any) -> bytes:
        members = {
            "argv": self.argv(),
            "host_data": "5a" * 32,
            "socket": str(self.socket),
            "exit": str(self.exit),
            "log": str(self.log),
        }
        return json.dumps(members | changed).encode()

    @property
    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found

    def answers(self) -> list[bytes | None]:
        return [None if text is None else bytes.fromhex(text) for text in self.seen["answers"]]


def request(kind: int, body: bytes) -> str:
    return (struct.pack("<I", 1 + len(body)) + bytes([kind]) + body).hex()


def report_request(report_data: bytes, vmpl: int = 0) -> str:
    return request(1, report_data + struct.pack("<I28x", vmpl))


def key_request(fields: int, root: int = 0) -> str:
    return request(2, struct.pack("<IIQII8x", root, 0, fields, 0, 0))


def connect(path: Path) -> socket.socket:
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(str(path))
    return stranger


def is_running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
