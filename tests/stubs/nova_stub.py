"""``NovaStub``: a Nova with Keystone in a process of its own, for tests and benchmarks.

State lives in that process, so a controller can be killed and started again around it.

    with NovaStub() as nova:
        nova.add_host("compute1")
        uuid = nova.add_instance("compute1")
        client = Nova(nova.auth, ...)
        nova.fail("status", path="/servers", status=503, seconds=2)
        nova.requests()          # every request with its CLOCK_BOOTTIME time
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


class NovaStub:
    """Handle of one stub process.  Methods not defined here are those of ``nova_cloud.Cloud`` (add_host, add_instance,
    add_instances, set_instance, delete_instance, host_dies, host_returns, next_evacuation, configure, dump)."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stubs.nova_server", str(self._port)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert self._process.stdout is not None
        self._port = json.loads(self._process.stdout.readline())["port"]
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Keystone's address (auth_url)."""
        return f"http://127.0.0.1:{self._port}/v3"

    @property
    def auth(self) -> dict[str, str]:
        return {
            "auth_url": self.url,
            "username": "admin",
            "password": "secret",
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    def fail(self, kind: str, path: str = "", **more: Any) -> None:
        """A fault (see ``nova_server.Faults``); ``path`` is a regular expression, ends with ``count`` or ``seconds``."""
        self._do("fail", kind=kind, path=path, **more)

    def set(self, **fields: Any) -> None:
        """endpoint (in the catalog), highest, lowest (microversions), token_life (seconds)."""
        self._do("set", **fields)

    def requests(self, path: str = "", method: str = "") -> list[dict[str, Any]]:
        """All requests so far in order of arrival: at, method, path, body, version, status, fault."""
        log = self._do("requests")
        return [one for one in log if re.search(path, one["path"]) and method in ("", one["method"])]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **fields: self._do(name, **_named(name, args), **fields)

    def _do(self, order: str, /, **fields: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("POST", "/_stub", json.dumps({"do": order, **fields}))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return json.loads(text) if text else None


_FIRST = {
    "add_host": ("name",),
    "add_instance": ("host", "name"),
    "add_instances": ("host", "count"),
    "set_instance": ("uuid",),
    "delete_instance": ("uuid",),
    "host_dies": ("name",),
    "host_returns": ("name",),
    "next_evacuation": ("outcome", "uuid"),
}


def _named(name: str, args: tuple[Any, ...]) -> dict[str, Any]:
    names = _FIRST.get(name, ())
    if len(args) > len(names):
        raise TypeError(f"{name} takes {', '.join(names) or 'no arguments'} by position")
    return dict(zip(names, args, strict=False))
