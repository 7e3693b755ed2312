"""Nova's JSON to the core's values; fields as of microversion 2.80-2.94.

A record from a cell that is down has the status UNKNOWN and few fields (microversion 2.69): that raises ComputeUnknown.
Fields that are missing raise KeyError or TypeError, which the caller turns into "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vmha.core.model import Instance, Migration, Service
from vmha.errors import ComputeError, ComputeUnknown

Raw = Mapping[str, Any]


def service(raw: Raw) -> Service:
    """One record of os-services."""
    if raw["status"] == "UNKNOWN":
        raise ComputeUnknown(f"Nova cannot read the service of {raw.get('host')}: its cell is down")
    return Service(
        id=str(raw["id"]),
        host=str(raw["host"]),
        up=raw["state"] == "up",
        forced_down=raw["forced_down"] is True,
        disabled=raw["status"] == "disabled",
        disabled_reason=raw.get("disabled_reason") or "",
        updated_wall=_wall(raw.get("updated_at")),
    )


def instance(raw: Raw) -> Instance:
    """One server in detail.  ComputeError when Nova shows us no hosts (the account is not an admin's)."""
    if raw["status"] == "UNKNOWN" and "OS-EXT-STS:vm_state" not in raw:
        raise ComputeUnknown(f"Nova cannot read server {raw.get('id')}: its cell is down")
    if "OS-EXT-SRV-ATTR:host" not in raw:
        raise ComputeError("Nova does not show us the hosts of servers: the account needs the admin role", 403)
    image, flavor = raw.get("image"), raw.get("flavor") or {}
    return Instance(
        uuid=str(raw["id"]),
        name=str(raw["name"]),
        host=raw["OS-EXT-SRV-ATTR:host"] or "",
        status=str(raw["status"]),
        vm_state=str(raw["OS-EXT-STS:vm_state"]),
        task_state=raw["OS-EXT-STS:task_state"],
        power_state=int(raw["OS-EXT-STS:power_state"] or 0),
        locked=bool(raw.get("locked")),
        metadata={str(key): str(value) for key, value in (raw.get("metadata") or {}).items()},
        project=str(raw.get("tenant_id") or ""),
        memory_mib=int(flavor.get("ram") or 0),
        vcpus=int(flavor.get("vcpus") or 0),
        image=str(image["id"]) if image else "",
        flavor={str(key): str(value) for key, value in (flavor.get("extra_specs") or {}).items()},
    )


def migration(raw: Raw) -> Migration:
    """One record of os-migrations."""
    return Migration(
        id=int(raw["id"]),
        instance=str(raw["instance_uuid"]),
        status=str(raw["status"]),
        source=raw["source_compute"] or "",
        target=raw["dest_compute"] or "",
        user=str(raw.get("user_id") or ""),
    )


def _wall(text: str | None) -> float:
    """Nova's times are UTC without saying so."""
    if not text:
        return 0.0
    moment = datetime.fromisoformat(text.rstrip("Z"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
