"""Errors that say what the caller can do, not what went wrong inside.

Adapters translate at the border: nothing of a third-party client's error classes passes it.  A time-out inside
the core is an outcome (unknown), never an exception.
"""


class VmhaError(Exception):
    """Base of all; its text is one sentence that says what happened, to what, and what to do."""


class BadConfig(VmhaError):
    """A setting is wrong or unsafe: correct the configuration and start again."""


class BadRecord(VmhaError):
    """Bytes from outside (etcd value, beat, notification, XML) are not of the documented form: leave them alone, tell a person."""


class StoreUnavailable(VmhaError):
    """No answer from the store: nothing is known, a write may or may not have happened; ask again later."""


class StoreRefused(StoreUnavailable):
    """The store answered and refused (too large, not permitted, out of space, lease gone): nothing was written; asking the
    same again does not help, the text says what to change."""


class StoreConflict(VmhaError):
    """A compare of the transaction failed and nothing was written: read again, then decide again."""


class LeadershipLost(VmhaError):
    """The store refused a write because another epoch leads: stop acting, become a follower."""


class FenceRefused(VmhaError):
    """The fencing device answered and refused (wrong password, unknown plug): a person must look; the host's power is unknown."""


class FenceUnknown(VmhaError):
    """The fencing device did not answer in time: the host's power is unknown; ask again."""


class ComputeError(VmhaError):
    """Nova answered and refused: nothing happened there.  ``status`` is the HTTP status (0 where the request never left)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ComputeUnknown(VmhaError):
    """Nova may or may not have taken the request (time-out, broken connection, 5xx): wait out the call's limit, then read."""


class HypervisorUnavailable(VmhaError):
    """libvirt did not answer: which domains run is unknown; ask again."""
