"""The command vmha-agent."""

from __future__ import annotations

import sys

from oslo_config import cfg
from oslo_log import log as logging

from vmha.agent import main as agent_main
from vmha.conf import opts
from vmha.errors import BadConfig


def main(argv: list[str] | None = None) -> int:
    """Run the agent; exit status 2 with one line on stderr when the configuration is wrong."""
    conf = cfg.ConfigOpts()
    logging.register_options(conf)
    opts.register(conf)
    try:
        conf(sys.argv[1:] if argv is None else argv, project="vmha", prog="vmha-agent")
        logging.setup(conf, "vmha")
        agent_main.run(conf)
    except (BadConfig, cfg.Error) as e:
        print(f"vmha-agent: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
