"""The Nova stub's HTTP side: Keystone, Nova's API in front of ``nova_cloud``, faults, and the test's admin path.

Run as a process: ``python -m tests.stubs.nova_server`` prints one JSON line {"port": ...} and serves until it is killed.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import sys
import threading
import time
import uuid as uuids
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.stubs.nova_cloud import STATUS, Cloud, Host, Record, Refused, Server, now, stamp

USER_ID = "u" * 31 + "1"
ROOT = "/compute/v2.1"


class Faults:
    """What goes wrong, and when.

    kind: status (answers ``status``, nothing happens), drop_before and drop_after (the connection is reset before or after the
    request takes effect), hang (no effect, no answer), hang_after (effect, no answer), slow (effect after ``delay`` seconds).
    """

    def __init__(self) -> None:
        self._rules: list[dict[str, Any]] = []
        self.cleared = threading.Event()

    def add(
        self, kind: str, path: str = "", method: str = "", count: int = 0, seconds: float = 0.0, **more: Any
    ) -> None:
        until = now() + seconds if seconds else float("inf")
        self._rules.append(
            {"kind": kind, "path": path, "method": method, "left": count or 10**9, "until": until, **more}
        )

    def clear(self) -> None:
        """No more faults; requests that hang end without an answer."""
        self._rules.clear()
        self.cleared.set()
        self.cleared = threading.Event()

    def match(self, method: str, path: str) -> dict[str, Any] | None:
        for rule in self._rules:
            if (
                now() < rule["until"]
                and rule["left"] > 0
                and rule["method"] in ("", method)
                and re.search(rule["path"], path)
            ):
                rule["left"] -= 1
                return rule
        return None


class World:
    """What all requests share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.cloud = Cloud()
        self.faults = Faults()
        self.log: list[dict[str, Any]] = []
        self.tokens: dict[str, float] = {}
        self.token_life = 3600.0
        self.endpoint = ""
        self.highest, self.lowest = "2.100", "2.1"


class Dropped(Exception):
    """The connection is to be reset."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    world: World

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/_stub":
            self._admin(json.loads(body))
            return
        entry = self._note(body)
        try:
            status, answer, headers = self._with_fault(entry)
        except Refused as refused:
            status, headers = refused.status, {}
            answer = {refused.kind: {"code": refused.status, "message": str(refused)}}
        except Dropped:
            entry["status"] = 0
            self._reset()
            return
        entry["status"] = status
        self._reply(status, answer, headers)

    def _note(self, body: bytes) -> dict[str, Any]:
        entry = {
            "at": now(),
            "method": self.command,
            "path": self.path,
            "body": json.loads(body) if body else None,
            "version": self.headers.get("OpenStack-API-Version", ""),
            "status": None,
            "fault": "",
        }
        with self.world.lock:
            self.world.log.append(entry)
        return entry

    def _with_fault(self, entry: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        with self.world.lock:
            fault = self.world.faults.match(self.command, self.path)
            cleared = self.world.faults.cleared
        kind = entry["fault"] = fault["kind"] if fault else ""
        if fault is None:
            return self._act(entry)
        match kind:
            case "status":
                raise Refused(fault.get("status", 503), fault.get("message", "The server is currently unavailable."))
            case "drop_before":
                raise Dropped
            case "hang":
                cleared.wait()
                raise Dropped
            case "slow":
                time.sleep(fault.get("delay", 1.0))
        answer = self._act(entry)
        if kind in ("drop_after", "hang_after"):
            if kind == "hang_after":
                cleared.wait()
            raise Dropped
        return answer

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def _reply(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        text = b"" if answer is None else json.dumps(answer).encode()
        try:
            self.send_response(status)
            for name, value in {"x-openstack-request-id": f"req-{uuids.uuid4()}", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    # --- admin ---

    def _admin(self, order: dict[str, Any]) -> None:
        world, name = self.world, order.pop("do")
        with world.lock:
            world.cloud.settle()
            match name:
                case "fail":
                    result: Any = world.faults.add(**order)
                case "clear_faults":
                    result = world.faults.clear()
                case "requests":
                    result = [dict(entry) for entry in world.log]
                case "set":
                    result = [setattr(world, key, value) for key, value in order.items()] and None
                case "revoke_tokens":
                    result = world.tokens.clear()
                case _:
                    result = getattr(world.cloud, name)(**order)
        self._reply(200, result, {})

    # --- Keystone and Nova ---

    def _act(self, entry: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(self.path)
        if url.path == "/v3/auth/tokens" and self.command == "POST":
            return self._token(entry["body"])
        if self.command == "GET" and url.path.rstrip("/") in ("/compute", ROOT):
            return 200, self._versions(url.path.rstrip("/") == ROOT), {}
        if self.world.tokens.get(self.headers.get("X-Auth-Token", ""), 0.0) < now():
            raise Refused(401, "The request you have made requires authentication.", "unauthorized")
        if not url.path.startswith(ROOT):
            raise Refused(404, "The resource could not be found.")
        return self._nova(url.path[len(ROOT) :], parse_qs(url.query), entry["body"] or {})

    def _token(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        user = body["auth"]["identity"].get("password", {}).get("user", {})
        if (user.get("name"), user.get("password")) not in (("admin", "secret"), ("svc", "lab")):
            raise Refused(401, "The request you have made requires authentication.", "error")
        token, world = uuids.uuid4().hex, self.world
        world.tokens[token] = now() + world.token_life
        ends = datetime.now(UTC) + timedelta(seconds=world.token_life)
        url = world.endpoint or f"http://{self.headers['Host']}{ROOT}"
        ends_at = [
            {"id": n, "interface": n, "region": "RegionOne", "region_id": "RegionOne", "url": url}
            for n in ("public", "internal")
        ]
        answer = {
            "methods": ["password"],
            "user": {"id": USER_ID, "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p-admin", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r1", "name": "admin"}],
            "issued_at": stamp() + "Z",
            "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "catalog": [{"id": "c1", "type": "compute", "name": "nova", "endpoints": ends_at}],
        }
        return 201, {"token": answer}, {"X-Subject-Token": token}

    def _versions(self, one: bool) -> Any:
        version = {
            "id": "v2.1",
            "status": "CURRENT",
            "version": self.world.highest,
            "min_version": self.world.lowest,
            "links": [{"rel": "self", "href": f"http://{self.headers['Host']}{ROOT}/"}],
        }
        return {"version": version} if one else {"versions": [version]}

    def _microversion(self) -> tuple[int, int]:
        text = self.headers.get("OpenStack-API-Version", "compute 2.1").split()[-1]
        major, minor = (int(part) for part in text.split("."))
        if (major, minor) > tuple(int(part) for part in self.world.highest.split(".")):
            raise Refused(406, f"Version {text} is not supported by the API.", "computeFault")
        return major, minor

    def _nova(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        version, wait = self._microversion(), 0.0
        with self.world.lock:
            cloud = self.world.cloud
            cloud.settle()
            match self.command, path.strip("/").split("/"):
                case "GET", ["os-services"]:
                    answer: Any = {
                        "services": [
                            self._service(host) for host in cloud.hosts.values() if _wanted(query, "host", host.name)
                        ]
                    }
                case "PUT", ["os-services", service]:
                    wait = cloud.update_service(service, body)
                    answer = {"service": next(self._service(h) for h in cloud.hosts.values() if h.service == service)}
                case "GET", ["servers", "detail"]:
                    servers = [
                        s for s in cloud.servers.values() if _wanted(query, "host", s.host) and not cloud.cell_down
                    ]
                    servers.sort(key=lambda one: -one.created)
                    answer = self._page("servers", [_server(one) for one in servers], "id", query)
                case "GET", ["servers", uuid]:
                    server = cloud.server(uuid)
                    answer = {"server": {"id": uuid, "status": "UNKNOWN"} if cloud.cell_down else _server(server)}
                case "POST", ["servers", uuid, "action"]:
                    return self._action(uuid, version, body)
                case "GET", ["os-migrations"]:
                    records = [r for r in reversed(cloud.records) if _of_host(query, r) and not cloud.cell_down]
                    answer = self._page("migrations", [_record(one) for one in records], "uuid", query)
                case _:
                    raise Refused(404, "The resource could not be found.")
        time.sleep(wait)
        return 200, answer, {}

    def _action(self, uuid: str, version: tuple[int, int], body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        cloud = self.world.cloud
        if "evacuate" in body:
            cloud.evacuate(uuid, USER_ID, version, body["evacuate"])
            return 200, None, {}
        if "os-start" in body:
            cloud.start(uuid)
            return 202, None, {}
        if "os-resetState" in body:
            cloud.reset_state(uuid, body["os-resetState"]["state"])
            return 202, None, {}
        raise Refused(400, f"There is no such action: {next(iter(body), '')}")

    def _service(self, host: Host) -> dict[str, Any]:
        if self.world.cloud.cell_down:
            return {"binary": "nova-compute", "host": host.name, "status": "UNKNOWN"}
        return {
            "id": host.service,
            "binary": "nova-compute",
            "host": host.name,
            "zone": "nova",
            "status": "disabled" if host.disabled else "enabled",
            "state": "up" if host.up() else "down",
            "updated_at": stamp() if host.alive else host.updated,
            "disabled_reason": host.disabled_reason,
            "forced_down": host.forced_down,
        }

    def _page(self, name: str, items: list[dict[str, Any]], marker: str, query: dict[str, list[str]]) -> dict[str, Any]:
        start = 0
        if "marker" in query:
            ids = [item[marker] for item in items]
            if query["marker"][0] not in ids and name == "migrations":
                raise Refused(400, f"Marker {query['marker'][0]} could not be found.")
            start = ids.index(query["marker"][0]) + 1 if query["marker"][0] in ids else len(ids)
        size = min(int(query.get("limit", ["1000"])[0]), self.world.cloud.max_limit)
        page = items[start : start + size]
        answer: dict[str, Any] = {name: page}
        if len(page) == size:  # as Nova: a full page has a next link, even when nothing follows
            following = urlencode({**{key: value[0] for key, value in query.items()}, "marker": page[-1][marker]})
            answer[f"{name}_links"] = [
                {"rel": "next", "href": f"http://{self.headers['Host']}{ROOT}/{name}?{following}"}
            ]
        return answer


def _wanted(query: dict[str, list[str]], name: str, value: str) -> bool:
    return name not in query or query[name][0] == value


def _of_host(query: dict[str, list[str]], record: Record) -> bool:
    return "host" not in query or query["host"][0] in (record.source, record.target)


def _server(one: Server) -> dict[str, Any]:
    rebuilding = (one.task_state or "").startswith("rebuild")
    status = "REBUILD" if rebuilding else STATUS.get(one.vm_state, one.vm_state.upper())
    return {
        "id": one.uuid,
        "name": one.name,
        "status": status,
        "tenant_id": one.project,
        "user_id": USER_ID,
        "metadata": one.metadata,
        "image": {"id": one.image} if one.image else "",
        "flavor": {"vcpus": one.vcpus, "ram": one.memory, "disk": 1, "original_name": "m1", "extra_specs": {}},
        "locked": one.locked,
        "OS-EXT-SRV-ATTR:host": one.host,
        "OS-EXT-SRV-ATTR:hypervisor_hostname": one.host,
        "OS-EXT-SRV-ATTR:instance_name": f"instance-{one.created:08x}",
        "OS-EXT-STS:vm_state": one.vm_state,
        "OS-EXT-STS:task_state": one.task_state,
        "OS-EXT-STS:power_state": one.power_state,
    }


def _record(one: Record) -> dict[str, Any]:
    return {
        "id": one.id,
        "uuid": one.uuid,
        "instance_uuid": one.instance,
        "migration_type": "evacuation",
        "status": one.status,
        "source_compute": one.source,
        "source_node": one.source,
        "dest_compute": one.target,
        "dest_node": one.target,
        "dest_host": None,
        "user_id": one.user,
        "project_id": "p-admin",
        "created_at": one.created,
        "updated_at": None,
    }


class StubServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError)):
            super().handle_error(request, client_address)


def main() -> None:
    handler = type("StubHandler", (Handler,), {"world": World()})
    port, address = [*sys.argv[1:], "0", "127.0.0.1"][:2] if len(sys.argv) != 2 else (sys.argv[1], "127.0.0.1")
    server = StubServer((address, int(port)), handler)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
