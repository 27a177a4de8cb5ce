"""What is counted on `meta` is what is counted on numbers; estimates of cards; the result is in the repository."""
import json

import pytest
import torch
import torch.nn.functional as F
from pages import root
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minidiff.budget import CARDS, Card, Cost, CountWork, estimate, inference_cost, saved_bytes, size_of, training_cost
from minidiff.checks import ConfigError
from minidiff.optimizers import Muon


def net():
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.Flatten(), nn.Linear(32 * 64, 16))


def error(model, batch): return F.mse_loss(model(batch["x"]).float(), batch["y"].float())


BATCH = dict(x=torch.randn(4, 3, 8, 8), y=torch.randn(4, 16), words=["a"] * 4)


def test_operations_are_those_of_pytorchs_own_counter():
    model = net()
    with FlopCounterMode(display=False) as theirs: error(model, BATCH).backward()
    with CountWork() as ours: error(model, BATCH).backward()
    assert ours.flops == theirs.get_total_flops() > 0
    assert training_cost(net, error, BATCH, lambda p: torch.optim.SGD(p, lr=0.1)).flops == ours.flops


def test_memory_by_hand():
    cost = training_cost(net, error, BATCH)
    weights = sum(p.numel() for p in net().parameters())
    assert cost.memory["weights"] == cost.memory["gradients"] == cost.memory["ema"] == 4 * weights
    assert 8 * weights <= cost.memory["optimizer"] <= 8 * weights + 4 * 6  # and a counter for each
    assert cost.memory["batch"] == 4 * (4 * 3 * 64 + 4 * 16) and cost.memory["half_weights"] == 0
    batch = {k: v.to("meta") for k, v in BATCH.items() if k != "words"}
    with torch.device("meta"): model = net()
    kept = [4 * 4 * 3 * 64] + [4 * 4 * 32 * 64] * 3 + [4 * 4 * 16] * 2 + [4 * 4 * 4] * 2  # x, three maps, answer and truth, mean and deviation
    assert cost.memory["activations"] == saved_bytes(lambda: error(model, batch), model.parameters())[0] == sum(kept)
    half = training_cost(net, error, BATCH, precision="bf16")
    assert half.memory["half_weights"] == 2 * weights and half.memory["activations"] < 0.75 * cost.memory["activations"]
    assert half.memory["weights"] == cost.memory["weights"] and half.flops == cost.flops


def test_muon_remembers_less_and_multiplies_more():
    make = lambda: nn.Linear(64, 64)
    batch = dict(x=torch.zeros(2, 64), y=torch.zeros(2, 64))
    adam, muon = (training_cost(make, error, batch, kind) for kind in (torch.optim.AdamW, Muon))
    assert muon.memory["optimizer"] < 0.6 * adam.memory["optimizer"] and muon.flops > adam.flops + 5 * 3 * 2 * 64**3 * 0.99


def test_a_call_and_many():
    once = inference_cost(net, lambda model: model(torch.empty(4, 3, 8, 8)))
    assert once.flops == 2 * 4 * (9 * 3 * 32 * 64 + 32 * 64 * 16)
    assert (once * 15).flops == 15 * once.flops and (once + once).flops == 2 * once.flops
    assert inference_cost(net, lambda model: model(torch.empty(4, 3, 8, 8)), "fp16").bytes < 0.6 * once.bytes
    assert torch.get_default_dtype() == torch.float32


def test_an_estimate_by_hand():
    card = Card("mine", dict(no=1e9), 1e6, 1000, utilisation=0.5, moving=0.5, shortest=1e-3, launch=2.0)
    cost = Cost([(1e9, 10), (0, 1e6), (0, 0)], dict(weights=800))
    found = estimate(cost, card, "no", recorded=True)
    assert found["seconds"] == pytest.approx(2 + 2 + 1e-3) and found["products"] == pytest.approx(2) and found["fits"]
    assert estimate(cost, card, "no")["seconds"] == pytest.approx(6), "Python is slower"
    assert not estimate(Cost(cost.work, dict(weights=950)), card, "no")["fits"]
    with pytest.raises(ConfigError, match="precision: the mine has no; got 'fp16'"): estimate(cost, card)


@pytest.mark.parametrize("call, message", [
    (lambda: training_cost(nn.Identity, error, BATCH), "make: the model has no weight"), (lambda: training_cost(net, error, BATCH, precision="half"), "precision is one of"),
    (lambda: inference_cost(net, lambda model: None, "int8"), "precision is one of")])
def test_what_cannot_be_counted(call, message):
    with pytest.raises(ConfigError, match=message): call()


def test_nothing_is_computed():
    """A model of a terabyte is counted in no time."""
    huge = inference_cost(lambda: nn.Linear(500_000, 500_000), lambda model: model(torch.empty(1, 500_000)))
    assert huge.memory["weights"] > 1e12 and huge.flops == 2 * 500_000**2


def test_the_table_of_the_course():
    found = json.loads((root / "minidiff/data/results/budget.json").read_text())
    assert {(row["stage"], row["card"]) for row in found["rows"]} == {(s, c.name) for s in ("vae", "text", "unet", "a picture") for c in CARDS.values()}
    for key, card in CARDS.items():
        assert found["assumed"][key] == dict(flops=card.flops, bandwidth=card.bandwidth, memory=card.memory, utilisation=card.utilisation, moving=card.moving,
                                             launch=card.launch, shortest=card.shortest)
    here = [check for check in found["checks"] if check["what"].endswith("here")]
    assert len(here) == 3 and all(0.4 < check["ratio"] < 2.5 for check in here)
    for check in found["checks"]: assert check["ratio"] == pytest.approx(check["measured_ms"] / check["estimated_ms"], rel=2e-3)
    assert size_of([torch.zeros(3), torch.zeros(2, dtype=torch.half)]) == 16
