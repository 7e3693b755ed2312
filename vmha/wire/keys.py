"""Names of the keys in etcd (design section 4): the only place that knows them.

A host or instance name becomes a key part as it is; names with a slash, a control character or nothing in them are refused with
BadRecord, so that one host can never write under another's prefix.
"""

from __future__ import annotations

from vmha.errors import BadRecord

PREFIX = "/vmha/v1/"
LEADER = PREFIX + "controller/leader"
HOSTS = PREFIX + "hosts/"
INSTANCES = PREFIX + "instances/"
SETTINGS = PREFIX + "settings/"
CONDEMNED = PREFIX + "condemned/"
RECOVERIES = PREFIX + "recoveries/"
DECISIONS = PREFIX + "decisions/"
VOTERS = PREFIX + "voters"
COMMANDS = PREFIX + "commands/"
ANSWERS = PREFIX + "answers/"
ACKNOWLEDGED = PREFIX + "acknowledged/"
MEMBERS = PREFIX + "members/"
LOCKS = PREFIX + "locks/"


def part(name: str) -> str:
    """``name`` checked to be one key part."""
    if not name or "/" in name or name in (".", "..") or any(ord(c) < 33 or ord(c) == 127 for c in name):
        raise BadRecord(
            f"{name!r} cannot name a host, instance or record: use a name without slashes, spaces or control characters"
        )
    return name


def alive(host: str) -> str:
    return f"{HOSTS}{part(host)}/alive"


def instance(host: str, uuid: str) -> str:
    return f"{INSTANCES}{part(host)}/{part(uuid)}"


def condemned(host: str) -> str:
    return CONDEMNED + part(host)


def recovery(recovery_id: str) -> str:
    return RECOVERIES + part(recovery_id)


def call(recovery_id: str, call_id: str) -> str:
    return f"{DECISIONS}{part(recovery_id)}/{part(call_id)}"


def host_settings(host: str) -> str:
    return f"{SETTINGS}hosts/{part(host)}"


def segment_settings(segment: str) -> str:
    return f"{SETTINGS}segments/{part(segment)}"


def instance_settings(uuid: str) -> str:
    return f"{SETTINGS}instances/{part(uuid)}"


def command(target: str, command_id: str) -> str:
    return f"{COMMANDS}{part(target)}/{part(command_id)}"


def answer(target: str) -> str:
    """What became of the last command about the target."""
    return ANSWERS + part(target)


def acknowledged(controller: str) -> str:
    """Which lists the arbiter has applied, by revision: ``voters`` and ``condemned``."""
    return ACKNOWLEDGED + part(controller)


def unprotected(host: str) -> str:
    """Uuids on this host that policy surely leaves alone, computed by the leader for the host's gate."""
    return f"{SETTINGS}unprotected/{part(host)}"


def switches() -> str:
    """Global switches (disarmed ...)."""
    return SETTINGS + "switches"


def split(key: str) -> tuple[str, ...]:
    """Parts of a key below PREFIX: ``("hosts", "compute1", "alive")``.  BadRecord when it is not one of ours."""
    if not key.startswith(PREFIX):
        raise BadRecord(f"key {key!r} is not below {PREFIX}")
    return tuple(key[len(PREFIX) :].split("/"))
