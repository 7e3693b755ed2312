"""Where beats go: this host's address on each network, and the controllers there."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oslo_config import cfg

from vmha.errors import BadConfig, BadRecord
from vmha.wire import keys
from vmha.wire.beat import NETWORK_MAX

GROUP = "beat"
OPTS = [
    cfg.ListOpt(
        "networks",
        default=[],
        help="This host's address on each network over which it sends beats, as NAME:ADDRESS, separated by commas: "
        "management:10.77.0.11,storage:10.77.1.11. The names are those of the controllers' settings.",
    ),
    cfg.ListOpt(
        "controllers",
        default=[],
        help="Every controller on every network, as NAME:ADDRESS:PORT, separated by commas: "
        "management:10.77.0.2:7410,management:10.77.0.3:7410,storage:10.77.1.2:7410. IPv6: storage:[fd00::2]:7410.",
    ),
    cfg.FloatOpt(
        "period",
        default=0.2,
        min=0.02,
        max=1.0,
        help="Seconds between two beats. A host is suspect after 1.2 s of silence: keep it at 0.2 unless all hosts and controllers "
        "are changed together.",
    ),
]


@dataclass(frozen=True, slots=True)
class BeatSettings:
    """Settings of [beat], checked: network to own address, network to controllers (address, port)."""

    networks: Mapping[str, str]
    controllers: Mapping[str, tuple[tuple[str, int], ...]]
    period: float


def settings(conf: cfg.ConfigOpts) -> BeatSettings:
    """The checked settings.  BadConfig."""
    group = conf[GROUP]
    networks = _networks(group.networks)
    controllers: dict[str, tuple[tuple[str, int], ...]] = {}
    for name, address, port in endpoints("[beat] controllers", group.controllers):
        if name not in networks:
            raise BadConfig(
                f"[beat] controllers: network {name} is not in [beat] networks: add this host's address on it"
            )
        controllers[name] = (*controllers.get(name, ()), (address, port))
    for name in networks:
        if name not in controllers:
            raise BadConfig(f"[beat] networks: no controller is set on network {name}: add it to [beat] controllers")
    return BeatSettings(networks, controllers, group.period)


def _networks(texts: Sequence[str]) -> dict[str, str]:
    if not texts:
        raise BadConfig("[beat] networks is empty: set this host's address on each network, as management:10.77.0.11")
    networks: dict[str, str] = {}
    for text in texts:
        name, _, rest = text.strip().partition(":")
        name = network_name("[beat] networks", text, name)
        if name in networks:
            raise BadConfig(f"[beat] networks: {name} stands there twice")
        networks[name] = _address("[beat] networks", text, rest)
    return networks


def endpoints(option: str, texts: Sequence[str]) -> list[tuple[str, str, int]]:
    """(network, address, port) of each ``NAME:ADDRESS:PORT``.  BadConfig, which names ``option``."""
    found = []
    for text in texts:
        name, _, rest = text.strip().partition(":")
        address, colon, port = rest.rpartition(":")
        if not colon or not port.isdigit() or not 0 < int(port) < 65536:
            raise BadConfig(f"{option}: {text!r} must look like management:10.77.0.2:7410")
        triple = (network_name(option, text, name), _address(option, text, address), int(port))
        if triple in found:
            raise BadConfig(f"{option}: {text} stands there twice")
        found.append(triple)
    return found


def network_name(option: str, text: str, name: str) -> str:
    """``name`` checked to be a network's name.  BadConfig."""
    try:
        if len(keys.part(name).encode()) <= NETWORK_MAX:
            return name
        why = f"longer than {NETWORK_MAX} bytes"
    except BadRecord:
        why = "not a name"
    raise BadConfig(f"{option}: the network in {text!r} is {why}: write NAME:ADDRESS, as management:10.77.0.11")


def _address(option: str, text: str, address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise BadConfig(
            f"{option}: {address!r} in {text!r} is not an IP address (host names are not looked up)"
        ) from None
