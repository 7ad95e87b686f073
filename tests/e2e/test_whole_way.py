"""From a sealed image to a verified answer, by the commands that a person types; then the end of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust
from kokon.host.state import Directory, read_record
from support.world import World, read_until, wait_until

pytestmark = pytest.mark.vm

PHASES = ["agent-ready", "attested", "pulled", "unsealed", "provisioned", "started", "serving"]
POLITE = """
import signal, socket, sys
def end(*_):
    print('goodbye', flush=True)
    sys.exit(43)
signal.signal(signal.SIGTERM, end)
door = socket.create_server(('127.0.0.1', 8080))
print('open', flush=True)
while True:
    door.accept()[0].close()
"""


@pytest.fixture(scope="module")
def clinic(world: World) -> Iterator[dict[str, Any]]:
    """The clinic, running; tests only look at it."""
    answer = world.run(world.admit_clinic(), "--volume", f"data={world.work / 'data.img'}:64M")
    yield answer
    world.kokon("rm", "clinic", "--force")


def ask(world: World, url: str, mark: str = "") -> dict[str, Any]:
    """A patient's record over the attested channel."""
    with httpx2.Client(
        transport=AttestedTransport(AttestedPeer(url, read_trust(world.home / "trust.json"))), timeout=30
    ) as client:
        token = world.canaries.texts["environment secret"]
        answer = client.get(f"{url}/patients/1?{mark}", headers={"Authorization": f"Bearer {token}"})
    return dict(answer.raise_for_status().json())


def test_run_answers_when_it_serves(world: World, clinic: dict[str, Any]) -> None:
    assert clinic["state"] == "running"
    assert clinic["simulated"] is True
    assert world.phases("clinic") == PHASES
    order = [entry["event"] for entry in world.owner.entries() if entry.get("workload") == "clinic"]
    assert order.index("attestation-granted") < order.index("resource-released") < order.index("guest-event")


def test_ps_lists_it(world: World, clinic: dict[str, Any]) -> None:
    (listed,) = [one for one in world.ask("ps")["containers"] if one["name"] == "clinic"]
    assert listed == clinic
    table = world.kokon("ps")
    assert (table.status, table.err) == (0, "")
    assert table.out.splitlines()[1].split()[:3] == ["clinic", "running", "serving"]


def test_verify_shows_the_chain(world: World, clinic: dict[str, Any]) -> None:
    answer = world.ask("verify", clinic["url"], "--image", f"{world.registry.host}/clinic@{world.digest}")
    assert answer["ok"] is True
    assert answer["simulated"] is True
    assert {step["outcome"] for step in answer["steps"]} == {"passed"}
    shown = world.kokon("verify", clinic["url"])
    assert shown.status == 0
    assert world.digest in shown.out
    assert "SIMULATED" in shown.out
    assert "db-password" in shown.out
    assert not any(text in shown.out for text in world.canaries.texts.values())


def test_verify_refuses_whom_the_user_does_not_trust(world: World, clinic: dict[str, Any]) -> None:
    stranger = world.home / "stranger"
    stranger.mkdir(exist_ok=True)
    empty = {"KOKON_HOME": str(stranger)}
    refused = world.kokon("verify", clinic["url"], "--json", env=empty)
    assert refused.status != 0
    assert '"ok": false' in refused.out
    author = ["--author", "author.key.pub"]
    for command in ("verify", "connect", "logs"):
        refused = world.kokon(command, clinic["url"], *author, env=empty)
        assert refused.status == 4, refused
        assert "simulated-root-refused" in refused.err + refused.out
    other = world.kokon("verify", clinic["url"], "--image", f"clinic@sha256:{'0' * 64}")
    assert other.status == 4, other


def test_a_user_is_answered_over_the_attested_channel(world: World, clinic: dict[str, Any]) -> None:
    record = ask(world, clinic["url"])
    assert record["name"] == "Ada Example"
    assert record["finding"] == world.canaries.texts["answer"]


def test_a_tunnel_carries_plain_http(world: World, clinic: dict[str, Any]) -> None:
    token = world.canaries.texts["environment secret"]
    with world.tunnel(clinic["url"]) as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        assert client.get("/patients/2").status_code == 401
        answer = client.get("/patients/2", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["finding"] == world.canaries.texts["data"][::-1]


def test_the_owner_reads_the_log(world: World, clinic: dict[str, Any]) -> None:
    ask(world, clinic["url"])
    logs = world.kokon("logs", "clinic")
    assert (logs.status, logs.err) == (0, "")
    assert "clinic is open" in logs.out
    assert world.canaries.texts["log"] in logs.out
    state = b"".join(
        path.read_bytes() for path in (world.home / "containers" / "clinic").iterdir() if path.suffix != ".img"
        if path.is_file()
    )  # fmt: skip
    assert world.canaries.texts["log"].encode() not in state


def test_inspect_tells_what_an_image_says(world: World) -> None:
    answer = world.ask("inspect", world.image, "--author", "author.key.pub")
    assert answer["digest"] == world.digest
    assert all(layer["encrypted"] for layer in answer["layers"])
    assert "kek" in world.kokon("inspect", world.image).out


def test_stop_and_remove(world: World) -> None:
    """Also the second start of a volume: what the first wrote is there."""
    volume = ("--volume", f"data={world.work / 'kept.img'}")
    document = world.admit_clinic("restarted")
    first = world.run(document, volume[0], f"{volume[1]}:64M")
    assert [ask(world, first["url"])["visits"] for _ in range(3)] == [1, 2, 3]
    world.refused("container-running", 2, "rm", "restarted")
    stopped = world.ask("stop", "restarted")
    assert (stopped["state"], stopped["exit"]) == ("exited", 143)
    port = int(first["publish"].rpartition(":")[2])
    world.assert_gone("restarted", port)
    assert world.ask("stop", "restarted") == stopped
    world.refused("container-exists", 2, "run", document, *volume)
    assert world.ask("rm", "restarted") == {"name": "restarted", "removed": True}
    world.assert_no_trace("restarted", port)
    world.refused("container-unknown", 2, "rm", "restarted")

    second = world.run(document, *volume)
    assert ask(world, second["url"])["visits"] == 4
    assert second["publish"]
    world.ask("rm", "restarted", "--force")
    world.assert_no_trace("restarted")


def test_the_applications_status_is_the_commands(world: World) -> None:
    document = world.admit_program("seven", "print('so long'); raise SystemExit(7)")
    done = world.kokon("run", document, "--publish", "127.0.0.1:0")
    assert done.status == 7, done
    assert done.out == "seven ended with status 7\n"
    assert "simulated" in done.err
    assert "so long" not in done.out + done.err
    assert (world.container("seven")["state"], world.container("seven")["exit"]) == ("exited", 7)
    world.assert_gone("seven")
    events = [entry for entry in world.owner.entries() if entry.get("workload") == "seven"]
    assert events[-1]["code"] == "application-exited"


def test_sigterm_reaches_the_application(world: World) -> None:
    document = world.admit_program("polite", POLITE)
    process = world.begin("run", document, "--publish", "127.0.0.1:0", "--json")
    read_until(process.stderr, " serving")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 43, (out, err)
    assert '"exit": 43' in out
    world.assert_gone("polite")


def test_ps_is_right_after_everything_was_killed(world: World) -> None:
    """`kokon run`, the security processor and QEMU, each with SIGKILL; nothing was asked to end."""
    document = world.admit_program("killed", POLITE)
    process = world.begin("run", document, "--publish", "127.0.0.1:0")
    read_until(process.stderr, " serving")
    process.kill()
    process.communicate(timeout=20)
    running = world.container("killed")
    assert (running["state"], running["phase"], running["processor"]) == ("running", "serving", True)
    record = read_record(Directory(world.home, "killed"))
    assert record is not None
    assert record.processor is not None
    os.kill(record.processor.pid, signal.SIGKILL)
    wait_until(lambda: not world.container("killed")["processor"], 10, "the processor is still listed")
    alone = world.container("killed")
    assert (alone["state"], alone["pid"]) == ("running", running["pid"])
    os.kill(running["pid"], signal.SIGKILL)
    wait_until(lambda: world.container("killed")["state"] == "failed", 10, "the container is still listed as running")
    ended = world.container("killed")
    assert (ended["code"], ended["pid"], ended["processor"]) == ("guest-vanished", None, False)
    assert "killed" not in world.kokon("ps").out
    assert "guest-vanished" in world.kokon("ps", "--all").out
    world.assert_gone("killed", int(running["publish"].rpartition(":")[2]))
    world.ask("rm", "killed")
    world.assert_no_trace("killed")
