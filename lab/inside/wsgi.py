"""Serve an OpenStack WSGI application with gunicorn: wsgi.py MODULE:ATTRIBUTE HOST:PORT

The services parse sys.argv when they are imported, so the arguments are hidden from them, and the application is
loaded in the worker, after fork. Runs in OpenStack's venv.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-not-found]

TARGET, BIND = sys.argv[1:3]
sys.argv = sys.argv[:1]


class Service(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        name = TARGET.partition(".")[0] + "-api"
        options = {"bind": BIND, "workers": 1, "threads": 8, "worker_class": "gthread", "proc_name": name}
        for key, value in {**options, "timeout": 300, "graceful_timeout": 3, "keepalive": 5}.items():
            self.cfg.set(key, value)

    def load(self) -> Any:
        module, _, attribute = TARGET.partition(":")
        return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    Service().run()
