"""Kernel modules: what is loaded, and in which order."""

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, KokonError, MalformedError
from kokon.guest.agent.modules import BLOCK, NETWORK, STORAGE, VOLUME, Module, load, load_order, parse_index, read_index
from kokon.guest.build import modules as carried

INDEX = {
    "net_failover": Module("/m/net_failover.ko", ("failover",)),
    "failover": Module("/m/failover.ko", ()),
    "virtio_net": Module("/m/virtio-net.ko", ("net_failover",)),
}


def test_what_is_needed_comes_first_and_once() -> None:
    order = load_order(INDEX, ("virtio-net", "failover", "built_in"))
    assert order == ("/m/failover.ko", "/m/net_failover.ko", "/m/virtio-net.ko")


@pytest.mark.parametrize(
    "index",
    [
        {"a": Module("/a", ("b",)), "b": Module("/b", ("a",))},
        {"a": Module("/a", ("a",))},
        {"a": Module("/a", ("gone",))},
    ],
)
def test_circles_and_holes_are_refused(index: dict[str, Module]) -> None:
    with pytest.raises(MalformedError) as caught:
        load_order(index, ["a"])
    assert caught.value.code == "modules-malformed"


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3), max_size=6))
def test_any_index_is_ordered_or_refused(graph: dict[str, list[str]]) -> None:
    index = {name: Module(name, tuple(depends)) for name, depends in graph.items()}
    try:
        order = load_order(index, "abcdef")
    except MalformedError:
        return
    assert sorted(order) == sorted(index)
    for name, module in index.items():
        assert all(order.index(needed) < order.index(name) for needed in module.depends)


def test_the_index_is_read(tmp_path: Path) -> None:
    path = tmp_path / "modules.json"
    path.write_text(json.dumps({"net-failover": {"path": "/m/x.ko", "depends": ["fail-over"]}}))
    assert read_index(path) == {"net_failover": Module("/m/x.ko", ("fail_over",))}


@pytest.mark.parametrize(
    "data", [b"[]", b'{"a":{"path":"/a","depends":[1]}}', b'{"a":{"depends":[]}}', b'{"a":1}', b"{"]
)
def test_a_strange_index_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_index(data)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_index(data: bytes) -> None:
    try:
        parse_index(data)
    except KokonError:
        pass


def test_loading_goes_in_order_and_skips_what_is_there(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.ko" for name in ("one", "two", "three")]
    for path in paths:
        path.write_text(path.stem)
    (tmp_path / "loaded" / "two").mkdir(parents=True)
    seen: list[str] = []

    def insert(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().stem)
        if seen[-1] == "one":
            raise OSError(errno.EEXIST, "there already")

    load(map(str, paths), insert, tmp_path / "loaded")
    assert seen == ["one", "three"]


def test_a_refused_module_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.ko"
    path.touch()

    def refuse(_: int) -> None:
        raise OSError(errno.ENOEXEC, "format")

    with pytest.raises(HostError) as caught:
        load([str(path)], refuse, tmp_path)
    assert caught.value.code == "module-refused"


def test_the_guest_carries_what_the_agent_loads_and_no_more() -> None:
    assert set(carried.ROOT_MODULES) | set(carried.INITRD_MODULES) >= {*NETWORK, *STORAGE, *VOLUME, *BLOCK}
    assert set(carried.ROOT_MODULES) <= {*NETWORK, *STORAGE, *VOLUME, *BLOCK}
