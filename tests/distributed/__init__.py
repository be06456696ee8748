"""Runs of several processes: that they are the run of one, and what becomes of them when one is killed or cut off.

`python -m tests.distributed` runs everything; a few of its cases are in `make test`.
"""
