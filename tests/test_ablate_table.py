"""The table of ablations with a tiny preset: every row runs, a killed table goes on, and another recipe is refused."""
import json
import sys
from dataclasses import replace

import pytest
import torch
from pages import root

sys.path.insert(0, str(root / "scripts"))
import ablate
import minidiff.latent_diffusion as course

torch.set_num_threads(1)
CPU = course.PRESETS["cpu"]
TINY = replace(CPU, drop=0.5, pictures=32, captions=2, steps=3, unet=course.unet_config((16, 32), 8, norm_num_groups=8),
               unet_training={**CPU.unet_training, "steps": 8, "batch_size": 4}, text=dict(widths=(8, 16)),
               text_training={**CPU.text_training, "steps": 3, "batch_size": 8})
ROWS = ("baseline", "adamw_quarter", "no_ema", "fp32", "one_caption", "no_caption_drop", "no_page_mix", "uniform_timesteps", "eps", "flow", "min_snr", "no_channels_last",
        "no_latent_cache", "no_drop_no_guidance", "guided_middle", "steps_5", "heun")


def table(folder, only=ROWS, seeds=1, fraction=0.5):
    return ablate.table(folder / "table.json", folder / "work", "tiny", fraction, 2, seeds, only, "cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(course.PRESETS, "tiny", TINY)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table that is killed in the middle of its third row, and then goes on."""
    course.PRESETS["tiny"] = TINY
    folder, real, seen = tmp_path_factory.mktemp("table"), ablate.judge_all, []

    def dies(*args, **more):
        seen.append(args)
        if len(seen) == 3: raise KeyboardInterrupt
        return real(*args, **more)
    ablate.judge_all = dies
    with pytest.raises(KeyboardInterrupt): table(folder)
    ablate.judge_all = real
    before = json.loads((folder / "table.json").read_text())["rows"]
    rows = table(folder)
    yield folder, before, rows
    del course.PRESETS["tiny"]


def test_a_killed_table_goes_on(made):
    folder, before, rows = made
    assert len(before) == 2 and [row["row"] for row in rows if row in before] == [row["row"] for row in before], "what was done is kept"
    assert [row["row"] for row in rows] == [name for name in ablate.TABLE if name in ROWS]
    assert table(folder) == rows, "nothing is left to do"


def test_each_row_says_what_it_was_made_with(made):
    folder, _, rows = made
    found = json.loads((folder / "table.json").read_text())
    assert found["settings"]["steps"] == 4 and found["settings"]["preset"] == "tiny" and found["rows"] == rows
    for row in rows:
        assert row["date"] and row["machine"] and row["torch"] == torch.__version__ and "commit" in row
        for kind in ("one_object", "two_objects"): assert row[kind]["n"] == 2 and row[kind]["low"] <= row[kind]["share"] <= row[kind]["high"]
        assert row["seconds"]["unet"] >= 0 and row["loss"] > 0 and ("text" in row["seconds"]) == (row["row"] == "one_caption")


def test_a_row_changes_what_it_says(made):
    loss = {row["row"]: row["loss"] for row in made[2]}
    same = {"guided_middle", "steps_5", "heun"}
    assert {name for name in loss if loss[name] == loss["baseline"]} == same | {"baseline"} | ({"no_ema"} if loss["no_ema"] == loss["baseline"] else set()) \
        | ({"fp32"} if loss["fp32"] == loss["baseline"] else set()) | ({"no_channels_last"} if loss["no_channels_last"] == loss["baseline"] else set())
    assert loss["no_drop_no_guidance"] == loss["no_caption_drop"] != loss["baseline"]


def test_another_recipe_is_refused(made):
    with pytest.raises(SystemExit, match="was made with .* use another --out and --work"): table(made[0], fraction=1.0)


def test_nothing_is_left_changed():
    assert course.SCHEDULER["prediction_type"] == "v_prediction" and course.PAGES and course.draw_timesteps.__module__ == "minidiff.latent_diffusion"
    assert course.DDPMScheduler.__module__ == "minidiff.scheduler" and course.diffusion_loss.__module__ == "minidiff.latent_diffusion"


def test_guidance_on_part_of_the_steps():
    """The U-Net is asked twice a picture where it guides, and once where not."""
    pipe, asked = course.open_run(device="cpu"), []
    pipe.unet.register_forward_pre_hook(lambda unet, given: asked.append(len(given[0])))
    options = dict(num_inference_steps=4, guidance_scale=2.0, output_type="pt")
    noise = pipe.start_latents(1, generator=torch.Generator().manual_seed(0))
    for guided, counts in (((0, 0.5), [2, 2, 1, 1]), ((0.5, 1), [1, 1, 2, 2]), ((0, 1), [2, 2, 2, 2]), (None, [2, 2, 2, 2])):
        asked.clear()
        ablate.Painter(pipe, guided=guided)(["a red star"], latents=noise.clone(), **options)
        assert asked == counts, guided
    with torch.no_grad(): plain = pipe(["a red star"], latents=noise.clone(), **options)
    assert torch.equal(ablate.Painter(pipe, guided=(0, 1))(["a red star"], latents=noise.clone(), **options), plain)


def test_every_row_that_the_course_promises_is_there():
    promised = {"baseline", "adamw_quarter", "no_ema", "no_hard_negatives", "one_caption", "no_caption_drop", "eps", "flow", "uniform_timesteps", "fp32", "no_channels_last",
                "no_page_mix", "no_latent_cache", "guided_first_half", "steps_5", "euler", "min_snr"}
    assert promised <= ablate.TABLE.keys()
