"""A copy of the core and the simulator that mypyc has made machine code of, for millions of worlds: the same source, twice as fast.

Native classes have their attributes in slots anyway, and ``dataclass(slots=True)`` would make a second class of them: the copy does without
that word.  What mypyc cannot compile is left as Python.  ``made`` says whether it worked; nothing but speed depends on it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OPTIMIZE = "1"  # of gcc: "2" is 6 % faster and takes thrice as long to compile
ENOUGH = 20  # modules that may turn out not to compile
PYTHON_ONLY = (
    "vmha/sim/run.py",
    "vmha/sim/expect.py",
    "vmha/sim/scenario.py",
)  # run once a world, on loosely typed data
SETUP = """
import sys
from mypyc.build import mypycify
modules = open("modules").read().split()
built = mypycify(modules, opt_level=sys.argv[2], debug_level="0")
if sys.argv[1] == "build":
    from setuptools import setup
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
    setup(name="worlds", packages=[], ext_modules=built)
"""


def copied(to: Path) -> None:
    """The packages and the worlds' own tests, as they are."""
    for part in ("vmha", "tests/property"):
        shutil.copytree(ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__"))


def without_slots(text: str) -> str:
    """The same source, whose dataclasses say nothing of slots."""
    return re.sub(r", slots=True|slots=True, |slots=True", "", text)


def made(to: Path, log: Path) -> str:
    """Compile the copy in ``to``; what was left as Python, or why nothing was compiled, in words for the table."""
    if shutil.which(os.environ.get("CC", "gcc")) is None:
        return "plain Python: there is no C compiler"
    names = sorted(str(p.relative_to(to)) for part in ("core", "sim") for p in (to / "vmha" / part).glob("*.py"))
    modules = [n for n in names if not n.endswith("__init__.py") and n not in PYTHON_ONLY]
    for name in modules:
        text = (to / name).read_text()
        (to / name).write_text(without_slots(text))
    (to / "setup.py").write_text(SETUP)
    left = []
    for _ in range(ENOUGH):
        bad = _refused(to, modules, log)
        if not bad:
            break
        modules = [m for m in modules if m not in bad]
        left += bad
    if not modules or _python(to, "build", log):
        return f"plain Python: mypyc failed: {_last(log)}"
    return f"compiled with mypyc ({len(modules)} modules" + (f"; not {', '.join(left)})" if left else ")")


def _refused(to: Path, modules: list[str], log: Path) -> list[str]:
    """Modules that mypyc says it cannot compile; all, when it names none."""
    (to / "modules").write_text("\n".join(modules))
    if _python(to, "check", log) == 0:
        return []
    named = set(re.findall(r"^(vmha/[a-z_/]+\.py):\d+.*error", log.read_text(), re.M))
    return sorted(named & set(modules)) or list(modules)


def _python(to: Path, what: str, log: Path) -> int:
    env = {**os.environ, "PBR_VERSION": "0", "PYTHONPATH": str(to)}
    with log.open("w") as out:
        command = [sys.executable, "setup.py", what, OPTIMIZE]
        with subprocess.Popen(command, cwd=to, env=env, stdout=out, stderr=out, start_new_session=True) as child:
            try:
                return child.wait()
            except KeyboardInterrupt:
                os.killpg(child.pid, signal.SIGTERM)  # its compiler too
                raise


def _last(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if "warning" not in line]
    return lines[-1] if lines else "it said nothing"
