"""Servers for tests: a scripted one for every fault, and real ones as child processes."""
