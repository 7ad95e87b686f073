"""The OCI runtime configuration (runtime-spec 1.0, config.md) of the one container. Pure: values in, a dictionary out.

Capabilities and hidden paths are those that podman gives by default; beyond it, no process can gain privileges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kokon.errors import MalformedError
from kokon.guest.agent.users import User

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP = "/application"
_ENVIRONMENT_LIMIT = 1 << 20
_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)
_MASKED = (
    *("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/fs/selinux", "/sys/dev/block"),
    *("/proc/kallsyms", "/proc/vmallocinfo", "/sys/class/virtio-ports", "/sys/kernel/config"),
)
_READ_ONLY = ("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# A list of what is refused, and not of what is allowed: these reach kernel code that no service needs.
_REFUSED_CALLS = (
    *("acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "finit_module"),
    *("fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "init_module", "io_uring_enter"),
    *("io_uring_register", "io_uring_setup", "ioperm", "iopl", "kexec_file_load", "kexec_load", "keyctl"),
    *("lookup_dcookie", "mount", "mount_setattr", "move_mount", "nfsservctl", "open_by_handle_at", "open_tree"),
    *("perf_event_open", "personality", "pivot_root", "process_vm_readv", "process_vm_writev", "query_module"),
    *("quotactl", "quotactl_fd", "reboot", "request_key", "setdomainname", "sethostname", "setns", "settimeofday"),
    *("stime", "swapoff", "swapon", "syslog", "umount", "umount2", "unshare", "uselib", "userfaultfd", "vhangup"),
)
_PERMITTED = 1  # EPERM


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the guest that appears in the container."""

    source: str
    target: str
    options: tuple[str, ...] = ("bind", "ro", "nosuid", "nodev", "noexec")


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that decides the configuration. `memory` in bytes (None: no limit); `environment` may hold secrets."""

    args: tuple[str, ...]
    user: User
    directory: str
    rootfs: str
    hostname: str
    network: str
    environment: Mapping[str, str] = field(repr=False)
    binds: tuple[Bind, ...] = ()
    memory: int | None = None


def choose_args(entrypoint: Sequence[str], command: Sequence[str], override: Sequence[str] | None) -> tuple[str, ...]:
    """The command: the image's entry point, then the launch document's arguments or else the image's.

    Raises `MalformedError` (`command-missing`).
    """
    args = (*entrypoint, *(command if override is None else override))
    if not args or not args[0]:
        raise MalformedError(
            "command-missing", "neither the image nor the launch document names a command", hint="give args"
        )
    return args


def merge_environment(
    image: Sequence[tuple[str, str]],
    document: Sequence[tuple[str, str]],
    secrets: Mapping[str, bytes],
    user: User,
) -> dict[str, str]:
    """The environment; the launch document wins over the image, secrets win over both.

    Raises `MalformedError` (`secret-not-text` for a secret that cannot be a variable, `environment-too-large`).
    """
    merged = {"PATH": PATH, "HOME": user.home, **dict(image), **dict(document)}
    for name, value in secrets.items():
        try:
            merged[name] = value.decode()
        except UnicodeDecodeError:
            raise _unfit(name) from None
        if "\0" in merged[name]:
            raise _unfit(name)
    if sum(len(n) + len(v) + 2 for n, v in merged.items()) > _ENVIRONMENT_LIMIT:
        raise MalformedError("environment-too-large", "the environment is too large", expected=_ENVIRONMENT_LIMIT)
    return merged


def _unfit(name: str) -> MalformedError:
    return MalformedError(
        "secret-not-text", "a secret is no text and cannot be a variable", found=name, hint="deliver it as a file"
    )


def build_config(spec: ContainerSpec) -> dict[str, Any]:
    """config.json as plain values."""
    return {
        "ociVersion": "1.0.2",
        "process": _process(spec),
        "root": {"path": spec.rootfs, "readonly": False},
        "hostname": spec.hostname,
        "mounts": [*_standard_mounts(), *map(_bind, spec.binds)],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")),
                {"type": "network", "path": spec.network},
            ],
            "cgroupsPath": CGROUP,
            "resources": _resources(spec.memory),
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "seccomp": _seccomp(),
        },
    }


def _process(spec: ContainerSpec) -> dict[str, Any]:
    held = list(_CAPABILITIES) if spec.user.uid == 0 else []
    limits = (("RLIMIT_NOFILE", 1 << 16), ("RLIMIT_CORE", 0))
    return {
        "terminal": False,
        "user": {"uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": list(spec.user.groups)},
        "args": list(spec.args),
        "env": [f"{name}={value}" for name, value in spec.environment.items()],
        "cwd": spec.directory,
        "capabilities": {
            "bounding": list(_CAPABILITIES),
            "effective": held,
            "permitted": held,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [{"type": kind, "hard": number, "soft": number} for kind, number in limits],
        "noNewPrivileges": True,
    }


def _standard_mounts() -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", "proc", safe),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", "shm", [*safe, "mode=1777", "size=65536k"]),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", "mqueue", safe),
        _mount("/sys", "sysfs", "sysfs", [*safe, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*safe, "relatime", "ro"]),
    ]


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _bind(bind: Bind) -> dict[str, Any]:
    return _mount(bind.target, "bind", bind.source, list(bind.options))


def _resources(memory: int | None) -> dict[str, Any]:
    resources: dict[str, Any] = {"pids": {"limit": 4096}}
    if memory is not None:
        resources["memory"] = {"limit": memory}
    return resources


def _seccomp() -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": list(_REFUSED_CALLS), "action": "SCMP_ACT_ERRNO", "errnoRet": _PERMITTED}],
    }
