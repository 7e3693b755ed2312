"""Many datagrams with one system call: recvmmsg(2), which Python's socket module does not have.

Layout of ``struct mmsghdr`` on 64-bit Linux (bits/socket.h): msghdr of 56 bytes (name, length of name, iovec, count of iovecs, control,
length of control, flags), then the length of the datagram; 64 in all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys

MSG_DONTWAIT = 0x40
MSG_WAITFORONE = 0x10000
NONE_THERE = (errno.EAGAIN, errno.EINTR)
NAME_SIZE = 28  # sockaddr_in6
_HEADER = 64
_LENGTH_AT = 14  # the datagram's length, in words of four bytes
_POINTERS = struct.Struct("@QIIQQQQiI")  # one mmsghdr's msghdr
_IOVEC = struct.Struct("@QQ")


class Batch:
    """Receives up to ``most`` datagrams of up to ``size`` bytes at once, into memory that is used again and again.

    For one thread.  A longer datagram is cut to ``size``.
    """

    def __init__(self, sock: socket.socket, most: int, size: int) -> None:
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, "recvmmsg is used on 64-bit Linux only")
        self._fd, self._most, self._size = sock.fileno(), most, size
        self._family = sock.family
        self._data = bytearray(most * size)
        self._names = bytearray(most * NAME_SIZE)
        self._iovecs = bytearray(most * _IOVEC.size)
        self._headers = bytearray(most * _HEADER)
        data, names, iovecs = _address(self._data), _address(self._names), _address(self._iovecs)
        for n in range(most):
            _IOVEC.pack_into(self._iovecs, n * _IOVEC.size, data + n * size, size)
            pointers = (names + n * NAME_SIZE, NAME_SIZE, 0, iovecs + n * _IOVEC.size, 1, 0, 0, 0, 0)
            _POINTERS.pack_into(self._headers, n * _HEADER, *pointers)
        self._where = _address(self._headers)
        self._words = memoryview(self._headers).cast("I")
        self._view = memoryview(self._data)
        self._call = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)

    def receive(self, wait: bool) -> list[bytes]:
        """What is there; with ``wait`` the first is waited for, for as long as the socket's time-out.  Empty when there is none."""
        got = self._call(self._fd, self._where, self._most, MSG_WAITFORONE if wait else MSG_DONTWAIT, None)
        if got < 0:
            number = ctypes.get_errno()
            if number in NONE_THERE:
                return []
            raise OSError(number, os.strerror(number))
        size, view, words = self._size, self._view, self._words
        return [bytes(view[n * size : n * size + words[n * 16 + _LENGTH_AT]]) for n in range(got)]

    def source(self, n: int) -> tuple[str, int]:
        """Where datagram ``n`` of the last batch came from."""
        name = bytes(self._names[n * NAME_SIZE : (n + 1) * NAME_SIZE])
        port = int.from_bytes(name[2:4], "big")
        raw = name[4:8] if self._family == socket.AF_INET else name[8:24]
        return socket.inet_ntop(self._family, raw), port


def _address(memory: bytearray) -> int:
    """Where it is; it is never resized while a Batch holds it."""
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))
