"""What a process says, and whom it ends, when others are gone."""

from __future__ import annotations

import os
import signal

import pytest
import torch.distributed as dist

from scatsimclr.training import watch
from scatsimclr.training.distributed import broken_connection

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.77.0.4]:55994: Connection reset by peer."
    " This is typically caused by a remote worker hanging or bugs in the application. Check the logs."
)


def test_a_broken_connection_is_told_from_a_bug():
    want = "another process (Read error [10.77.0.4]:55994: Connection reset by peer)"
    assert broken_connection(RuntimeError(GLOO)) == want
    assert broken_connection(dist.DistNetworkError("Broken pipe")) == "another process (Broken pipe)"
    assert (
        broken_connection(dist.DistBackendError("NCCL error: ncclRemoteError: a process exited")) is not None
    )
    assert broken_connection(dist.DistBackendError("NCCL error: unhandled cuda error")) is None
    assert broken_connection(RuntimeError("shapes do not fit")) is None


@pytest.mark.parametrize("launched", [True, False])
def test_torchrun_is_ended_and_no_other_parent(launched, monkeypatch):
    killed = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    watch._end_launcher()
    assert killed == [(os.getppid(), signal.SIGKILL)] * launched
