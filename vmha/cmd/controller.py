"""The ``vmha-controller`` command."""

from __future__ import annotations

import sys

from oslo_config import cfg
from oslo_log import log

from vmha.conf import opts
from vmha.controller import main as controller
from vmha.errors import VmhaError


def main() -> int:
    """Run a controller until a signal ends it.  Status 2 when the configuration is refused, with the sentence that says why."""
    conf = cfg.ConfigOpts()
    opts.register(conf)
    log.register_options(conf)
    conf(sys.argv[1:], project="vmha", prog="vmha-controller")
    log.setup(conf, "vmha")
    try:
        configuration = controller.configuration(conf)
    except VmhaError as e:
        print(f"vmha-controller: {e}", file=sys.stderr)
        return 2
    return controller.run(configuration)


if __name__ == "__main__":
    sys.exit(main())
