"""Explorers of the safety rules: every state that adversarial steps can reach, decided by the core's own functions and constants.

Adapted from the explorers that came before the code (safety.md).  Here the rules are not switches: they are imported, so that a change of
one that breaks safety fails a test.  Time is in ticks, intervals are closed; every stall, delay, loss and restart is a step that may or
may not happen.
"""
