"""The fencing devices' file: which agent reaches the power of which host, and with which options.

    {"compute1": {"agent": "fence_ipmilan", "options": {"ip": "10.0.0.1", "username": "u", "password": "p", "lanplus": true}}}

It holds secrets: it must not be readable by others, and no option's value gets into a log, a repr or a reading's detail.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmha.errors import BadConfig

SEARCH = "/usr/sbin:/usr/local/sbin:/usr/bin"
OURS = frozenset({"action", "option"})
_AGENT = re.compile(r"fence_[A-Za-z0-9_]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SECRET = re.compile(r"pass|secret|token|key|kg|community|cred|auth_data", re.IGNORECASE)
_UNKNOWN_OPTION = re.compile(r"(unknown option '[^=']*=)[^\n;]*")


@dataclass(frozen=True, slots=True)
class Device:
    """One host's power device.  The options stay out of the repr."""

    agent: str
    path: str
    interpreter: str  # the Python that runs it
    warm: bool  # it is a script of that Python and can run in a process with its library imported
    options: Mapping[str, str] = field(repr=False)

    @property
    def address(self) -> str:
        """Where the device is, for people."""
        given = [self.options[name] for name in ("ip", "ipaddr", "plug", "port") if self.options.get(name)]
        port = self.options.get("ipport", "")
        return " ".join([given[0] + (f":{port}" if port else ""), *given[1:]]) if given else ""

    def input(self, action: str) -> str:
        """What the agent reads.  The action comes first: cut short it must never be without."""
        return "".join(f"{name}={_quoted(value)}\n" for name, value in {"action": action, **self.options}.items())

    def without_secrets(self, text: str) -> str:
        """The text with the values of secret options replaced, and those of options the agent did not know."""
        text = _UNKNOWN_OPTION.sub(r"\1***", text)
        for name, value in self.options.items():
            if value and _SECRET.search(name) and not name.endswith("_script"):
                text = text.replace(value, "***")
        return text


def load(path: str, search: str = SEARCH) -> dict[str, Device]:
    """The devices of a file, by host.  BadConfig names host and field; or the file, when others can read it."""
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
        if mode & 0o007:
            raise BadConfig(f"{path} holds passwords and others can use it (mode {mode:o}): chmod o= {path}")
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"the fencing devices' file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadConfig(f"the fencing devices' file {path} is not JSON: {_place(error)}") from None
    return devices(raw, search)


def _place(error: ValueError) -> str:
    """Where the JSON is wrong, without the text itself (it may be a password)."""
    return f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "not UTF-8"


def devices(raw: Any, search: str = SEARCH) -> dict[str, Device]:
    """The devices of an already decoded mapping; BadConfig."""
    if not isinstance(raw, dict):
        raise BadConfig(
            'the fencing devices must be an object of hosts: {"compute1": {"agent": ..., "options": {...}}}'
        )
    return {host: device(host, entry, search) for host, entry in raw.items()}


def device(host: str, raw: Any, search: str = SEARCH) -> Device:
    """One device; BadConfig names host and field."""
    where = f"fencing device of {host}"
    if not isinstance(raw, dict):
        raise BadConfig(f'{where}: must be an object {{"agent": ..., "options": {{...}}}}')
    strange = sorted(set(raw) - {"agent", "options"})
    if strange:
        raise BadConfig(f"{where}: unknown field {strange[0]!r}: there are agent and options")
    agent = raw.get("agent")
    if not isinstance(agent, str) or not _AGENT.fullmatch(agent):
        raise BadConfig(f"{where}: agent must be the name of a fence agent, as fence_ipmilan")
    path = shutil.which(agent, path=search)
    if path is None:
        raise BadConfig(f"{where}: agent {agent} is not installed (looked in {search}): install it or correct its name")
    given = raw.get("options", {})
    if not isinstance(given, dict):
        raise BadConfig(f"{where}: options must be an object")
    options = {_name(where, name): _value(where, name, value) for name, value in given.items()}
    interpreter = _python_of(path)
    return Device(agent, path, interpreter or sys.executable, interpreter is not None, {"power_wait": "0", **options})


def _name(where: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadConfig(f"{where}: option {name!r} is not a name")
    if name in OURS:
        raise BadConfig(f"{where}: option {name} is set by vmha: remove it")
    return name


def _value(where: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, (str, int)):
        raise BadConfig(f"{where}: option {name} must be a text, a number or true or false")
    if re.search(r"[\r\n\0]", str(value)):
        raise BadConfig(f"{where}: option {name} has a line end in it")
    return str(value)


def _quoted(value: str) -> str:
    """Agents strip a line and take one pair of quotes off: keeps blanks at the ends, and quotes that are meant."""
    return f'"{value}"' if value != value.strip() or re.fullmatch('".*"', value) else value


def _python_of(path: str) -> str | None:
    """The interpreter of a Python script; None for anything else."""
    with Path(path).open("rb") as script:
        words = script.readline(200).decode("utf-8", "replace").split()
    if not words or not words[0].startswith("#!"):
        return None
    interpreter = words[0].removeprefix("#!") or (words[1] if len(words) > 1 else "")
    if interpreter.endswith("/env") and len(words) > 1:
        interpreter = shutil.which(words[-1]) or ""
    return interpreter if "python" in Path(interpreter).name and Path(interpreter).exists() else None
