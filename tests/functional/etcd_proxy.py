"""A TCP proxy before a real etcd member that cuts what the member sends into pieces, and that can be cut off or frozen."""

from __future__ import annotations

import selectors
import socket
import threading
from urllib.parse import urlsplit


class Rechunk:
    """Forwards one TCP port to ``url``; what comes back is sent on ``piece`` bytes at a time, each in a segment of its own."""

    def __init__(self, url: str, piece: int = 1) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._piece = piece
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._stop = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready, client, server:
            ready.register(client, selectors.EVENT_READ, (server, 1 << 16))
            ready.register(server, selectors.EVENT_READ, (client, self._piece))
            try:
                while not self._stop.is_set():
                    for key, _ in ready.select(0.2):
                        to, piece = key.data
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                        if not data:
                            return
                        for i in range(0, len(data), piece):
                            self._flowing.wait(60)
                            to.sendall(data[i : i + piece])
            except OSError:
                return

    def freeze(self) -> None:
        """Nothing is passed on any more; connections stay."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Ends every connection, in the middle of whatever it carries."""
        connections, self._open = self._open, []
        for s in connections:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._stop.set()
        self._flowing.set()
        self._listener.close()
        self.cut()
