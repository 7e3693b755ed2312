"""lab: a real multi-host OpenStack on this machine.  ``lab COMMAND --help`` says more about each command."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from lab import install, overlaps, services, status
from lab import settings as settings_
from lab.api import Lab
from lab.checks import require_root
from lab.errors import LabError


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    parser.add_argument("--light", action="store_true", help="the light lab (no OpenStack) instead of the full one")
    parser.add_argument("--at", type=Path, metavar="FOLDER", help="the lab that was started with this state folder")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("--light", action="store_true", default=argparse.SUPPRESS, help="the light lab")
        return one

    one = command("install", "install what the lab needs: Debian packages, OpenStack's venv, the guest image")
    one = command("up", "start the lab")
    one.add_argument("--fresh", action="store_true", help="forget databases, disks and keys of earlier starts")
    one.add_argument("--hosts", type=int, default=3, metavar="N", help="compute hosts, 1 to 10 (default 3)")
    one.add_argument("--no-vmha", action="store_true", help="do not start vmha's services")
    one.add_argument("--local-disks", action="store_true", help="an instances folder per host instead of a shared one")
    command("down", "stop the lab; nothing of it is left running")
    command("status", "machines, services, power, networks")
    one = command("exec", "run a command inside ctl, con1, con2 or computeN")
    one.add_argument("machine")
    one.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD")
    one = command("power", "cut or restore the power of a machine")
    one.add_argument("way", choices=["off", "on"])
    one.add_argument("machine", metavar="HOST")
    one = command("net", "cut or heal one network of a machine (oob: the host's IPMI device)")
    one.add_argument("way", choices=["cut", "heal"])
    one.add_argument("machine", metavar="HOST")
    one.add_argument("network", choices=list(settings_.NETWORKS))
    one.add_argument("--link", action="store_true", help="take the carrier away instead of dropping packets")
    one = command("service", "services of a machine; bmcN is computeN's IPMI device")
    one.add_argument("machine")
    one.add_argument("action", choices=["list", "stop", "kill", "start", "restart", "signal"])
    one.add_argument("name", nargs="?")
    one.add_argument("signal", nargs="?", help="a signal's name, with 'signal'")
    one = command("delay", "let a host's IPMI device carry out power commands some seconds late")
    one.add_argument("machine", metavar="HOST")
    one.add_argument("seconds", type=float)
    one = command("witness", "which QEMU processes ran where and when")
    one.add_argument("--check", action="store_true", help="only double runs; exit 1 if there are any")
    one.add_argument("--since", type=float, help="leave out overlaps before this CLOCK_BOOTTIME")
    one.add_argument(
        "--exempt", action="append", default=[], metavar="UUID:START:END", help="an ordered live migration"
    )
    return parser


def exempt(text: str) -> overlaps.Exempt:
    uuid, _, times = text.partition(":")
    start, _, end = times.partition(":")
    try:
        return overlaps.Exempt(uuid, float(start or 0), float(end or "inf"))
    except ValueError:
        raise LabError(f"{text!r} is no UUID:START:END with times in seconds") from None


def do_service(lab: Lab, args: argparse.Namespace) -> int:
    if args.action == "list":
        for name, alive in lab.services(args.machine).items():
            print(f"{name:20} {'alive, pid ' + str(lab.pid(args.machine, name)) if alive else 'DEAD'}")
    elif not args.name:
        raise LabError(f"which service? {args.machine} has {', '.join(services.names(lab.settings, args.machine))}")
    elif args.action == "signal":
        lab.signal(args.machine, args.name, args.signal or "")
    else:
        lab.service(args.machine, args.name, args.action)
    return 0


def do_witness(lab: Lab, args: argparse.Namespace) -> int:
    found = lab.witness_overlaps(args.since, [exempt(text) for text in args.exempt])
    for line in found if args.check else lab.witness_runs():
        print(line)
    if args.check and not found:
        print("no instance ran twice")
    return 1 if args.check and found else 0


def do_exec(lab: Lab, args: argparse.Namespace) -> int:
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise LabError(f"what shall run in {args.machine}? lab exec {args.machine} CMD...")
    try:
        return lab.exec(args.machine, argv).returncode
    except KeyboardInterrupt:
        return 130


def act(args: argparse.Namespace) -> int:
    require_root()
    lab = Lab(light=args.light)
    if args.at:
        lab.settings = settings_.load(args.at.resolve())
    match args.command:
        case "install":
            install.install(lab.settings, say)
        case "up":
            lab.up(args.fresh, args.hosts, not args.no_vmha, args.local_disks, say)
        case "down":
            lab.down(say)
        case "status":
            print("\n".join(status.lines(lab.settings)))
        case "exec":
            return do_exec(lab, args)
        case "power":
            lab.power(args.machine, args.way)
        case "net":
            lab.cut(args.machine, args.network, args.link) if args.way == "cut" else lab.heal(
                args.machine, args.network
            )
        case "service":
            return do_service(lab, args)
        case "delay":
            lab.bmc_delay(args.machine, args.seconds)
        case "witness":
            return do_witness(lab, args)
    return 0


def main() -> int:
    os.environ.setdefault("VMHA_LAB_BY", "cli")
    try:
        return act(build_parser().parse_args())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except subprocess.SubprocessError as error:
        print(f"lab: {error}; this is a fault of the lab itself", file=sys.stderr)
        return 1
