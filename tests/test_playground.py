"""The playground: names that are completed, what a click paints, walks, and another sampler for one picture."""
import json

import pytest
import torch
from torch import nn

from minidiff import cli, plots
from minidiff.cli import sample_command
from minidiff.latent_diffusion import open_run
from minidiff.playground import Playground, box, open_box, slerp, using, walk
from minidiff.samplers import DDIMScheduler, EulerDiscreteScheduler
from minidiff.stickers import STICKERS, complete_names
from pages import root

SAMPLERS = {"DDIM": DDIMScheduler, "Euler": EulerDiscreteScheduler}


@pytest.fixture(scope="module")
def play():
    return Playground(dict(shapes=open_run(), stickers=lambda: open_run("stickers")), SAMPLERS,
                      dict(shapes="a red circle", stickers="a frog"))


# ------------------------------------------------------------------------------------------ names

@pytest.mark.parametrize("name", STICKERS)
def test_a_whole_name_is_left_alone(name):
    for line in (name, f"a {name}", f"a big {name} above a {name} on a red background", name.upper()):
        assert complete_names(line) == (line, [])


@pytest.mark.parametrize("typed, wanted, notes", [
    ("a frog above a pizza", "a frog face above a slice of pizza", 2),
    ("A MAIZE", "An ear of maize", 1), ("an engine", "a fire engine", 1), ("a big maize", "a big ear of maize", 1),
    ("dog", "dog face", 1), ("a cute panda, left of a clock", "a cute panda face, left of an alarm clock", 2),
    ("a pot of honey", "a honey pot", 1), ("frog and pizza", "frog face and slice of pizza", 2),
    ("a traffic light at the top left", "a vertical traffic light at the top left", 1),
    ("a tree", "a tree", 1), ("an apple", "an apple", 1), ("a zebra", "a zebra", 0), ("a bird house", "a bird house", 0),
    ("in red on a green background", "in red on a green background", 0), ("", "", 0), ("...", "...", 0),
    ("a frog above a frog", "a frog face above a frog face", 2), ("a catlike cat", "a catlike cat face", 1)])
def test_what_people_type(typed, wanted, notes):
    completed, told = complete_names(typed)
    assert completed == wanted and len(told) == notes
    if typed != wanted:  # twice is as once
        assert complete_names(completed) == (completed, [])


def test_an_unclear_name_lists_the_candidates():
    assert complete_names("a tree")[1] == ["'tree' may be any of christmas tree, evergreen tree, deciduous tree, palm tree; which one?"]


def test_the_command_completes_only_for_stickers(tmp_path, monkeypatch, capsys):
    painted = []
    monkeypatch.setattr(cli, "_paint", lambda pipe, options: painted.append((options.prompt, options.negative)))
    assert sample_command(["a frog", "--model", "stickers", "--negative", "a pizza"]) == 0
    assert capsys.readouterr().err.splitlines() == ["note: 'frog' is taken for 'frog face'", "note: 'pizza' is taken for 'slice of pizza'"]
    assert sample_command(["a frog"]) == 0
    assert painted == [("a frog face", "a slice of pizza"), ("a frog", "")]
    assert "vocabulary: 'frog'" in capsys.readouterr().err


def test_a_folder_says_whether_it_paints_stickers(tmp_path):
    said = {}
    for name, text in dict(stickers='{"book": "stickers"}', both='{"book": "both"}', folder='{"book": "mine"}', shapes="{}", broken="{", listed="[]").items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
        said[name] = cli._paints_stickers(str(tmp_path / name))
    assert said == dict(stickers=True, both=True, folder=False, shapes=False, broken=False, listed=False)
    assert not any(map(cli._paints_stickers, (None, "shapes", "hub:someone/stickers", str(tmp_path / "nowhere"))))


# ------------------------------------------------------------------------------------------ the box

def pressed(play, **values):
    *controls, button, said = box(play).children
    named = {control.description: control for control in controls}
    assert set(named) == {"model", "prompt", "not", "steps", "guidance", "seed", "sampler"}
    for name, value in values.items():
        named[name].value = value
    before = said.value
    button.click()
    assert before == "" and not button.disabled and button.description == "Paint"
    return said.value


def test_a_click_paints_what_the_sliders_say(play):
    first = pressed(play, steps=2)
    assert "data:image/png" in first and 'alt="a red circle"' in first
    assert pressed(play, steps=2) == first
    others = [pressed(play, steps=2, **{name: value}) for name, value in
              dict(seed=7, guidance=5.0, prompt="a blue star", sampler="Euler").items()]
    others += [pressed(play, steps=4), pressed(play, steps=2, **{"not": "a red circle on a white background"})]
    assert len({first, *others}) == 7
    assert "taken for" in pressed(play, model="stickers", steps=1)


def test_an_error_becomes_a_line_and_the_button_comes_back(play):
    class Broken(nn.Module):
        scheduler = None
        def forward(self, *args, **more): raise RuntimeError("no <room>")
    broken = Playground(dict(one=Broken()), {"own": type("S", (), dict(from_config=staticmethod(lambda config: None)))})
    broken.painters["one"].scheduler = type("T", (), dict(config={}))()
    said = pressed(broken)
    assert said == "<div>no &lt;room&gt;</div>"


def test_the_sampler_goes_back_where_painting_fails(play):
    pipe = play.painter("shapes")
    own = pipe.scheduler
    with pytest.raises(ZeroDivisionError), using(pipe, SAMPLERS, "Euler"):
        assert isinstance(pipe.scheduler, EulerDiscreteScheduler)
        1 / 0
    assert pipe.scheduler is own


def test_with_nobody_there_no_widget_is_shown(play, monkeypatch):
    shown = []
    monkeypatch.setattr("minidiff.playground.show_images", lambda images, **more: shown.append(len(images)))
    monkeypatch.setattr(plots, "_someone_there", lambda: False)
    open_box(Playground(dict(shapes=play.painter("shapes")), SAMPLERS, dict(shapes="a red circle")))
    assert shown == [4]


@pytest.mark.parametrize("name", ["appendix/playground", "16_latent_diffusion"])
def test_no_widget_state_is_kept(name):
    notebook = json.loads((root / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    kinds = {kind for cell in notebook["cells"] for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert kinds and not [kind for kind in kinds if "widget" in kind]


# ------------------------------------------------------------------------------------------ walks

def test_the_ends_of_a_walk_are_the_two_prompts(play):
    pipe = play.painter("shapes")
    told = dict(num_inference_steps=3, guidance_scale=2.0)
    film = walk(pipe, "a red circle", "a blue star", frames=3, **told)
    noise = pipe.start_latents(1, generator=torch.Generator().manual_seed(0))
    for frame, prompt in ((0, "a red circle"), (-1, "a blue star")):
        torch.testing.assert_close(film[frame], pipe(prompt, latents=noise, output_type="pt", **told)[0], atol=1e-3, rtol=0)
    assert (film[0] - film[1]).abs().mean() > 1e-3


def test_slerp_keeps_the_spread():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 4, 16, 16, generator=generator)
    for share in (0.0, 0.25, 0.5, 1.0):
        assert abs(slerp(a, b, share).std() - 1) < 0.06
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
