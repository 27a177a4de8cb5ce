"""Two real processes, started with `torchrun`: the loss over everybody's batch, its gradients, and data without overlap."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BIN, environment

SCRIPT = Path(__file__).resolve().parent / "two_processes.py"
LAUNCH = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]  # `accelerate launch --cpu` starts a single process


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(processes, rank) -> what it wrote."""
    folder = tmp_path_factory.mktemp("processes")
    for command in ([sys.executable], LAUNCH):
        done = subprocess.run([*command, str(SCRIPT), str(folder)], capture_output=True, text=True, env=environment(), timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    files = {tuple(map(int, path.stem.split("_"))): torch.load(path) for path in folder.glob("*.pt")}
    assert sorted(files) == [(1, 0), (2, 0), (2, 1)]
    return files


def test_one_loss_and_its_gradients(found):
    one = found[1, 0]
    for rank in range(2):
        two = found[2, rank]
        assert two["value"] == pytest.approx(one["value"], rel=1e-5)
        assert torch.equal(two["gathered"], two["whole"]), "in the order of the processes"
        for a, b in zip(one["gradients"], two["gradients"]): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_train_as_one_does(optimizer, found):
    pick = lambda key: found[key] if optimizer == "adamw" else found[key]["muon"]
    one = pick((1, 0))
    assert one["losses"][-1] < one["losses"][0] - 0.2
    for rank in range(2):
        two = pick((2, rank))
        torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-3, atol=1e-4)
        for part in ("weights", "average"):
            for k, v in one[part].items(): torch.testing.assert_close(two[part][k], v, rtol=2e-2, atol=2e-3, msg=k)


def test_without_the_others_it_would_be_another_loss(found):
    """What the gathering is for: with half a batch to compare with, the loss is smaller from the first step on."""
    one, two = found[1, 0]["alone"], found[2, 0]["alone"]
    assert two["losses"][0] < one["losses"][0] - 0.3


def test_no_entry_is_seen_twice_and_none_is_left_out(found):
    whole, parts = found[1, 0]["seen"], [found[2, rank]["seen"] for rank in range(2)]
    assert len(whole) == 12
    for step, a, b in zip(whole, *parts):
        assert len(a) == len(b) == 8 and not set(a) & set(b) and a + b == step
    everything = [number for step in whole for number in step]
    assert len(set(everything)) == len(everything) == 12 * 16
