"""A real multi-host OpenStack on one Linux machine: see README.rst. Standard library only."""

from lab.api import Lab
from lab.errors import LabError
from lab.overlaps import Exempt, Overlap, Run

__all__ = ["Exempt", "Lab", "LabError", "Overlap", "Run"]
