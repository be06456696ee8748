"""Nothing here may reach beyond 127.0.0.1, and a proxy must not catch the requests that stay there."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def one_thread():
    """On a busy machine, OpenMP's barriers make small operations up to 100 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def writers():
    """The module `writers.py` beside this file: test folders are not packages under importlib mode."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("data_writers", Path(__file__).with_name("writers.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
