"""Process starts and ends as the kernel tells them: netlink's process connector (CONFIG_PROC_EVENTS, root only).

Formats: include/uapi/linux/netlink.h, connector.h and cn_proc.h. From Linux 6.6 on the kernel can be asked for some
kinds of events only; before, all are read and most thrown away.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lab.errors import LabError

_NETLINK_CONNECTOR, _CN_IDX_PROC, _LISTEN = 11, 1, 1
EXEC, EXIT = 0x00000002, 0x80000000
_HEADERS = struct.Struct("=IHHII" + "IIIIHH")  # nlmsghdr, cn_msg
_EVENT = struct.Struct("=IIQII")  # what, cpu, timestamp_ns, process_pid, process_tgid


@dataclass(frozen=True, slots=True)
class ProcEvent:
    """``what`` is EXEC or EXIT; ``at`` is CLOCK_MONOTONIC seconds, stamped by the kernel."""

    what: int
    at: float
    thread: int
    pid: int


class ProcEvents:
    """A subscription. LabError when the kernel does not offer it (not root, or not in the first namespaces)."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self._socket.bind((0, _CN_IDX_PROC))
            self._subscribe()
        except OSError as error:
            raise LabError(f"the kernel's process connector is not available here: {error}") from None
        self._socket.setblocking(False)

    def _subscribe(self) -> None:
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        body = struct.pack("=II", _LISTEN, EXEC | EXIT) if release >= (6, 6) else struct.pack("=I", _LISTEN)
        length = _HEADERS.size + len(body)
        head = _HEADERS.pack(length, 3, 0, 0, os.getpid(), _CN_IDX_PROC, 1, 0, 0, len(body), 0)
        self._socket.send(head + body)

    def fileno(self) -> int:
        return self._socket.fileno()

    def pending(self) -> Iterator[ProcEvent]:
        """What has arrived. OSError ENOBUFS when the kernel had to drop events: look at /proc instead."""
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return
            if len(message) < _HEADERS.size + _EVENT.size:
                continue
            what, _, nanoseconds, thread, pid = _EVENT.unpack_from(message, _HEADERS.size)
            if what in (EXEC, EXIT):
                yield ProcEvent(what, nanoseconds / 1e9, thread, pid)
