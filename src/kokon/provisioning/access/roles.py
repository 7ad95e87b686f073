"""What each role may do. Both sets are closed; who adds an action decides here who may do it. Pure."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """What a principal is for."""

    OWNER = "owner"
    """Everything in its scope, also principals and policies."""
    OPERATOR = "operator"
    """The daily work: secrets and workloads' statements. Decides of nobody's rights."""
    AUDITOR = "auditor"
    """Reads the log, policies, denials and names, and cosigns checkpoints. Changes nothing."""


class Action(StrEnum):
    """What can be done on the admin interface. There is no reading of a secret's value."""

    SECRET_WRITE = "secret-write"  # noqa: S105
    SECRET_LIST = "secret-list"  # noqa: S105
    SECRET_ROTATE = "secret-rotate"  # noqa: S105
    SECRET_DELETE = "secret-delete"  # noqa: S105
    WORKLOAD_ADMIT = "workload-admit"
    WORKLOAD_WITHDRAW = "workload-withdraw"
    WORKLOAD_LIST = "workload-list"
    STATEMENT_ADD = "statement-add"
    POLICY_SET = "policy-set"
    POLICY_READ = "policy-read"
    REFERENCE_SET = "reference-set"
    REFERENCE_READ = "reference-read"
    PRINCIPAL_MANAGE = "principal-manage"
    PROJECT_MANAGE = "project-manage"
    LOG_READ = "log-read"
    DENIAL_READ = "denial-read"
    STATUS_READ = "status-read"
    CHECKPOINT_COSIGN = "checkpoint-cosign"


class Reach(StrEnum):
    """What of a scope an action needs."""

    PATH = "path"
    """A grant that covers the path; without a path, the project as a whole."""
    PROJECT = "project"
    """A grant of the project as a whole, whatever path is given."""
    ANY = "any"
    """Any grant in the project."""
    SERVER = "server"
    """The grant of everything: all projects, all paths."""


_ALLOWED: Final[Mapping[Role, frozenset[Action]]] = MappingProxyType(
    {
        Role.OWNER: frozenset(Action),
        Role.OPERATOR: frozenset(
            {
                Action.SECRET_WRITE,
                Action.SECRET_LIST,
                Action.SECRET_ROTATE,
                Action.SECRET_DELETE,
                Action.WORKLOAD_LIST,
                Action.STATEMENT_ADD,
                Action.STATUS_READ,
            }
        ),
        Role.AUDITOR: frozenset(
            {
                Action.SECRET_LIST,
                Action.WORKLOAD_LIST,
                Action.POLICY_READ,
                Action.REFERENCE_READ,
                Action.LOG_READ,
                Action.DENIAL_READ,
                Action.STATUS_READ,
                Action.CHECKPOINT_COSIGN,
            }
        ),
    }
)

_REACH: Final[Mapping[Action, Reach]] = MappingProxyType(
    {
        Action.SECRET_WRITE: Reach.PATH,
        Action.SECRET_LIST: Reach.PATH,
        Action.SECRET_ROTATE: Reach.PATH,
        Action.SECRET_DELETE: Reach.PATH,
        Action.WORKLOAD_ADMIT: Reach.PATH,
        Action.WORKLOAD_WITHDRAW: Reach.PATH,
        Action.WORKLOAD_LIST: Reach.PATH,
        Action.STATEMENT_ADD: Reach.PATH,
        Action.POLICY_SET: Reach.PROJECT,
        Action.POLICY_READ: Reach.PROJECT,
        Action.REFERENCE_SET: Reach.PROJECT,
        Action.REFERENCE_READ: Reach.PROJECT,
        Action.PRINCIPAL_MANAGE: Reach.ANY,
        Action.PROJECT_MANAGE: Reach.SERVER,
        Action.LOG_READ: Reach.PROJECT,
        Action.DENIAL_READ: Reach.PATH,
        Action.STATUS_READ: Reach.ANY,
        Action.CHECKPOINT_COSIGN: Reach.PROJECT,
    }
)


def allowed(role: Role) -> frozenset[Action]:
    """All that `role` may do."""
    return _ALLOWED[role]


def reach(action: Action) -> Reach:
    """What of a scope `action` needs."""
    return _REACH[action]


def contains(role: Role, other: Role) -> bool:
    """True if `role` may do all that `other` may."""
    return _ALLOWED[other] <= _ALLOWED[role]
