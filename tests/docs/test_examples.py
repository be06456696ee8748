"""Every example runs as it stands there, or is checked for what it must say, and stays short."""

import runpy
from pathlib import Path

import pytest
import yaml

from scatsimclr import train
from scatsimclr.config import load_config

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text.split('"""')[1]


def test_the_job_for_kubernetes_has_what_the_operator_and_torchrun_need():
    """As the operator's webhook checks it, and the environment that it makes of it."""
    job = yaml.safe_load((EXAMPLES[0].parent / "pytorchjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"]["name"].isalpha()
    spec, elastic = job["spec"], job["spec"]["elasticPolicy"]
    assert spec["pytorchReplicaSpecs"].keys() == {
        "Worker"
    }  # with a policy, torchrun finds the first one by itself
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert worker["replicas"] == elastic["minReplicas"] == elastic["maxReplicas"]
    assert elastic["rdzvBackend"] == "c10d"
    assert elastic["maxRestarts"] > 0
    assert worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"
    assert container["image"]
    assert spec["nprocPerNode"] == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    torchrun, dash_m, module = container["command"]
    assert (torchrun, dash_m, module) == ("torchrun", "-m", "scatsimclr.train")
    options = train.parser().parse_intermixed_args(container["args"])
    assert options.resume == "auto"
    config = load_config(None, train.overrides(options))
    assert config.dataset.dataset == "shards"
    assert any(options.run_dir.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
