"""vmha-beat: sends beats to every controller on every network, for as long as the host's kernel runs it.

Run as ``python3 -I -S .../vmha/agent/beat.py RUN_DIR``: standard library only, and of vmha only wire/beat.py, loaded by path.  The
agent starts it and may die: the beats go on, and their age of progress grows.  One process for each RUN_DIR (``beat.lock``).

The agent talks to it on the stream socket ``RUN_DIR/beat.sock`` (mode 600), one JSON object a line:

``{"op": "configure", "host": h, "deployment": hex, "key": hex, "period": 0.2,
"networks": {name: {"source": address, "controllers": [[address, port], ...]}}}``
    answered by ``{"ok": true}`` or ``{"ok": false, "error": sentence}``; a wrong one changes nothing.
``{"op": "progress", "voters": 0, "condemned": 0}``
    a sign of life of the agent's engine, with the revisions of the lists that this voter has applied; not answered.
``{"op": "status"}``
    answered by the status.

A controller's challenge is answered at once with an extra beat that carries its nonce, and so does every later beat to it.
Errors of the network are counted and never end anything; a source address that is not there is tried again each second.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmha.wire import beat as wire
else:
    from importlib.machinery import SourceFileLoader

    _file = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "wire", "beat.py")
    wire = type(sys)("vmha_wire_beat")
    SourceFileLoader("vmha_wire_beat", _file).exec_module(wire)

LOCK = "beat.lock"
SOCKET = "beat.sock"
ALREADY = 3  # exit status: another beat process holds the lock
PERIOD = (0.02, 10.0)
LINE_MAX = 1 << 18
RETRY = 1.0  # seconds between attempts to bind a source address
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Network:
    """One network: a socket bound to the host's address on it, and the last nonce of each controller there."""

    def __init__(self, name: str, source: str, controllers: list[tuple[str, int]], same: bytes) -> None:
        self.name = name
        self.source = source
        self.nonces = dict.fromkeys(controllers, wire.NO_NONCE)
        self.same = same
        self.socket: socket.socket | None = None
        self.retry_at = 0.0
        self.sent = 0
        self.errors: dict[str, int] = {}

    def ready(self, now: float) -> bool:
        """The socket is there, made now if it is time to try."""
        if self.socket is None and now >= self.retry_at:
            self.retry_at = now + RETRY
            family = socket.AF_INET6 if ":" in self.source else socket.AF_INET
            s = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                s.bind((self.source, 0))
                self.socket = s
            except OSError as e:
                s.close()
                self.failed(e)
        return self.socket is not None

    def send(self, datagram: bytes, to: tuple[str, int]) -> None:
        assert self.socket is not None
        try:
            self.socket.sendto(datagram, to)
            self.sent += 1
        except OSError as e:
            self.failed(e)

    def failed(self, e: OSError) -> None:
        name = errno.errorcode.get(e.errno or 0, "unknown")
        self.errors[name] = self.errors.get(name, 0) + 1

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Beating:
    """What is sent, to whom, and when."""

    def __init__(self, boot: bytes) -> None:
        self.boot = boot
        self.start = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.host = ""
        self.key: wire.Key | None = None
        self.period = 0.2
        self.networks: list[Network] = []
        self.sequence = 0
        self.progress = 0
        self.progress_at: float | None = None
        self.lists = (0, 0)  # revisions of the voters' and the condemned list that the agent has applied
        self.late_max = 0.0
        self._due = time.monotonic()

    def configure(self, wanted: dict[str, Any]) -> None:
        """Apply a configuration at once.  ValueError, with nothing changed, for a wrong one."""
        host = _text(wanted, "host")
        deployment, key = _bytes(wanted, "deployment", 8), _bytes(wanted, "key", 32)
        period = wanted.get("period", 0.2)
        if not isinstance(period, int | float) or not PERIOD[0] <= period <= PERIOD[1]:
            raise ValueError(f"period must be {PERIOD[0]} to {PERIOD[1]} seconds, not {period!r}")
        networks = [
            self._network(name, host, deployment, settings) for name, settings in _object(wanted, "networks").items()
        ]
        for old in self.networks:
            old.close()
        self.host, self.key, self.period, self.networks = host, wire.Key(key), float(period), networks
        self._due = time.monotonic()

    def _network(self, name: str, host: str, deployment: bytes, settings: Any) -> Network:
        if not isinstance(settings, dict):
            raise ValueError(f"network {name}: an object is expected")
        source = _address(_text(settings, "source"))
        controllers = settings.get("controllers")
        if not isinstance(controllers, list):
            raise ValueError(f"network {name}: controllers must be a list of [address, port]")
        return Network(
            name,
            source,
            [_controller(c) for c in controllers],
            wire.identity(wire.BEAT, deployment, self.boot, self.start, host, name),
        )

    def seconds_to_next(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def beat_if_due(self) -> None:
        """One beat to every controller when it is time.  Deadlines are multiples of the period: missed ones are left out."""
        now = time.monotonic()
        if now < self._due:
            return
        self.late_max = max(self.late_max, now - self._due)
        self._due += self.period * (1 + int((now - self._due) / self.period))
        self.sequence += 1
        for network in self.networks:
            if network.ready(now):
                for controller in network.nonces:
                    self._send(network, controller)

    def _send(self, network: Network, controller: tuple[str, int]) -> None:
        assert self.key is not None
        now = boottime()
        at = self.progress_at
        age = wire.NEVER_MS if at is None else min(int((now - at) * 1000), wire.NEVER_MS - 1)
        nonce = network.nonces[controller]
        datagram = wire.beat(
            network.same, self.key, self.sequence, int(now * 1000), self.progress, age, nonce, *self.lists
        )
        network.send(datagram, controller)

    def answer(self, network: Network) -> None:
        """Read what controllers sent: a new nonce is kept and answered at once."""
        assert network.socket is not None and self.key is not None
        for _ in range(64):
            try:
                datagram, source = network.socket.recvfrom(wire.MAX_SIZE + 1)
            except BlockingIOError:
                return
            except OSError as e:  # an ICMP error of an earlier send
                network.failed(e)
                continue
            controller = (source[0], source[1])
            nonce = wire.challenged(datagram, network.same, self.key) if controller in network.nonces else None
            if nonce is not None and nonce != network.nonces[controller]:
                network.nonces[controller] = nonce
                self.sequence += 1
                self._send(network, controller)

    def status(self) -> dict[str, Any]:
        return {
            "ok": True,
            "pid": os.getpid(),
            "host": self.host,
            "boot": self.boot.hex(),
            "start": self.start,
            "period": self.period,
            "sequence": self.sequence,
            "progress": self.progress,
            "progress_age": None if self.progress_at is None else boottime() - self.progress_at,
            "late_max": self.late_max,
            "lists": list(self.lists),
            "networks": {
                n.name: {
                    "source": n.source,
                    "bound": n.socket is not None,
                    "controllers": [list(c) for c in n.nonces],
                    "challenged": [list(c) for c, nonce in n.nonces.items() if nonce != wire.NO_NONCE],
                    "sent": n.sent,
                    "errors": n.errors,
                }
                for n in self.networks
            },
        }


def _text(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be text, not {value!r}")
    return value


def _object(settings: dict[str, Any], name: str) -> dict[str, Any]:
    value = settings.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, not {value!r}")
    return value


def _bytes(settings: dict[str, Any], name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(_text(settings, name))
    except ValueError:
        value = b""
    if len(value) != size:
        raise ValueError(f"{name} must be {2 * size} hexadecimal digits")  # never the value: it may be a key
    return value


def _revision(settings: dict[str, Any], name: str) -> int:
    value = settings.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{name} must be a revision of the store, not {value!r}")
    return value


def _address(text: str) -> str:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def _controller(pair: Any) -> tuple[str, int]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or type(pair[1]) is not int:
        raise ValueError(f"a controller must be [address, port], not {pair!r}")
    if not 0 < pair[1] < 65536:
        raise ValueError(f"{pair[1]} is not a port")
    return _address(pair[0]), pair[1]


class Agents:
    """The unix socket: connections of agents and of people who ask for the status."""

    def __init__(self, run_dir: str, beating: Beating, privileges: dict[str, Any]) -> None:
        self._beating = beating
        self._privileges = privileges
        self._buffers: dict[int, tuple[socket.socket, bytearray]] = {}
        path = os.path.join(run_dir, SOCKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        mask = os.umask(0o177)
        self.listener.bind(path)
        os.umask(mask)
        self.listener.listen(8)

    def files(self) -> list[int]:
        return [self.listener.fileno(), *self._buffers]

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        self._buffers[connection.fileno()] = (connection, bytearray())

    def read(self, file: int) -> None:
        """Take what came in on one connection; a line too long, a broken or an unread one ends the connection."""
        connection, buffer = self._buffers[file]
        try:
            piece = connection.recv(65536)
            buffer += piece
            if not piece or len(buffer) > LINE_MAX:
                raise OSError(errno.ECONNRESET, "ended")
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                answer = self._answer(line)
                if answer is not None:
                    connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            del self._buffers[file]
            connection.close()

    def _answer(self, line: bytes) -> dict[str, Any] | None:
        try:
            wanted = json.loads(line)
            op = wanted["op"]
            if op == "progress":
                self._beating.lists = (_revision(wanted, "voters"), _revision(wanted, "condemned"))
                self._beating.progress += 1
                self._beating.progress_at = boottime()
                return None
            if op == "configure":
                self._beating.configure(wanted)
                return {"ok": True}
            if op == "status":
                return {**self._beating.status(), **self._privileges}
            return {"ok": False, "error": f"op {op!r} is not known: use configure, progress or status"}
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            return {"ok": False, "error": str(e) or type(e).__name__}


def raise_privileges() -> dict[str, Any]:
    """Real-time priority and locked memory where the kernel allows them; says what was had."""
    got: dict[str, Any] = {"realtime": "SCHED_RR 1", "locked": True}
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError as e:
        got["realtime"] = f"no: {e.strerror}"
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        # on fault: what was never touched (most of the interpreter) is not pulled in only to be locked
        if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except (ImportError, OSError, AttributeError) as e:
        got["locked"] = f"no: {e}"
    return got


def take_lock(run_dir: str) -> int | None:
    """The descriptor that holds the lock, None when another process has it."""
    lock = os.open(os.path.join(run_dir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id") as f:
        return bytes.fromhex(f.read().strip().replace("-", ""))


def run(beating: Beating, agents: Agents) -> None:
    """For ever: beat on time, answer challenges, listen to agents."""
    while True:
        poll = select.poll()
        for file in agents.files():
            poll.register(file, select.POLLIN)
        networks = {n.socket.fileno(): n for n in beating.networks if n.socket is not None}
        for file in networks:
            poll.register(file, select.POLLIN)
        # rounded up, or the last millisecond before each beat would be spent spinning
        for file, _ in poll.poll(int(beating.seconds_to_next() * 1000) + 1):
            if file == agents.listener.fileno():
                agents.accept()
            elif (network := networks.get(file)) is None:
                agents.read(file)
            elif network.socket is not None:
                beating.answer(network)
        beating.beat_if_due()


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: beat.py RUN_DIR\n")
        return 2
    run_dir = sys.argv[1]
    try:
        lock = take_lock(run_dir)
    except OSError as e:
        sys.stderr.write(f"vmha-beat: {run_dir} cannot be used ({e.strerror}): make the directory, or run as root\n")
        return 2
    if lock is None:
        sys.stderr.write(f"vmha-beat: another one runs with {run_dir}/{LOCK}: nothing to do\n")
        return ALREADY
    beating = Beating(boot_id())
    agents = Agents(run_dir, beating, raise_privileges())
    run(beating, agents)
    return 0


if __name__ == "__main__":
    sys.exit(main())
