"""What the cloud needs before it can be used, made over the services' own APIs if it is not there yet.

Plain HTTP from the standard library: importing the SDK costs more than all the calls.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from lab.errors import LabError
from lab.processes import wait_until
from lab.settings import PASSWORD, Settings

PORTS = {"identity": "5000/v3", "image": "9292/v2", "network": "9696/v2.0", "compute": "8774/v2.1", "placement": "8778"}
#: type -> (name, what follows the address in the catalog)
SERVICES = {
    "placement": ("placement", ":8778"),
    "image": ("glance", ":9292"),
    "network": ("neutron", ":9696"),
    "compute": ("nova", ":8774/v2.1"),
}
DEFAULT = {"id": "default"}


@dataclass
class Cloud:
    """The cloud's APIs, asked as admin."""

    address: str
    token: str = ""

    def call(self, service: str, path: str, body: Any = None, method: str = "", **headers: str) -> Any:
        """One request; the decoded answer. LabError with the service's own words when it refuses or is not there."""
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}:{PORTS[service]}/{path}", content)
        request.method = method or ("GET" if body is None else "POST")
        version = {"Content-Type": "application/json", "OpenStack-API-Version": "compute 2.53"}
        for name, value in {**version, "X-Auth-Token": self.token, **headers}.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.token = self.token or answer.headers.get("X-Subject-Token") or ""
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise LabError(f"{service} refused {request.method} {path}: {error.code} {error.read()[:300]!r}") from None
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"{service} does not answer at {request.full_url}: {error}") from None
        return json.loads(text) if text else None

    def log_in(self) -> None:
        user = {"name": "admin", "domain": DEFAULT, "password": PASSWORD}
        scope = {"project": {"name": "admin", "domain": DEFAULT}}
        identity = {"methods": ["password"], "password": {"user": user}}
        self.token = ""
        self.call("identity", "auth/tokens", {"auth": {"identity": identity, "scope": scope}})

    def answers(self, service: str, path: str) -> bool:
        try:
            self.call(service, path)
        except LabError:
            return False
        return True

    def ready(self) -> bool:
        try:
            self.log_in()
        except LabError:
            return False
        return True


def connect(settings: Settings, seconds: float = 120) -> Cloud:
    """A session with Keystone, waiting for it to answer."""
    cloud = Cloud(settings.address("ctl", "management"))
    wait_until(cloud.ready, seconds, f"Keystone to answer (see {settings.log('ctl') / 'keystone.log'})")
    return cloud


def make(settings: Settings) -> None:
    """The services' own user and the catalog."""
    cloud = connect(settings)
    if cloud.call("identity", "users?name=svc")["users"]:
        return
    project = cloud.call("identity", "projects", {"project": {"name": "service", "domain_id": "default"}})["project"][
        "id"
    ]
    user = {"name": "svc", "password": PASSWORD, "domain_id": "default", "default_project_id": project}
    user_id = cloud.call("identity", "users", {"user": user})["user"]["id"]
    for role in cloud.call("identity", "roles")["roles"]:
        if role["name"] in ("admin", "service"):
            cloud.call("identity", f"projects/{project}/users/{user_id}/roles/{role['id']}", method="PUT")
    for kind, (name, rest) in SERVICES.items():
        service = cloud.call("identity", "services", {"service": {"type": kind, "name": name}})["service"]["id"]
        endpoint = {"service_id": service, "region_id": "RegionOne", "url": f"http://{cloud.address}{rest}"}
        for interface in ("public", "internal", "admin"):
            cloud.call("identity", "endpoints", {"endpoint": {**endpoint, "interface": interface}})


def make_resources(settings: Settings) -> None:
    """Image, network and flavors; waits for each service to answer first."""
    cloud = connect(settings)
    for service, path in (("image", "images"), ("network", "networks"), ("compute", "flavors")):
        where = settings.log("ctl")
        wait_until(lambda s=service, p=path: cloud.answers(s, p), 120, f"the {service} service to answer (see {where})")
    _make_image(settings, cloud)
    if not cloud.call("network", "networks?name=net1")["networks"]:
        net = {"name": "net1", "provider:network_type": "flat", "provider:physical_network": "physnet1", "shared": True}
        net_id = cloud.call("network", "networks", {"network": net})["network"]["id"]
        subnet = {"name": "sub1", "network_id": net_id, "ip_version": 4, "cidr": "10.88.0.0/24", "enable_dhcp": False}
        cloud.call("network", "subnets", {"subnet": subnet})
    have = {flavor["name"] for flavor in cloud.call("compute", "flavors")["flavors"]}
    for name, disk in (("tiny", 0), ("tiny1", 1)):
        if name not in have:
            flavor = {"id": name, "name": name, "ram": 96, "vcpus": 1, "disk": disk}
            cloud.call("compute", "flavors", {"flavor": flavor})


def _make_image(settings: Settings, cloud: Cloud) -> None:
    if cloud.call("image", "images?name=lab-guest")["images"]:
        return
    image = {"name": "lab-guest", "disk_format": "qcow2", "container_format": "bare", "visibility": "public"}
    image |= {"hw_rng_model": "virtio", "os_shutdown_timeout": "8"}
    made = cloud.call("image", "images", image)["id"]
    content = (settings.base / "img" / "lab-guest.qcow2").read_bytes()
    cloud.call("image", f"images/{made}/file", content, "PUT", Content_Type="application/octet-stream")
