"""MariaDB of the cloud and its migrations.

Migrating six empty databases takes most of a first start, so the migrated data directory is kept, named after the
pins and the scheme it was made by: ``lab up --fresh`` starts from a copy of it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import services
from lab.errors import LabError
from lab.inside.common import Say, wait_for_port
from lab.processes import Process, run
from lab.settings import HOME, PASSWORD, Settings

SOCKET = "/run/mysqld.sock"
DATABASES = ["keystone", "placement", "glance", "nova", "nova_api", "nova_cell0", "neutron"]


def golden(settings: Settings) -> Path:
    """Where the migrated directory is kept; another name as soon as the pins or this file change."""
    sources = (HOME / "conf" / "openstack-pins.txt").read_bytes() + Path(__file__).read_bytes()
    return settings.base / "cache" / f"db-{hashlib.sha256(sources).hexdigest()[:12]}"


def start(settings: Settings, env: dict[str, str], say: Say) -> None:
    """MariaDB, migrated; returns once it listens."""
    folder = settings.state / "db"
    if not (folder / ".migrated").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if golden(settings).exists():
            say("copying the migrated databases of an earlier start")
            shutil.copytree(golden(settings), folder)
        else:
            _make(settings, folder, env, say)
    say("starting MariaDB")
    _serve(settings, folder, env)


def _serve(settings: Settings, folder: Path, env: dict[str, str]) -> Process:
    address = settings.address("ctl", "management")
    argv = ["/usr/sbin/mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}", f"--socket={SOCKET}"]
    argv += [f"--bind-address={address}", "--skip-name-resolve", "--performance-schema=0", "--skip-log-bin"]
    argv += ["--innodb-buffer-pool-size=192M", "--innodb-log-file-size=32M", "--innodb-flush-log-at-trx-commit=0"]
    argv += ["--pid-file=/run/mysqld.pid", "--max-connections=400", "--character-set-server=utf8mb3"]
    process = services.launch(settings, "ctl", "mariadb", argv, env)
    wait_for_port("MariaDB", address, 3306, 60)
    return process


def _make(settings: Settings, folder: Path, env: dict[str, str], say: Say) -> None:
    """Make and migrate all databases, stop MariaDB cleanly and keep a copy."""
    say("making the databases (first start only)")
    log = settings.log("ctl") / "migrations"
    log.mkdir(parents=True, exist_ok=True)
    install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}"]
    run([*install, "--auth-root-authentication-method=normal", "--skip-test-db"])
    process = _serve(settings, folder, env)
    sql = [f"grant all on *.* to root@'%' identified by '{PASSWORD}'"]
    sql += [f"create database if not exists {name} character set utf8mb3" for name in DATABASES]
    run(["mariadb", "--no-defaults", "-uroot", f"--socket={SOCKET}"], ";\n".join(sql) + ";")
    say("migrating the databases (first start only, about a minute)")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda steps: _steps(steps, env, log), _migrations(settings)))
    process.end(60)
    (folder / ".migrated").touch()
    part = golden(settings).with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    part.rename(golden(settings))


def _steps(steps: list[list[str]], env: dict[str, str], log: Path) -> None:
    for argv in steps:
        path = log / f"{Path(argv[0]).name}-{argv[3]}.log"
        with path.open("wb") as out:
            if subprocess.run(argv, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False).returncode:
                raise LabError(f"the migration '{' '.join(argv)}' failed; see {path}")


def _migrations(settings: Settings) -> tuple[list[list[str]], list[list[str]]]:
    """Two lists of commands that may run beside each other: Nova's take as long as all others."""

    def command(program: str, config: str, *words: str) -> list[str]:
        return [str(settings.venv / "bin" / program), "--config-file", str(settings.etc / config), *words]

    control = settings.address("ctl", "management")
    url, cell0 = f"http://{control}:5000/v3", f"mysql+pymysql://root:{PASSWORD}@{control}/nova_cell0"
    keystone = "keystone/keystone.conf"
    urls = [word for kind in ("admin", "internal", "public") for word in (f"--bootstrap-{kind}-url", url)]
    admin = ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", "RegionOne", *urls]
    others = [
        command("keystone-manage", keystone, "db_sync"),
        command("keystone-manage", keystone, *admin),
        command("placement-manage", "placement/placement.conf", "db", "sync"),
        command("glance-manage", "glance/glance-api.conf", "db_sync"),
        command("neutron-db-manage", "neutron/neutron.conf", "upgrade", "heads"),
    ]

    def nova(*words: str) -> list[str]:
        both = ["--config-file", str(settings.etc / "ctl/nova-database.conf")]
        return [*command("nova-manage", "ctl/nova.conf", *both), *words]

    novas = [
        nova("api_db", "sync"),
        nova("cell_v2", "map_cell0", "--database_connection", cell0),
        nova("cell_v2", "create_cell", "--name", "cell1"),
        nova("db", "sync"),
    ]
    return others, novas
