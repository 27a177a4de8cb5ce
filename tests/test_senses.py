"""What `scripts/conditioning_senses.py` found is there, with what it takes to find it again; and its parts do what they say."""
import importlib.util
import json
from pathlib import Path

import pytest
import torch

root = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("conditioning_senses", root / "scripts" / "conditioning_senses.py")
senses = importlib.util.module_from_spec(spec)
spec.loader.exec_module(senses)


@pytest.mark.parametrize("which", senses.JOBS)
def test_the_results_say_how_they_were_made(which):
    path = root / "minidiff" / "data" / "results" / f"conditioning_{which}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 250_000 and found["command"].startswith(f"python scripts/conditioning_senses.py {which}")
    assert found["device"] == "cpu" and found["threads"] == 1 and found["torch"] and found["rows"] and all(row["losses"] for row in found["rows"])


def test_outlines_follow_and_are_followed():
    scenes = senses.BOOK.sample_scenes(64, senses.gen(0))
    lines, pictures = senses.outlines(scenes), senses.BOOK.paint(scenes)
    assert lines.shape == (64, 3, 32, 32) and lines.min() >= 0 and 0.3 < lines.amax((1, 2, 3)).min()
    assert senses.follows(pictures, scenes).float().mean() > 0.97  # the true pictures follow their outlines
    swapped = senses.BOOK.paint(scenes[torch.arange(64) - 1])
    assert senses.follows(swapped, scenes).float().mean() < 0.1
    moved = scenes.clone()
    moved.position = scenes.position + 2.2 / 32
    assert senses.follows(senses.BOOK.paint(moved), scenes).float().mean() < 0.05
    both = scenes[scenes.n_objects == 2]
    turned = both.clone()
    for name in ("kind", "color", "size", "position"): setattr(turned, name, getattr(both, name).flip(1))
    assert senses.follows(senses.BOOK.paint(both), turned).float().mean() > 0.97  # in either order


def test_masks_lie_on_the_grid_of_the_latents():
    masks = senses.boxes(200, senses.gen(1))
    cells = masks.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert masks.shape == (200, 1, 32, 32) and (cells.amin(-1) == cells.amax(-1)).all() and (masks.mean((1, 2, 3)) > 0).all()
    scenes, wanted, mask = senses.repaint_scenes(50)
    before, after = senses.BOOK.paint(scenes), senses.BOOK.paint(wanted)
    assert ((before - after).abs() * (1 - mask)).mean() < 1e-3 and (scenes.color[:, 1] != wanted.color[:, 1]).all()


def test_five_more_channels_change_nothing_yet():
    pipe = senses.open_run()
    x, t, states = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 32, 128)
    with torch.no_grad(): torch.testing.assert_close(senses.wider(pipe.unet)(torch.cat([x, torch.randn(2, 5, 8, 8)], 1), t, states), pipe.unet(x, t, states), atol=1e-5, rtol=1e-5)
