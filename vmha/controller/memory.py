"""Memory that was needed for a moment only (a listing, a checkpoint) is given back to the kernel.

glibc keeps what was freed in the middle of its heaps; malloc_trim(3) returns its whole pages.  Other C libraries lack it: nothing is done.
"""

from __future__ import annotations

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return what the heap does not need.  A few milliseconds, in which other Python threads go on."""
    if _trim is not None:
        _trim(ctypes.c_size_t(0))
