"The long experiments of chapter 09: do they run, do their parts do what they say, and are their results in the package?"
import copy
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "minidiff/data/results"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "main"): spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe(): return load("vae_recipe")


def try_out(name, monkeypatch, path, *arguments):
    "Run a script for a few steps."
    monkeypatch.setattr(sys, "argv", [name, "--steps", "2", "--pictures", "8", "--out", str(path), *arguments])
    load(name).main()
    return json.loads(path.read_text())


def test_the_table_grows_row_by_row(monkeypatch, tmp_path):
    path = tmp_path / "table.json"
    rows = try_out("vae_table", monkeypatch, path, "--only", "shapes 32, f 4, 4")["rows"]
    assert len(rows) == 1
    again = try_out("vae_table", monkeypatch, path, "--only", "shapes 32, f 4")["rows"]
    assert len(again) == 2 and again.items() >= rows.items()
    for row in again.values():
        assert row["numbers"] == row["channels"] * (row["size"] // row["factor"]) ** 2
        assert 5 < row["psnr"] < 30 and row["whole"]["n"] == 8 and row["threads"] >= 1


def test_the_recipe_has_all_stages(monkeypatch, tmp_path, recipe):
    found = try_out("vae_recipe", monkeypatch, tmp_path / "recipe.json", "--book", "shapes", "--feature-steps", "2", "--fork", "1")
    run, = found["runs"]
    assert [*run["stages"]] == [stage.name for stage in (recipe.START, *recipe.STAGES, *recipe.SLOW)]
    assert run["rows"] == ["real"] + [*run["stages"]][1:] and run["png"]
    assert run["real"]["whole"]["share"] == 1
    assert run["stages"]["+ discriminator"]["adaptive"][-1] > 0


def test_the_scale_has_three_parts(monkeypatch, tmp_path):
    found = try_out("vae_scale", monkeypatch, tmp_path / "scale.json", "--weights", "0", "0.1", "--pool", "200")
    assert [row["kl_weight"] for row in found["maps"]["rows"]] == [0, 0.1, 10]
    assert [row["kl_weight"] for row in found["weights"]["rows"]] == [0, 0.1]
    assert [row["scale"] for row in found["scale"]["rows"]] == [1, 5.49, 0.1822]
    low, high = sorted(row["last_snr"] for row in found["scale"]["rows"])[::2]
    assert high / low == pytest.approx(5.49 ** 4, rel=0.1)


def test_a_stage_repeats(recipe):
    book = recipe.BOOKS["shapes"](64)
    features = recipe.FeatureNet(book.kinds * book.colors).requires_grad_(False)
    start = recipe.small_vae(64, recipe.WIDTHS, 1).eval().requires_grad_(False)
    first, second = copy.deepcopy(start), copy.deepcopy(start)
    for vae in (first, second): recipe.train_stage(recipe.STAGES[2], vae, book, features, range(4, 5), 5, 4, 0, 2)
    for a, b in zip(first.parameters(), second.parameters()): assert torch.equal(a, b)
    assert not torch.equal(first.decoder.conv_out.weight, start.decoder.conv_out.weight)


def test_perceptual_loss(recipe):
    torch.manual_seed(0)
    net = recipe.FeatureNet(5)
    x, y = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    assert recipe.perceptual_loss(net, x, x).abs().max() < 1e-6
    ahead, back = recipe.perceptual_loss(net, x, y), recipe.perceptual_loss(net, y, x)
    assert ahead.shape == (3,) and (ahead > 0).all() and (ahead < 4).all()
    torch.testing.assert_close(ahead, back)
    y.requires_grad_()
    recipe.perceptual_loss(net, x, y).sum().backward()
    assert y.grad.abs().sum() > 0


def test_adaptive_weight_makes_both_pull_equally(recipe):
    last = torch.randn(4, 4, requires_grad=True)
    out = torch.randn(8, 4) @ last
    a, b = out.square().mean(), 1e-2 * out.sin().mean()
    weight = recipe.adaptive_weight(a, b, last)
    pull = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (a, weight * b)]
    torch.testing.assert_close(*pull, rtol=0.1, atol=0)
    assert recipe.adaptive_weight(a, 0 * b, last) <= 1e4 and not weight.requires_grad


def test_a_patch_is_18_pixels(recipe):
    net = recipe.PatchDiscriminator()
    net.layers = torch.nn.Sequential(*[layer for layer in net.layers if not isinstance(layer, torch.nn.GroupNorm)])
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    scores = net(x)
    assert scores.shape == (1, 1, 16, 16)
    scores[0, 0, 8, 8].backward()
    touched = x.grad[0].abs().sum(0) > 0
    assert touched.any(0).sum() == 18 and touched.any(1).sum() == 18


def test_gradient_energy_and_hinge(recipe):
    x = torch.rand(2, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert (recipe.gradient_energy(blurred) < recipe.gradient_energy(x) / 4).all()
    stripes = torch.ones(1, 3, 4, 4)
    stripes[..., ::2] = -1
    assert recipe.gradient_energy(stripes) == 2  # 4 across, 0 down
    assert recipe.hinge_loss(torch.tensor([2.0]), torch.tensor([-3.0])) == 0
    assert recipe.hinge_loss(torch.zeros(3), torch.zeros(3)) == 2


def test_edges_and_pages(monkeypatch, tmp_path):
    found = try_out("vae_edges", monkeypatch, tmp_path / "edges.json", "--seeds", "0", "1")
    assert [len(runs) for runs in found["rows"].values()] == [2, 2, 2]
    one, two, three = (runs[0] for runs in found["rows"].values())
    assert one["psnr"] != two["psnr"] != three["psnr"] and {*one["low_on"]} >= {"black", "gray"} and 0 <= one["low"] <= 1
    kept = json.loads((RESULTS / "vae_edges.json").read_text())
    assert kept["rows"].keys() == found["rows"].keys() and kept["steps"] == 1400 and all(len(runs) == 3 for runs in kept["rows"].values())


@pytest.mark.parametrize("name", ["vae_table", "vae_recipe", "vae_scale"])
def test_results_are_there(name):
    found = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.json").stat().st_size < 250_000
    assert name in found["about"]


@pytest.mark.parametrize("name, options", [
    ("vae_memory", "--side 0"), ("vae_memory", "--side 1023"), ("vae_memory", "--tasks paint"), ("vae_table", "--steps 0"), ("vae_table", "--pictures 0"), ("vae_table", "--only nothing"),
    ("vae_recipe", "--fork -1"), ("vae_recipe", "--feature-steps 0"), ("vae_recipe", "--only nothing"), ("vae_scale", "--part map"), ("vae_scale", "--steps 0"), ("vae_scale", "--weights nan")])
def test_options_that_make_nothing_are_named(monkeypatch, capsys, tmp_path, name, options):
    monkeypatch.setattr(sys, "argv", [name, *options.split(), "--out", str(tmp_path / "no.json")])
    with pytest.raises(SystemExit): load(name).main()
    assert "error: " in capsys.readouterr().err.splitlines()[-1] and not [*tmp_path.iterdir()]


def test_rows_of_another_side_are_forgotten(monkeypatch, tmp_path):
    path = tmp_path / "memory.json"
    path.write_text(json.dumps(dict(side=1024, rows=[dict(vae="ours", task="encode", peak=1)])))
    monkeypatch.setattr(sys, "argv", ["vae_memory", "--side", "64", "--vae", "ours", "--tasks", "decode", "--out", str(path)])
    load("vae_memory").main()
    found = json.loads(path.read_text())
    assert found["side"] == 64 and [row["task"] for row in found["rows"]] == ["decode", "decode"]
