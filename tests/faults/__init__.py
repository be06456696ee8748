"""Fault campaigns against the training program: `make faults`."""
