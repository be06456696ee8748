"""What every results file records about the machine that it came from."""

import torch


def pytest_benchmark_update_machine_info(config, machine_info):
    """Adds device and versions, and leaves out the machine's name."""
    machine_info.pop("node", None)
    machine_info.update(
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )
