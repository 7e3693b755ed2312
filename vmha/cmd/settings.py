"""Admins' settings of ``vmha-manage``: what is said of a host, an instance or a segment; what is not named stays as it was.

vmha-manage host set HOST [--segment S] [--failure-domain D] [--reserved yes|no]
vmha-manage host maintain HOST [--off]       not judged while an operator works on it
vmha-manage host release HOST                let a reconciled host back (where return_to_service is off)
vmha-manage instance set UUID [--protect P] [--priority N] [--group G] [--ready yes|no] | --clear
vmha-manage segment set NAME [--protect P] [--enabled yes|no]
vmha-manage disarm | arm                     no new condemnation while disarmed
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from vmha.cmd import orders
from vmha.core.commands import CLOUD
from vmha.core.model import Condemnation, HostSettings, InstanceSettings, Protect, SegmentSettings, Verb
from vmha.errors import StoreConflict, VmhaError
from vmha.ports import Store
from vmha.wire import keys, records

T = TypeVar("T")
TRIES = 5  # somebody else may write the same record in between


def add_host(parsers: Any, add: orders.Add) -> None:
    """What is said of a host."""
    one = add(parsers, "set", host_set, help="where it belongs")
    one.add_argument("host")
    one.add_argument("--segment", help="its failover group")
    one.add_argument("--failure-domain", help="what fails together with it: a rack, a power feed")
    _yes_no(one, "--reserved", "kept empty, used when Nova finds no other host")
    for name, run, text in (
        ("maintain", host_maintain, "not judged while you work on it"),
        ("release", host_release, "let a reconciled host back in service"),
    ):
        one = add(parsers, name, run, help=text)
        orders.arguments(one, reason=False)
        if name == "maintain":
            one.add_argument("--off", action="store_true", help="judge it again")


def add_instance(parsers: Any, add: orders.Add) -> None:
    """What an admin says of one instance."""
    one = add(parsers, "set", instance_set, help="an admin's word about one instance")
    one.add_argument("uuid")
    one.add_argument("--protect", choices=list(Protect))
    one.add_argument("--priority", type=int, help="larger is earlier")
    one.add_argument("--group", help="its start group")
    _yes_no(one, "--ready", "later groups wait until its guest answers")
    one.add_argument("--clear", action="store_true", help="take back all that was said of it")


def add_segment(parsers: Any, add: orders.Add) -> None:
    """The defaults of a segment."""
    one = add(parsers, "set", segment_set, help="the defaults of a segment")
    one.add_argument("name")
    one.add_argument("--protect", choices=list(Protect))
    _yes_no(one, "--enabled", "no: its hosts are watched, none is condemned")


def add_cloud(parsers: Any, add: orders.Add) -> None:
    """The global switch."""
    for name, run, text in (("disarm", disarm, "no new condemnation"), ("arm", arm, "act again")):
        orders.arguments(add(parsers, name, run, help=text), reason=False, host=False)


def _yes_no(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, type=_truth, metavar="yes|no", help=text)


def _truth(word: str) -> bool:
    if word not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither yes nor no")
    return word == "yes"


def _change(store: Store, key: str, kind: type[T], make: Callable[[T | None], T]) -> int:
    """Write what ``make`` makes of the record as it is, unless somebody else writes it meanwhile: then again."""
    for _ in range(TRIES):
        item = store.get(key)
        old = records.decode(kind, key, item.value) if item is not None else None
        try:
            store.commit({key: records.encode(make(old))}, expect={key: item.modified if item is not None else 0})
        except StoreConflict:
            continue
        return 0
    raise VmhaError(f"{key} is being changed by somebody else all the time: try again")


def _said(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given.  VmhaError when none was."""
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not found:
        raise VmhaError(f"nothing to set: give {' or '.join('--' + name.replace('_', '-') for name in names)}")
    return found


# --- hosts ---------------------------------------------------------------------------------------------------------


def _host(store: Store, host: str, **fields: Any) -> int:
    def make(old: HostSettings | None) -> HostSettings:
        if old is None:
            raise VmhaError(f"vmha knows no host {host}: see vmha-manage host list")
        return replace(old, **fields)

    return _change(store, keys.host_settings(host), HostSettings, make)


def host_set(store: Store, args: argparse.Namespace) -> int:
    return _host(store, args.host, **_said(args, "segment", "failure_domain", "reserved"))


def _in_maintenance(store: Store, host: str) -> bool:
    item = store.get(keys.host_settings(host))
    if item is None:
        raise VmhaError(f"vmha knows no host {host}: see vmha-manage host list")
    return records.decode(HostSettings, item.key, item.value).maintenance


def host_maintain(store: Store, args: argparse.Namespace) -> int:
    """By the leader, which else could write over it; by ourselves while none leads."""
    if _in_maintenance(store, args.host) is not args.off:
        raise VmhaError(f"host {args.host} is {'not in maintenance' if args.off else 'in maintenance already'}")
    if store.get(keys.LEADER) is None:
        return _host(store, args.host, maintenance=not args.off)
    verb = Verb.RELEASE if args.off else Verb.MAINTAIN
    return orders.order(store, verb, args.host, args.by, args.reason, args.wait)


def host_release(store: Store, args: argparse.Namespace) -> int:
    key = keys.condemned(args.host)
    item = store.get(key)
    if item is None:
        raise VmhaError(f"host {args.host} is not condemned: nothing to release")
    if store.get(keys.LEADER) is None or _in_maintenance(
        store, args.host
    ):  # of a maintenance the leader would say: over
        condemned = records.decode(Condemnation, key, item.value, revision=item.created)
        return _host(store, args.host, release=condemned.revision)
    return orders.order(store, Verb.RELEASE, args.host, args.by, args.reason, args.wait)


# --- instances, segments -------------------------------------------------------------------------------------------


def instance_set(store: Store, args: argparse.Namespace) -> int:
    if args.clear:
        store.commit({}, [keys.instance_settings(args.uuid)])
        return 0
    fields = _said(args, "protect", "priority", "group", "ready")
    if "protect" in fields:
        fields["protect"] = Protect(fields["protect"])
    key = keys.instance_settings(args.uuid)
    return _change(store, key, InstanceSettings, lambda old: replace(old or InstanceSettings(args.uuid), **fields))


def segment_set(store: Store, args: argparse.Namespace) -> int:
    fields = _said(args, "protect", "enabled")
    if "protect" in fields:
        fields["protect"] = Protect(fields["protect"])
    key = keys.segment_settings(args.name)
    return _change(store, key, SegmentSettings, lambda old: replace(old or SegmentSettings(args.name), **fields))


# --- the cloud -----------------------------------------------------------------------------------------------------


def _switch(store: Store, disarmed: bool) -> None:
    store.commit({keys.switches(): json.dumps({"v": records.VERSION, "disarmed": disarmed}).encode()})


def disarm(store: Store, args: argparse.Namespace) -> int:
    """The switch at once, whoever leads; then the leader tells when the fences that run have ended."""
    _switch(store, True)
    if store.get(keys.LEADER) is None:
        print("disarmed; no controller leads now")
        return 0
    return orders.order(store, Verb.DISARM, CLOUD, args.by, args.reason, args.wait)


def arm(store: Store, args: argparse.Namespace) -> int:
    if store.get(keys.LEADER) is None:
        _switch(store, False)
        print("armed; no controller leads now")
        return 0
    return orders.order(store, Verb.ARM, CLOUD, args.by, args.reason, args.wait)
