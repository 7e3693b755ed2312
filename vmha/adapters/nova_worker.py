"""One worker process for Nova calls that cannot be taken back (safety.md section 4, rule 1).

Standard library only, run as a script by ``nova_calls``; one JSON line a job on stdin, JSON lines of facts on stdout.

The rule: the request's last byte is written before the job's ``deadline`` (CLOCK_BOOTTIME) or never.  A kernel timer
with an *absolute* time is armed before anything else is done, its signal SIGALRM has the default action, so a worker
that was stopped and goes on too late is ended by the kernel before its next instruction.  (An interval timer would
not do: a stop between reading the clock and arming would move it.)  The timer is moved to the end of the answer's
time only once the last byte is handed to the kernel.

What the kernel holds must not leave late either: SO_LINGER 0 drops unsent bytes when this process ends, and
TCP_USER_TIMEOUT gives the connection up when the other side does not acknowledge them.

Facts: ready; sending (said before the first byte of the request); sent; then one of answer, unreachable (nothing of the
request left), broken (it may have left).  A worker that ends without one of these three is judged by what it said.
One connection a call: a kept one can be closed by the other side just as the request leaves, which would read as unknown.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import ssl
import struct
import sys
import time
from typing import Any
from urllib.parse import urlsplit

CLOCK_BOOTTIME = 7
TIMER_ABSTIME = 1
PR_SET_PDEATHSIG = 1
TCP_USER_TIMEOUT = 18
BODY_LIMIT = 1 << 20
TEXT_LIMIT = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def now() -> float:
    """Seconds of CLOCK_BOOTTIME, the clock of the deadlines."""
    return time.clock_gettime(CLOCK_BOOTTIME)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class EndTimer:
    """A POSIX timer on CLOCK_BOOTTIME that ends this process (SIGALRM, default action) at an absolute time."""

    def __init__(self) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        self._id = ctypes.c_void_p()
        # no sigevent: the signal is SIGALRM (timer_create(2))
        _checked(_libc.timer_create(CLOCK_BOOTTIME, None, ctypes.byref(self._id)), "timer_create")

    def arm(self, at: float) -> None:
        """End the process at clock time ``at``; a time in the past ends it now.  Replaces an earlier time."""
        whole = max(0, int(at))
        self._set(whole, max(1, int((at - whole) * 1e9)))

    def disarm(self) -> None:
        self._set(0, 0)

    def _set(self, seconds: int, nanoseconds: int) -> None:
        spec = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        _checked(_libc.timer_settime(self._id, TIMER_ABSTIME, spec, None), "timer_settime")


def die_with(parent: int) -> None:
    """SIGKILL when the thread that started this process ends; leaves at once when it already has."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(0)


def say(event: str, **facts: Any) -> None:
    """Tell the parent a fact; it is in the pipe, and outlives this process, before the next thing is done."""
    os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


def tls(options: dict[str, Any]) -> ssl.SSLContext:
    """The TLS context of all calls; made once, reading the authorities takes some milliseconds."""
    context = ssl.create_default_context(cafile=options.get("ca") or None)
    if options.get("insecure"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.get("cert"):
        context.load_cert_chain(options["cert"], options.get("key") or None)
    return context


def connect(url: str, timeout: float, acknowledge: float, context: ssl.SSLContext) -> socket.socket:
    """A connection on which nothing of the request was sent yet."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    sock = socket.create_connection((parts.hostname or "", parts.port or (443 if secure else 80)), timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, max(1, int(acknowledge * 1000)))
        set_linger(sock, drop=True)
        return context.wrap_socket(sock, server_hostname=parts.hostname) if secure else sock
    except BaseException:
        sock.close()
        raise


def set_linger(sock: socket.socket, *, drop: bool) -> None:
    """``drop``: closing, or the end of this process, drops what was not sent and resets the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(drop), 0))


def request_bytes(job: dict[str, Any]) -> bytes:
    """The whole HTTP request, so that it is written by one call."""
    parts = urlsplit(job["url"])
    body = json.dumps(job["body"]).encode()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {
        "Host": parts.netloc.rpartition("@")[2],
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **job["headers"],
    }
    lines = [f"{job['method']} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line end within a request header")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_answer(sock: socket.socket, method: str) -> dict[str, Any]:
    """Status, request id and (bounded) text of the answer."""
    with http.client.HTTPResponse(sock, method=method) as response:
        response.begin()
        request_id = response.getheader("x-openstack-request-id") or response.getheader("x-compute-request-id") or ""
        text = response.read(BODY_LIMIT).decode("utf-8", "replace")[:TEXT_LIMIT]
        return {"status": response.status, "request_id": request_id, "text": text}


def carry_out(job: dict[str, Any], timer: EndTimer, context: ssl.SSLContext) -> None:
    """One job: exactly one request, or none.  ``answer_limit`` is the client time-out after the last byte."""
    timer.arm(job["deadline"])
    try:
        request = request_bytes(job)
        left = max(0.001, job["deadline"] - now())
        sock = connect(job["url"], left, job["answer_limit"] / 2, context)
    except (OSError, ValueError) as error:
        timer.disarm()
        say("unreachable", text=str(error) or type(error).__name__)
        return
    try:
        ask(sock, request, job, timer)
    except (OSError, http.client.HTTPException) as error:
        say("broken", text=str(error) or type(error).__name__)
    finally:
        timer.disarm()
        sock.close()


def ask(sock: socket.socket, request: bytes, job: dict[str, Any], timer: EndTimer) -> None:
    """Send under the timer, then read under a new one."""
    say("sending")
    sock.sendall(request)
    ends = now() + job["answer_limit"]
    timer.arm(ends + 0.2)  # guards against an answer that drips; the socket's time-out normally comes first
    say("sent", at=now())
    sock.settimeout(max(0.001, ends - now()))
    answer = read_answer(sock, job["method"])
    set_linger(sock, drop=False)
    say("answer", **answer)


def main() -> int:
    """Serve jobs until stdin ends."""
    die_with(int(sys.argv[1]))
    timer = EndTimer()
    context = tls(json.loads(sys.stdin.buffer.readline()))
    say("ready")
    while line := sys.stdin.buffer.readline():
        carry_out(json.loads(line), timer, context)
    return 0


if __name__ == "__main__":
    sys.exit(main())
