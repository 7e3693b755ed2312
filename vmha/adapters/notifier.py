"""Tells people.  This slice: the log alone; every page is one line of level error that begins with PAGE."""

from __future__ import annotations

import logging

LOG = logging.getLogger("vmha.pages")


class LogNotifier:
    """``Notifier`` into the log: the decision log already holds the line, this one is for log-based alerting."""

    def page(self, subject: str, text: str) -> None:
        LOG.critical("%s: %s", subject, text)
