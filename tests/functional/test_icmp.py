"""The prober on loopback and between two network namespaces of its own."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmha.adapters import icmp
from vmha.adapters.icmp import Icmp

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.functional
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: raw sockets, network namespaces")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces, 10.99.0.1 and fd99::1 asking, 10.99.0.2 and fd99::2 answering."""
    here, there = f"vmha-a{os.getpid()}", f"vmha-b{os.getpid()}"
    ip("netns", "add", here)
    ip("netns", "add", there)
    try:
        ip("-n", here, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", there)
        for name, last in ((here, 1), (there, 2)):
            ip("-n", name, "address", "add", f"10.99.0.{last}/24", "dev", "v0")
            ip("-n", name, "address", "add", f"fd99::{last}/64", "dev", "v0", "nodad")
            ip("-n", name, "link", "set", "v0", "up")
        assert probe_in(here, {"a": "10.99.0.2", "b": "fd99::2"}, 10.0) == {"a": True, "b": True}, "the pair is ready"
        yield here, there
    finally:
        ip("netns", "delete", here)
        ip("netns", "delete", there)


def probe_in(namespace: str, addresses: dict[str, str], timeout: float = 1.0, user: int = 0) -> dict[str, bool | None]:
    program = (
        "import os, sys, ast; from vmha.adapters.icmp import Icmp\n"
        f"os.setgroups([]); os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})\n"
        f"print(Icmp().probe({addresses!r}, {timeout}))"
    )
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(ast.literal_eval(done.stdout))


@needs_root
def test_loopback_answers_at_once() -> None:
    began = time.monotonic()
    assert Icmp().probe({"a": "127.0.0.1", "b": "::1", "c": "127.1.2.3"}, 5.0) == {"a": True, "b": True, "c": True}
    assert time.monotonic() - began < 2


def test_nonsense_could_not_be_asked() -> None:
    assert Icmp().probe({"a": "compute1", "b": "", "c": "1.2.3.4.5"}, 0.2) == {"a": None, "b": None, "c": None}
    assert Icmp().probe({}, 5.0) == {}


@needs_root
def test_answered_silent_and_not_asked(pair: tuple[str, str]) -> None:
    here, _ = pair
    addresses = {
        "up": "10.99.0.2",
        "up6": "fd99::2",
        "nobody": "10.99.0.77",
        "nobody6": "fd99::77",
        "no route": "10.98.0.1",
        "no route6": "fd98::1",
    }
    assert probe_in(here, addresses) == {
        "up": True,
        "up6": True,
        "nobody": False,
        "nobody6": False,
        "no route": None,
        "no route6": None,
    }


@needs_root
def test_one_that_ignores_echo_is_silent(pair: tuple[str, str]) -> None:
    here, there = pair
    setting = "net.ipv4.icmp_echo_ignore_all=1"
    subprocess.run(["ip", "netns", "exec", there, "sysctl", "-qw", setting], check=True)
    assert probe_in(here, {"a": "10.99.0.2", "b": "fd99::2"}) == {"a": False, "b": True}


@needs_root
def test_a_peer_without_its_cable_is_silent(pair: tuple[str, str]) -> None:
    here, there = pair
    assert probe_in(here, {"a": "10.99.0.2"}) == {"a": True}
    ip("-n", there, "address", "delete", "10.99.0.2/24", "dev", "v0")
    assert probe_in(here, {"a": "10.99.0.2"}, 4.0) == {"a": False}, "also once the neighbour is known to be gone"


@needs_root
def test_an_unreachable_route_could_not_be_asked(pair: tuple[str, str]) -> None:
    here, _ = pair
    ip("-n", here, "route", "add", "unreachable", "10.97.0.0/24")
    ip("-n", here, "route", "add", "prohibit", "10.96.0.0/24")
    ip("-n", here, "route", "add", "blackhole", "10.95.0.0/24")
    addresses = {"unreachable": "10.97.0.1", "prohibit": "10.96.0.1", "blackhole": "10.95.0.1"}
    assert probe_in(here, addresses, 0.5) == {"unreachable": None, "prohibit": None, "blackhole": None}


@needs_root
def test_without_permission_it_could_not_be_asked(pair: tuple[str, str]) -> None:
    here, _ = pair
    range_ = "net.ipv4.ping_group_range=1 0"
    subprocess.run(["ip", "netns", "exec", here, "sysctl", "-qw", range_], check=True)
    assert probe_in(here, {"a": "10.99.0.2", "b": "fd99::2"}, user=65534) == {"a": None, "b": None}


@needs_root
def test_ping_sockets_serve_without_root(pair: tuple[str, str]) -> None:
    here, _ = pair
    subprocess.run(["ip", "netns", "exec", here, "sysctl", "-qw", "net.ipv4.ping_group_range=0 65535"], check=True)
    answers = probe_in(here, {"a": "10.99.0.2", "b": "fd99::2", "c": "10.99.0.77"}, user=65534)
    assert answers == {"a": True, "b": True, "c": False}


@needs_root
def test_the_reply_to_another_does_not_count() -> None:
    """Somebody else's answers pour in from the very address."""
    ended = threading.Event()

    def pour() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            packet = icmp.echo_request(4, 7, b"x" * 16)
            reply = bytes([icmp.ECHO_REPLY]) + packet[1:]
            while not ended.is_set():
                sock.sendto(reply, ("127.0.0.9", 0))
                time.sleep(0.001)

    question = icmp._ask("127.0.0.9")
    assert question is not None
    question.nonce = b"never sent......"
    pourer = threading.Thread(target=pour)
    pourer.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            icmp._hear(question)
    finally:
        ended.set()
        pourer.join()
        question.sock.close()
    assert question.answer is None
