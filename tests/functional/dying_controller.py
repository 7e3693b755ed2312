"""A real controller that ends or stops itself at one chosen point: started by test_takeover, never shipped.

VMHA_TEST_DIE=STEP:MOMENT:SIGNAL.  STEP: the kind of an outside call, or "condemn" or "release" (those commits).  MOMENT: "before" the
step is handed on, "committed" (its record is written, the call not sent), "answered" (the call's answer has come, nobody knows).
"""

from __future__ import annotations

import os
import signal
import sys

from vmha.cmd import controller as command
from vmha.controller import dispatch, main
from vmha.core import actions as act
from vmha.core import events as ev
from vmha.errors import VmhaError

STEP, MOMENT, SIGNAL = os.environ["VMHA_TEST_DIE"].split(":")


class DyingDispatcher(dispatch.Dispatcher):
    """Dies the first time that it comes to its point."""

    fated = True

    def _fate(self, moment: str) -> None:
        if self.fated and moment == MOMENT:
            self.fated = False
            os.kill(os.getpid(), signal.Signals[SIGNAL])

    def do(self, action: act.Action, epoch: int) -> None:
        name = ""
        if isinstance(action, act.Commit):
            name = action.token.partition("/")[0]
        elif isinstance(action, act.StartCall):
            name = str(action.call.kind)
        if name == STEP:
            self._fate("before")
        super().do(action, epoch)

    def _make_call(self, action: act.StartCall, sent: float, error: VmhaError | None) -> ev.Event:
        if action.call.kind == STEP:
            self._fate("committed")
        event = super()._make_call(action, sent, error)
        if action.call.kind == STEP:
            self._fate("answered")
        return event


if __name__ == "__main__":
    main.Dispatcher = DyingDispatcher  # type: ignore[misc]
    sys.exit(command.main())
