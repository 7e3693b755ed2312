"""The one exception that callers of the lab meet."""


class LabError(Exception):
    """What happened, to what, and what to do, in one sentence that can be shown to a person."""
