"""A member with authentication on, and users with the permissions a test needs."""

from __future__ import annotations

from node.apply.requests import (
    AuthEnableRequest,
    Identity,
    Permission,
    PermissionType,
    Request,
    RoleAddRequest,
    RoleGrantPermissionRequest,
    UserAddRequest,
    UserGrantRoleRequest,
)
from node.apply.responses import AuthResponse

from .apply_fixture import Machine

READ, WRITE, READWRITE = PermissionType
HASH = b"$2b$10$" + b"a" * 53
"""What a bcrypt hash looks like."""


def as_user(machine: Machine, name: str) -> Identity:
    """`name`, let in just now."""
    return Identity(name, machine.auth.revision)


def done(machine: Machine, *requests: Request) -> None:
    """Apply them as root (while authentication is off: as anybody); none is refused."""
    for request in requests:
        result = machine.apply(request, as_user(machine, "root"))
        assert isinstance(result, AuthResponse), (request, result)


def switch_on(machine: Machine) -> None:
    done(
        machine,
        UserAddRequest("root", HASH),
        UserGrantRoleRequest("root", "root"),
        AuthEnableRequest(),
    )


def add_user(machine: Machine, name: str, *permissions: Permission) -> None:
    """A user with a role of the same name."""
    done(
        machine,
        UserAddRequest(name, HASH),
        RoleAddRequest(name),
        UserGrantRoleRequest(name, name),
        *(RoleGrantPermissionRequest(name, each) for each in permissions),
    )
