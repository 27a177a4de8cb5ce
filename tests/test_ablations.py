"The script that takes chapter 03's plain U-Net apart: does it run on the notebook as it is, and is its result the notebook's?"
import importlib.util
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("ablate_unet", ROOT / "scripts/ablate_unet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def space(script):
    return script.lesson(ROOT / "nbs/03_sd_unet.ipynb")


def test_every_variant_answers_with_noise_of_the_right_shape(script, space):
    batch = space["batch_fn"](torch.Generator().manual_seed(0))
    for variant in script.VARIANTS:
        torch.manual_seed(0)
        net = script.build(variant, space)
        answer = net(batch["x0"], batch["t"], batch["words"])
        assert answer.shape == batch["x0"].shape
        assert (answer.abs().max() == 0) == (variant != "no zero start"), variant


@pytest.mark.parametrize("variant, change", [("no time", dict(t=lambda t: 999 - t)), ("no words", dict(words=lambda w: w.flip(1)))])
def test_what_is_taken_out_is_not_noticed(script, space, variant, change):
    batch = space["batch_fn"](torch.Generator().manual_seed(0))
    other = {**batch, **{key: f(batch[key]) for key, f in change.items()}}
    for name, same in ((variant, True), ("the whole net", False)):
        torch.manual_seed(0)
        net = script.build(name, space)
        torch.nn.init.normal_(net.last.weight)
        for key, p in net.named_parameters():
            if key.endswith(("conv2.weight", "proj_out.weight")): torch.nn.init.normal_(p, std=0.1)
        with torch.no_grad(): a, b = (net(x["x0"], x["t"], x["words"]) for x in (batch, other))
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3) == same, name


def test_the_result_is_that_of_the_notebook(script, space):
    found = json.loads((ROOT / "minidiff/data/results/ablate_unet.json").read_text())
    assert tuple(found["levels"]) == script.LEVELS
    for run in found["runs"]:
        assert run["variant"] in script.VARIANTS and run["steps"] == space["RECIPE"]["steps"]
        assert len(run["errors"]) == len(script.LEVELS)
    runs = {(run["variant"], run["seed"]) for run in found["runs"]}
    for variant in ("the whole net", "no time", "no self-attention", "no words"): assert {(variant, s) for s in range(3)} <= runs
