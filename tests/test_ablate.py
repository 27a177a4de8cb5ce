"""The table of ablations with a tiny preset: each row changes what it says and nothing else, a killed table goes on, another recipe is refused."""
import functools
import json
import sys
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from pages import root

sys.path.insert(0, str(root / "scripts"))
import ablate
import minidiff.latent_diffusion as course

torch.set_num_threads(1)
ablate.PICTURES = 16  # whose caption is to be found
CPU = course.PRESETS["small"]  # whose VAE and text encoder are in the package
TINY = replace(CPU, sampler="ancestral", align=1.0, huber=0.03, drop=0.5, pictures=32, captions=2, steps=3, unet=course.unet_config((16, 32), 8, norm_num_groups=8),
               unet_training={**CPU.unet_training, "steps": 8, "batch_size": 12}, text=dict(widths=(8, 16)),
               text_training={**CPU.text_training, "steps": 3, "batch_size": 8})
ROWS = ("baseline", "one_caption", "no_caption_drop", "no_drop_no_guidance", "heun")


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
    assert len(before) == 2 and all(row in rows for row in before), "what was done is kept"
    assert [row["row"] for row in rows] == [name for name in ablate.TABLE if name in ROWS]
    assert table(folder) == rows, "nothing is left to do"


def test_each_row_says_what_it_was_made_with(made):
    folder, _, rows = made
    found = json.loads((folder / "table.json").read_text())
    settings = found["settings"]
    assert settings["steps"] == 4 and settings["preset"] == "tiny" and found["rows"] == rows
    for row in rows:
        assert row["date"] and row["machine"] and row["torch"] == torch.__version__ and "commit" in row
        for kind in ("one_object", "two_objects"): assert row[kind]["n"] == 2 and row[kind]["low"] <= row[kind]["share"] <= row[kind]["high"]
        assert row["seconds"]["unet"] >= 0 and row["loss"] > 0 and ("text" in row["seconds"]) == (row["row"] == "one_caption")
        assert ("pick_caption" in row) == (row["row"] in ("baseline", "one_caption"))


def test_a_row_that_paints_takes_what_another_trained(made):
    loss = {row["row"]: row["loss"] for row in made[2]}
    assert loss["heun"] == loss["baseline"]
    assert loss["no_drop_no_guidance"] == loss["no_caption_drop"] != loss["baseline"]


PAINTS = {"paint.timesteps", "paint.rows"}  # another number or other places of the steps
TELLS = {
    "adamw_quarter": {"unet.optimizer", "unet.lr"}, "no_ema": {"unet.ema"}, "no_channels_last": {"unet.layout"}, "no_caption_drop": {"unet.states"},
    "no_page_mix": {"unet.latents", "unet.loss"}, "uniform_timesteps": {"unet.timesteps", "unet.loss"}, "min_snr": {"unet.loss"},
    "eps": {"unet.loss", "paint.prediction"}, "eps_leading": {"unet.loss", "paint.prediction", "paint.timesteps"}, "v_leading": {"paint.timesteps"},
    "flow": {"unet.loss", "paint.prediction", "paint.sampler", "paint.timesteps"},
    "no_latent_cache": {"unet.latents", "unet.states", "unet.noise", "unet.timesteps", "unet.loss", "unet.encoded"},
    "no_hard_negatives": {"text.images", "text.ids", "text.loss", "unet.states"}, "one_caption": {"text.loss", "unet.states"},
    "no_drop_no_guidance": {"unet.states", "paint.rows", "paint.scale"}, "no_guidance": {"paint.rows", "paint.scale"}, "scale_3": {"paint.scale"},
    "guided_first_half": {"paint.rows"}, "guided_second_half": {"paint.rows"}, "guided_middle": {"paint.rows"},
    "steps_5": PAINTS | {"paint.steps"}, "steps_10": PAINTS | {"paint.steps"}, "steps_30": PAINTS | {"paint.steps"},
    "ddim": {"paint.sampler"}, "euler": {"paint.sampler"}, "dpm": {"paint.sampler"}, "heun": PAINTS | {"paint.sampler"},
}
TELLS |= {"no_alignment": {"unet.loss"}, "mse": {"unet.loss"}, **{name: TELLS[name] | {"unet.maps"} for name in ("no_page_mix", "no_latent_cache")}}
TELLS |= {"adamw_half": TELLS["adamw_quarter"], "adamw_eighth": TELLS["adamw_quarter"]}


def look(seen):
    """In place of `Trainer.fit`: note what would be trained with, and train nothing."""
    def fit(trainer, resume=False):
        trainer._set_up()
        torch.manual_seed(0)
        with patch.object(ablate.PARTS["vae"], "encode", wraps=ablate.PARTS["vae"].encode) if ablate.PARTS else patch.object(trainer, "clip") as encode:
            batch = trainer._batch(0)[0]
        kernels = [p for p in trainer.model.parameters() if p.dim() == 4 and p.shape[2] > 1]
        found = dict(optimizer=type(trainer._optimizer).__name__, lr=trainer.lr, ema=trainer.ema, precision=trainer.accelerator.mixed_precision,
                     layout=all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels), loss=round(trainer.loss_fn(trainer.model, batch).item(), 4),
                     encoded=getattr(encode, "call_count", 0), **{k: ablate.course.fingerprint({k: v}) for k, v in batch.items()})
        seen.update({f"{trainer.name}.{k}": v for k, v in found.items()})
        trainer._losses = [torch.zeros(())]
        trainer.model.eval()
        return trainer
    return fit


@pytest.fixture(scope="module")
def parts(tmp_path_factory): return ablate.parts_of(TINY, tmp_path_factory.mktemp("parts"), "cpu")


def facts(name, parts, folder):
    """What a row trains and paints with."""
    seen = {}
    ablate.PARTS.update(vae=parts.vae)

    def judge(painter, *_, steps, scale, **more):
        rows, times, unet = [], [], painter.unet
        unet.forward = lambda x, t, states, **told: (rows.append(len(x)), times.append(float(t.flatten()[0])), torch.zeros_like(x))[-1]
        painter(["a red star"], latents=torch.ones(1, *parts_shape(painter)), num_inference_steps=steps, guidance_scale=scale, output_type="pt")
        del unet.forward
        scheduler = painter.scheduler
        found = dict(rows=rows, timesteps=times, steps=steps, scale=scale, sampler=type(scheduler).__name__, prediction=scheduler.config.get("prediction_type"))
        seen.update({f"paint.{k}": v for k, v in found.items()})
        return dict(one_object=dict(whole={}), two_objects=dict(whole={}))
    with patch.object(ablate.Trainer, "fit", look(seen)), patch.object(ablate, "judge_all", judge), patch.object(ablate, "pick_caption", lambda *_, **__: 0.5):
        ablate.run_row(name, 0, TINY, parts, folder, "cpu", 2)
        if name == "baseline": ablate.a_job(TINY, folder / "text", 0, "cpu", parts.device).train_text_encoder()
    return seen


def parts_shape(pipe): return pipe.vae.config.latent_channels, *[pipe.vae.config.sample_size // pipe.vae.factor] * 2


@pytest.fixture(scope="module")
def baseline(parts, tmp_path_factory): return facts("baseline", parts, tmp_path_factory.mktemp("baseline"))


@pytest.mark.parametrize("name", [name for name in ablate.TABLE if name != "baseline"])
def test_a_row_changes_what_it_says_and_nothing_else(name, parts, baseline, tmp_path):
    other = ablate.best_precision("cpu") != {"fp32": "no", "bf16": "bf16"}.get(name)
    wanted = TELLS.get(name, {"unet.precision"} if other else set())
    seen = facts(name, parts, tmp_path)
    changed = {key for key, value in seen.items() if value != baseline[key]}
    if name == "no_page_mix": changed.discard("unet.states")  # of few captions, none may name the page
    assert changed == wanted
    if name.startswith("adamw"): assert seen["unet.optimizer"] == "AdamW" != baseline["unet.optimizer"] == "Muon"
    if name == "no_latent_cache": assert seen["unet.encoded"] == 1 and baseline["unet.encoded"] == 0


def test_a_preset_of_another_size_gets_its_own_parts(tmp_path):
    few = dict(steps=2, batch_size=4)
    large = replace(TINY, size=64, vae=dict(widths=(8,) * 4, groups=4, latent_channels=8), vae_training={**CPU.vae_training, **few})
    found = ablate.parts_of(large, tmp_path, "cpu")
    assert not found.shipped and found.vae.config.latent_channels == 8 and found.vae.config.sample_size == 64
    with patch.object(ablate.Trainer, "_train_step", side_effect=AssertionError("trained again")): again = ablate.parts_of(large, tmp_path, "cpu")
    for name in ("vae", "text_encoder"): assert ablate.course.fingerprint(getattr(found, name)) == ablate.course.fingerprint(getattr(again, name))
    row = ablate.run_row("no_latent_cache", 0, large, again, tmp_path / "work", "cpu", 2)
    assert row["one_object"]["n"] == 2 and row["loss"] > 0


def test_the_most_telling_rows_come_first():
    order = ablate.in_order(3, "cpu")
    assert order[0] == ("baseline", 0) and order.count(("speed", 0)) == 1 and len(order) == len(set(order))
    assert {name for name, _ in order} == ablate.TABLE.keys() - {"bf16" if ablate.best_precision("cpu") != "no" else "fp32"} | {"speed"}
    assert order.index(("eps", 0)) < order.index(("baseline", 1)) < order.index(("min_snr", 0))


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


def test_an_estimate_trains_each_row_and_writes_nothing(tmp_path, capsys):
    ablate.table(tmp_path / "table.json", tmp_path / "work", "tiny", 0.5, 2, 1, ("baseline", "one_caption"), "cpu", True)
    told = capsys.readouterr().out
    assert "baseline, seed 0: " in told and "one_caption, seed 0: " in told and "hours in all" in told and not [*tmp_path.rglob("*.*")]


def test_the_seconds_of_each_row_are_kept_beside_the_table(made, monkeypatch):
    folder = made[0]
    before = json.loads((folder / "table.json").read_text())
    monkeypatch.setattr(ablate, "TABLE", {name: ablate.TABLE[name] for name in ROWS})
    monkeypatch.setattr(ablate, "each_row_in_turn", functools.partial(ablate.each_row_in_turn, rounds=1, steps=6, few=2))
    ablate.table(folder / "table.json", folder / "work", "tiny", 0.5, 2, 1, ROWS, "cpu", seconds=True)
    found = json.loads((folder / "table.json").read_text())
    took = found.pop("took")
    assert found == {k: v for k, v in before.items() if k != "took"} and took["date"] and took["rows"].keys() == set(ROWS)
    for name, row in took["rows"].items(): assert row["picture"] > 0 and ("step" in row) == (ablate.TABLE[name].first != "paint")
    assert table(folder) == found["rows"], "it is no row of the table"


def test_the_seconds_of_another_recipe_are_not_put_beside_it(made, monkeypatch):
    monkeypatch.setitem(course.PRESETS, "tiny", replace(TINY, steps=TINY.steps + 1))
    with pytest.raises(SystemExit, match="another --out"):
        ablate.table(made[0] / "table.json", made[0] / "work", "tiny", 0.5, 2, 1, ROWS, "cpu", seconds=True)


def test_presets_race_stage_by_stage(monkeypatch):
    monkeypatch.setattr(ablate, "in_turns", functools.partial(ablate.in_turns, rounds=2, steps=5, pictures=16))
    found = ablate.race(("tiny",), "cpu")
    row, told = found["seconds"]["tiny"], course.PRESETS["tiny"]
    steps = {stage: getattr(told, f"{stage}_training")["steps"] for stage in ("vae", "text", "unet")} | dict(latents=told.pictures)
    assert row.keys() == steps.keys() | {"whole"} and min(row.values()) > 0
    assert row["whole"] == pytest.approx(sum(row[k] * n for k, n in steps.items()), abs=0.06) and found["where"]["date"]


def test_every_row_that_the_course_promises_is_there():
    promised = {"baseline", "adamw_quarter", "no_ema", "no_hard_negatives", "one_caption", "no_caption_drop", "eps", "flow", "uniform_timesteps", "fp32", "no_channels_last",
                "no_page_mix", "no_latent_cache", "guided_first_half", "steps_5", "euler", "min_snr"}
    assert promised <= ablate.TABLE.keys() == set(ablate.WORTH)
