"""The OCI configuration of the one container."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.guest.agent.oci import Bind, ContainerSpec, build_config, choose_args, merge_environment
from kokon.guest.agent.users import User


def spec(**changes: object) -> ContainerSpec:
    members: dict[str, object] = {
        "args": ("/app",),
        "user": User(),
        "directory": "/",
        "rootfs": "/r",
        "hostname": "clinic",
        "network": "/proc/1/fd/9",
        "environment": {"A": "1"},
    }
    return ContainerSpec(**{**members, **changes})  # type: ignore[arg-type]


def test_the_container_has_namespaces_of_its_own() -> None:
    config = build_config(spec())
    kinds = {entry["type"]: entry.get("path") for entry in config["linux"]["namespaces"]}
    assert kinds == {
        "pid": None,
        "ipc": None,
        "uts": None,
        "mount": None,
        "cgroup": None,
        "network": "/proc/1/fd/9",
    }
    assert config["hostname"] == "clinic"
    assert config["process"]["noNewPrivileges"] is True
    assert "CAP_SYS_ADMIN" not in json.dumps(config["process"]["capabilities"])
    assert {"/proc/kcore", "/sys/class/virtio-ports"} <= set(config["linux"]["maskedPaths"])
    assert "/proc/sys" in config["linux"]["readonlyPaths"]


def test_root_keeps_default_capabilities_and_others_none() -> None:
    root = build_config(spec())["process"]["capabilities"]
    other = build_config(spec(user=User(1000, 1001, (5,))))["process"]
    assert "CAP_CHOWN" in root["effective"]
    assert root["inheritable"] == root["ambient"] == []
    assert other["capabilities"]["effective"] == other["capabilities"]["permitted"] == []
    assert other["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [5]}


def test_seccomp_refuses_on_every_abi() -> None:
    seccomp = build_config(spec())["linux"]["seccomp"]
    assert set(seccomp["architectures"]) == {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}
    refused = set(seccomp["syscalls"][0]["names"])
    assert {"kexec_load", "finit_module", "mount", "setns", "bpf", "unshare", "open_by_handle_at"} <= refused
    assert not {"clone", "read", "execve", "socket"} & refused


def test_memory_and_binds_are_as_asked() -> None:
    config = build_config(spec(memory=1 << 28, binds=(Bind("/run/s", "/run/secrets/db"),)))
    assert config["linux"]["resources"]["memory"] == {"limit": 1 << 28}
    assert config["mounts"][-1] == {
        "destination": "/run/secrets/db",
        "type": "bind",
        "source": "/run/s",
        "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
    }
    assert "memory" not in build_config(spec())["linux"]["resources"]


@pytest.mark.parametrize(
    ("override", "args"),
    [(None, ("/entry", "a", "b")), (("c",), ("/entry", "c")), ((), ("/entry",))],
)
def test_arguments_replace_the_images(override: tuple[str, ...] | None, args: tuple[str, ...]) -> None:
    assert choose_args(("/entry",), ("a", "b"), override) == args


@pytest.mark.parametrize("args", [((), (), None), ((), ("x",), ()), (("",), (), None)])
def test_there_must_be_a_command(args: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]) -> None:
    with pytest.raises(MalformedError) as caught:
        choose_args(*args)
    assert caught.value.code == "command-missing"


def test_secrets_win_over_the_document_and_that_over_the_image() -> None:
    merged = merge_environment(
        (("A", "image"), ("B", "image"), ("C", "image")),
        (("B", "document"), ("C", "document")),
        {"C": b"secret"},
        User(home="/home/app"),
    )
    assert (merged["A"], merged["B"], merged["C"]) == ("image", "document", "secret")
    assert merged["HOME"] == "/home/app"
    assert "/usr/bin" in merged["PATH"]


@pytest.mark.parametrize("value", [b"\xff", b"a\0b"])
def test_a_secret_that_is_no_text_is_refused_and_not_shown(value: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        merge_environment((), (), {"TOKEN": value}, User())
    assert caught.value.code == "secret-not-text"
    assert "b" not in (caught.value.found or "")


def test_the_environment_is_bounded() -> None:
    with pytest.raises(MalformedError) as caught:
        merge_environment((), (), {"TOKEN": b"x" * (1 << 20)}, User())
    assert caught.value.code == "environment-too-large"


def test_secrets_are_not_in_the_repr() -> None:
    assert "hunter2" not in repr(spec(environment={"TOKEN": "hunter2"}))


@given(
    st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.text(max_size=20).filter(lambda t: "\0" not in t))
)
def test_the_configuration_is_json_with_every_variable(environment: dict[str, str]) -> None:
    config = json.loads(json.dumps(build_config(spec(environment=environment))))
    assert dict(entry.split("=", 1) for entry in config["process"]["env"]) == environment
