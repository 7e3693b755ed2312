"""One IPMI device per compute host: OpenIPMI's ipmi_sim, a real IPMI-over-LAN (RMCP+) responder.

A device has a network namespace of its own on the out-of-band network and lives in the root's other namespaces, so it
neither dies with its host nor sees the management network. Its power questions go to ``chassis``, which reads whether
the host's pid 1 runs and cuts power the way ``lab power`` does.
"""

from __future__ import annotations

from pathlib import Path

from lab import network, services
from lab.configure import IPMI_USER
from lab.errors import LabError
from lab.processes import write_atomically
from lab.settings import HOME, PASSWORD, Settings

SERVICE = "ipmi"
AUTHENTICATION = "none md2 md5 straight"

CONFIG = """\
name "{host}"
set_working_mc 0x20
  startlan 1
    addr {address} 623
    priv_limit admin
    allowed_auths_callback {auth}
    allowed_auths_user {auth}
    allowed_auths_operator {auth}
    allowed_auths_admin {auth}
    guid {guid:032x}
  endlan
  chassis_control "{chassis} {state} {host}"
  user 1 true "" "" user 10 {auth}
  user 2 true "{user}" "{password}" admin 10 {auth}
"""

EMULATION = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""


def start(settings: Settings, host: str) -> None:
    """Plug the device of a host in and start it."""
    name = settings.bmc(host)
    folder = settings.run(name)
    auth, number = AUTHENTICATION, settings.octet(host)
    fields = {"host": host, "address": settings.address(name, "oob"), "auth": auth, "guid": 0xA1234567 << 96 | number}
    fields |= {"chassis": HOME / "chassis", "state": settings.state, "user": IPMI_USER, "password": PASSWORD}
    write_atomically(folder / "lan.conf", CONFIG.format(**fields))
    write_atomically(folder / "device.emu", EMULATION)
    (folder / "nvram").mkdir(exist_ok=True)
    network.plug(settings, name)
    sim = [
        "ipmi_sim",
        "-n",
        "-c",
        str(folder / "lan.conf"),
        "-f",
        str(folder / "device.emu"),
        "-s",
        str(folder / "nvram"),
    ]
    services.launch(settings, name, SERVICE, services.in_namespace(settings, name, sim), services.current_environment())


def stop(settings: Settings, host: str) -> None:
    name = settings.bmc(host)
    if SERVICE in services.names(settings, name):
        process = services.find(settings, name, SERVICE)
        if process:
            process.end()
    network.unplug(settings, name)


def delay_file(settings: Settings, host: str) -> Path:
    return settings.run(settings.bmc(host)) / "delay"


def set_delay(settings: Settings, host: str, seconds: float) -> None:
    """From now on the device acknowledges a power command at once and carries it out ``seconds`` later."""
    if seconds < 0:
        raise LabError(f"a delay of {seconds} s is not possible; use 0 or more")
    path = delay_file(settings, host)
    path.unlink(missing_ok=True)
    if seconds:
        write_atomically(path, f"{seconds:g}\n")
