"""Each attack of the demo, carried out for real: nothing is released, nothing starts, and the owner's log tells why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kokon.demo import attacks
from kokon.demo.owner import Owner
from kokon.host.request import Publish, RunRequest, Volume
from support.world import World

pytestmark = pytest.mark.vm

EXPECTED: dict[object, str] = {
    attacks.layer_changed: "layer-digest-mismatch",
    attacks.foreign_signature: "image-author-unknown",
    attacks.other_kernel: "measurement-unknown",
    attacks.other_cmdline: "measurement-unknown",
    attacks.other_document: "workload-unknown",
    attacks.replayed_evidence: "report-data-mismatch",
    attacks.debug_guest: "debug-enabled",
    attacks.other_root: "simulated-root-refused",
}
IDS = [action.__name__.replace("_", "-") for _, action in attacks.ATTACKS]


@pytest.fixture(scope="module")
def target(world: World) -> Iterator[attacks.Target]:
    """The clinic, running, as the host that attacks it knows it."""
    document = world.admit_clinic("target")
    answer = world.run(document, "--volume", f"data={world.work / 'target.img'}:64M")
    request = RunRequest(
        document=document.read_bytes(),
        guest=world.guest,
        name="attack",
        publish=Publish("127.0.0.1", 0),
        volumes=(Volume("data", world.work / "attack.img", 64 << 20),),
    )
    ready = world.owner.ready
    yield attacks.Target(
        home=world.home,
        work=world.work,
        request=request,
        owner=Owner(world.home, ready["url"], Path(ready["certificate"])),
        registry=world.registry.directory / "storage",
        registry_url=world.registry.host,
        image_digest=world.digest,
        repository="clinic",
        running=answer["url"],
    )
    world.kokon("rm", "target", "--force")


def test_every_attack_has_its_expected_code() -> None:
    assert set(EXPECTED) == {action for _, action in attacks.ATTACKS}


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=IDS)
def test_attack(world: World, target: attacks.Target, attack: attacks.Attack) -> None:
    told: list[attacks.Outcome] = []
    (outcome,) = attacks.play(target, told.append, [attack])
    assert told == [outcome]
    assert outcome.held, outcome
    assert outcome.code == EXPECTED[attack[1]], outcome
    assert outcome.reason
    assert outcome.released == ()
    assert "started" not in outcome.phases
    running = [one["name"] for one in world.ask("ps")["containers"] if one["name"].startswith("attack")]
    assert running == []
