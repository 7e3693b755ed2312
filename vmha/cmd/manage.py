"""``vmha-manage``: the journal and the settings, from a shell, until the API exists.

    vmha-manage recovery list [--all]           open recoveries (with --all: ended ones too)
    vmha-manage recovery show ID                one whole: timeline, instances, calls
    vmha-manage recovery approve|retry|abort|resolve HOST    see vmha.cmd.orders
    vmha-manage host condemn|confirm HOST --reason WHY
    vmha-manage voters init | show
    vmha-manage host list                       hosts, their registration and condemnation
    vmha-manage host set|maintain|release, instance set, segment set, disarm, arm    see vmha.cmd.settings

Exit status: 0 done, 1 not found or the store did not answer, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from oslo_config import cfg

from vmha.adapters.etcd import EtcdStore
from vmha.cmd import orders, settings
from vmha.conf import etcd, opts
from vmha.controller import intake
from vmha.core import events as ev
from vmha.core.model import HostSettings, Recovery, Stage
from vmha.errors import VmhaError
from vmha.wire import keys, records


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    args = _parser().parse_args(argv)
    conf = cfg.ConfigOpts()
    opts.register(conf)
    try:
        conf(["--config-file", args.config_file] if args.config_file else [], project="vmha", prog="vmha-manage")
        e = etcd.settings(conf)
        store = EtcdStore(e.endpoints, user=e.user, password=e.password, ca=e.ca, cert=e.cert, key=e.key)
        run: Callable[[EtcdStore, argparse.Namespace], int] = args.run
        return run(store, args)
    except (VmhaError, cfg.Error, ValueError) as error:
        print(f"vmha-manage: {error}", file=sys.stderr)
        return 2 if isinstance(error, (cfg.Error, ValueError)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vmha-manage", description="vmha's journal and settings, from a shell")
    parser.add_argument("--config-file", help="default: /etc/vmha/vmha.conf")
    groups = parser.add_subparsers(required=True, metavar="GROUP")
    recovery = groups.add_parser("recovery", help="recoveries").add_subparsers(required=True, metavar="WHAT")
    _add(recovery, "list", recovery_list, ("--all",), help="open recoveries; --all: ended ones too").add_argument(
        "--json", action="store_true"
    )
    show = _add(recovery, "show", recovery_show, help="timeline, instances and calls of one")
    show.add_argument("id")
    show.add_argument("--json", action="store_true")
    orders.add_recovery(recovery, _add)
    host = groups.add_parser("host", help="hosts").add_subparsers(required=True, metavar="WHAT")
    _add(host, "list", host_list, help="hosts, their registration and condemnation")
    settings.add_host(host, _add)
    orders.add_host(host, _add)
    voters = groups.add_parser("voters", help="who answers for others when etcd is away")
    orders.add_voters(voters.add_subparsers(required=True, metavar="WHAT"), _add)
    instance = groups.add_parser("instance", help="instances").add_subparsers(required=True, metavar="WHAT")
    settings.add_instance(instance, _add)
    segment = groups.add_parser("segment", help="segments").add_subparsers(required=True, metavar="WHAT")
    settings.add_segment(segment, _add)
    settings.add_cloud(groups, _add)
    return parser


def _add(parsers: Any, name: str, run: Any, flags: Iterable[str] = (), **more: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(name, **more)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    parser.set_defaults(run=run)
    return parser


def _world(store: EtcdStore) -> ev.World:
    listed = store.list(keys.PREFIX, without=keys.INSTANCES)
    return intake.world(listed.items, listed.revision)


# --- reading -------------------------------------------------------------------------------------------------------


def recovery_list(store: EtcdStore, args: argparse.Namespace) -> int:
    found = [r for r in _world(store).recoveries.values() if args.all or r.stage is not Stage.ENDED]
    found.sort(key=_began)
    if args.json:
        print(json.dumps([json.loads(records.encode(r)) for r in found], indent=2))
        return 0
    rows = [(r.id, r.host, str(r.stage), r.proof or "-", _progress(r), r.hold or r.reason) for r in found]
    _table(("ID", "HOST", "STAGE", "PROOF", "INSTANCES", "WHY"), rows, "no recoveries")
    return 0


def recovery_show(store: EtcdStore, args: argparse.Namespace) -> int:
    world = _world(store)
    record = world.recoveries.get(args.id)
    if record is None:
        raise VmhaError(f"no recovery {args.id}: see vmha-manage recovery list --all")
    calls = sorted((c for c in world.calls.values() if c.recovery == record.id), key=lambda c: (c.epoch, c.id))
    if args.json:
        print(json.dumps([json.loads(records.encode(v)) for v in (record, *calls)], indent=2))
        return 0
    print(f"recovery {record.id} of host {record.host} (boot {record.boot or 'unknown'}): {record.stage}")
    print(f"  why       {record.reason}")
    print(f"  proof     {record.proof or 'none yet'}{': ' + record.evidence if record.evidence else ''}")
    if record.hold:
        print(f"  holds     {record.hold}")
    print("timeline")
    first = _began(record)
    for name, at in sorted(record.times_wall.items(), key=lambda t: t[1]):
        if "/" not in name:
            print(f"  {_clock(at)}  +{at - first:7.2f} s  {name.replace('_', ' ')}")
    steps = [(s.name or s.instance, str(s.state), s.target or "-", str(s.attempts), s.reason) for s in record.steps]
    _table(("INSTANCE", "STATE", "TO", "TRIES", "WHY"), steps, "no instances")
    rows = [(c.id, str(c.kind), c.instance or c.host, str(c.outcome or "open"), c.detail) for c in calls]
    _table(("CALL", "WHAT", "ABOUT", "OUTCOME", "ANSWER"), rows, "no calls")
    return 0


def host_list(store: EtcdStore, args: argparse.Namespace) -> int:
    world = _world(store)
    rows = []
    for name in sorted({*world.hosts, *world.alive, *world.condemned}):
        alive, settings = world.alive.get(name), world.hosts.get(name) or HostSettings(name)
        condemned = world.condemned.get(name)
        state = (
            "condemned"
            if condemned
            else "maintenance"
            if settings.maintenance
            else "registered"
            if alive
            else "no lease"
        )
        gate = alive.gate if alive else "-"
        hook = ("yes" if alive.hook else "MISSING") if alive else "-"
        rows.append((name, state, gate, hook, settings.segment, condemned.reason if condemned else ""))
    _table(("HOST", "STATE", "GATE", "HOOK", "SEGMENT", "WHY"), rows, "no hosts")
    return 0


def _began(record: Recovery) -> float:
    return min(record.times_wall.values(), default=0.0)


def _progress(record: Recovery) -> str:
    states = [str(s.state) for s in record.steps]
    return ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))) or "-"


def _clock(wall: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(wall)) + f".{int(wall % 1 * 1000):03d}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    if not rows:
        print(empty)
        return
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
