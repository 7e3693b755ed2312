"""Operators' orders of ``vmha-manage``: written as commands for the leader, whose answer is waited for.

vmha-manage recovery approve HOST            let it be condemned although a cap, the observer's doubt or approval mode holds it
vmha-manage recovery retry HOST              try now what failed; after a refuted proof: seek proof anew
vmha-manage recovery abort HOST              no new calls; running ones finish
vmha-manage recovery resolve HOST --reason   declare the case settled
vmha-manage host condemn HOST --reason       condemn and fence it now (caps apply)
vmha-manage host confirm HOST --reason       you have seen that the condemned host is dead: proof of death
vmha-manage voters init [--arbiter C]        make the list of voters from the registered hosts
vmha-manage voters show                      the list
"""

from __future__ import annotations

import argparse
import getpass
import time
import uuid
from collections.abc import Callable
from typing import Any

from vmha.controller import intake
from vmha.core.model import Answer, Command, Verb, Voters
from vmha.core.voters import can_do_without, seats
from vmha.errors import VmhaError
from vmha.ports import Store
from vmha.wire import keys, records

LOOK = 0.2  # seconds between two looks for the answer
RECOVERY = {
    "approve": "let it be condemned although a cap, the observer's doubt or approval mode holds it",
    "retry": "try now what failed; after a refuted proof: seek proof anew",
    "abort": "no new calls; running ones finish; it stays condemned",
    "resolve": "declare the case settled: nothing more is done for its instances",
}
HOST = {
    "condemn": ("condemn and fence it now (caps apply)", Verb.CONDEMN),
    "confirm": ("you have seen that the condemned host is dead", Verb.CONFIRM_DEAD),
}

Run = Callable[[Any, argparse.Namespace], int]
Add = Callable[..., argparse.ArgumentParser]


def add_recovery(parsers: Any, add: Add) -> None:
    """The orders about a recovery."""
    for name, text in RECOVERY.items():
        arguments(add(parsers, name, _run(Verb(name)), help=text), reason=name == "resolve")


def add_host(parsers: Any, add: Add) -> None:
    """The orders about a host that need a reason."""
    for name, (text, verb) in HOST.items():
        arguments(add(parsers, name, _run(verb), help=text), reason=True)


def add_voters(parsers: Any, add: Add) -> None:
    """The list of voters."""
    init = add(parsers, "init", voters_init, help="make the list from the registered hosts")
    init.add_argument("--arbiter", default="", help="name of the controller that votes where the hosts are even")
    init.add_argument("--yes", action="store_true", help="do not ask")
    add(parsers, "show", voters_show, help="the list")


def arguments(parser: argparse.ArgumentParser, reason: bool, host: bool = True) -> None:
    """What every order takes; ``reason``: it must be given."""
    if host:
        parser.add_argument("host")
    parser.add_argument("--reason", required=reason, default="", help="is written into the record")
    parser.add_argument("--by", default=getpass.getuser(), help="who orders it (default: %(default)s)")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for the leader's answer")


def _run(verb: Verb) -> Run:
    return lambda store, args: order(store, verb, args.host, args.by, args.reason, args.wait)


def order(store: Store, verb: Verb, target: str, by: str, reason: str, wait: float) -> int:
    """Write one command and tell what became of it; 1 when it was refused."""
    leader = store.get(keys.LEADER)
    if leader is None:
        raise VmhaError("no controller leads now: start one, then give the order again")
    now = time.time()
    command = Command(uuid.uuid4().hex[:12], verb, target, by, reason, leader.created, now)
    key = keys.command(target, command.id)
    store.commit({key: records.encode(command)}, expect={key: 0})
    answer = _answer(store, key, command, time.monotonic() + wait)
    if answer is None:
        print(f"{verb} of {target} is taken and not done yet; see vmha-manage recovery list, and the decision log")
        return 0
    print(f"{verb} of {target}: {'' if answer.done else 'refused: '}{answer.text}")
    return 0 if answer.done else 1


def _answer(store: Store, key: str, command: Command, deadline: float) -> Answer | None:
    """The leader's answer, written in the transaction that deletes the command; None when it takes longer."""
    while time.monotonic() < deadline:
        item = store.get(keys.answer(command.target))
        if item is not None:
            found = records.decode(Answer, item.key, item.value)
            if found.id == command.id:
                return found
        time.sleep(LOOK)
    return None


# --- voters --------------------------------------------------------------------------------------------------------


def voters_init(store: Store, args: argparse.Namespace) -> int:
    """Lists the hosts, asks, and writes the first list; later ones follow the hosts by themselves."""
    listed = store.list(keys.PREFIX, without=keys.INSTANCES)
    world = intake.world(listed.items, listed.revision)
    if world.voters is not None:
        raise VmhaError(
            "there is a list of voters already, it follows the hosts by itself: see vmha-manage voters show"
        )
    domains = {n: s.failure_domain or n for n, s in world.hosts.items() if s.last_boot and not s.maintenance}
    voters = Voters(seats(domains, args.arbiter), args.arbiter, revision=1)
    _show(voters)
    if not voters.names or not all(can_do_without(voters, name) for name in voters.names):
        raise VmhaError(
            "no majority would be left without any one of them: name a controller with --arbiter, or add a host"
        )
    if not args.yes and input("Are these all hosts that should vote? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing is written")
        return 1
    store.commit({keys.VOTERS: records.encode(voters)}, expect={keys.VOTERS: 0})
    return 0


def voters_show(store: Store, args: argparse.Namespace) -> int:
    item = store.get(keys.VOTERS)
    if item is None:
        raise VmhaError("there is no list of voters: make it with vmha-manage voters init")
    _show(records.decode(Voters, item.key, item.value, revision=item.modified))
    return 0


def _show(voters: Voters) -> None:
    print(f"{len(voters.names)} voters: {', '.join(voters.names) or 'none'}")
    if voters.previous:
        print(f"until a majority of them knows of the change, these must agree too: {', '.join(voters.previous)}")
    print(f"arbiter: {voters.arbiter or 'none named'}")
