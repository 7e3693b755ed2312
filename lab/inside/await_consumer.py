"""Return once a RabbitMQ queue has a consumer: await_consumer.py HOST PASSWORD QUEUE SECONDS. Runs in OpenStack's venv.

Sent before that, a message is lost and its sender waits for its whole RPC time-out: nova-compute started a second
before nova-conductor listens is 60 s late.
"""

from __future__ import annotations

import sys
import time

import amqp  # type: ignore[import-not-found]


def has_consumer(host: str, password: str, queue: str) -> bool:
    try:
        with amqp.Connection(f"{host}:5672", "lab", password) as connection, connection.channel() as channel:
            return bool(channel.queue_declare(queue, passive=True).consumer_count)
    except (OSError, amqp.AMQPError):  # not there yet: neither the broker nor the queue
        return False


def main() -> int:
    host, password, queue, seconds = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    while not has_consumer(host, password, queue):
        if time.monotonic() > end:
            print(f"waited {seconds} s for a consumer of RabbitMQ's queue {queue}, in vain", file=sys.stderr)
            return 1
        time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
