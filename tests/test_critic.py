"The critic's margins: the same reading with and without, what they mean, and that old names are still found where they were."
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from pages import root

import minidiff.critic
import minidiff.scenes
import minidiff.sketchbook
from minidiff.checks import ConfigError
from minidiff.files import data_folder
from minidiff.latent_diffusion import open_run
from minidiff.sketchbook import Critic, Sketchbook, compare

sys.path.insert(0, str(root / "scripts"))
import judge  # noqa: E402
import margins  # noqa: E402

NAMES = "n_objects", "kind", "color", "size", "place", "relation", "background", "position"


def blur(images, width):
    line = torch.softmax(-torch.arange(-4, 5.0) ** 2 / (2 * width**2), 0)
    padded = F.pad(images, [4] * 4, mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(padded, (line[:, None] * line)[None, None]).unflatten(0, (len(images), 3))[:, :, 0]


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    drawn, _, scenes = Sketchbook(32).draw(300, generator, split="heldout")
    noise, vae = torch.randn(drawn.shape, generator=generator), open_run().vae
    with torch.no_grad(): decoded = vae(drawn)[0]
    kinds = dict(drawn=drawn, decoded=decoded, blur=blur(drawn, 1.0), more_blur=blur(drawn, 1.5), noise=drawn + 0.12 * noise,
                 more_noise=drawn + 0.25 * noise, nothing_else=noise, empty=torch.ones(300, 3, 32, 32))
    return kinds, scenes


KINDS = "drawn", "decoded", "blur", "more_blur", "noise", "more_noise", "nothing_else", "empty"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reading_is_the_same_with_margins_and_without(kind, pictures):
    images, critic = pictures[0][kind], Critic()
    reading, (again, doubts) = critic.read(images), critic.read(images, margins=True)
    assert all(torch.equal(getattr(reading, name), getattr(again, name)) for name in NAMES)
    assert sorted(doubts) == ["fit", "flaw", "lead", "margin"]
    for values in doubts.values(): assert values.shape == (300,) and values.isfinite().all()
    assert 0 <= doubts["fit"].min() and doubts["fit"].max() <= 1.0001 and doubts["flaw"].min() >= 0 and doubts["lead"].min() >= 0
    assert -1 <= doubts["margin"].min() and doubts["margin"].max() <= 1
    assert torch.equal(doubts["margin"] >= 0, reading.n_objects > 0), "0 is the limit of being refused"


def test_margins_fall_as_pictures_are_spoilt(pictures):
    median = {k: {name: v.median() for name, v in Critic().read(x, margins=True)[1].items()} for k, x in pictures[0].items()}
    for chain in (KINDS[:4], ("drawn", "noise", "more_noise", "nothing_else")):
        margins = [median[kind]["margin"].item() for kind in chain]
        assert margins == sorted(margins, reverse=True) and margins[0] > margins[1], chain
    assert median["drawn"]["lead"] > median["blur"]["lead"] > median["more_blur"]["lead"]


def test_the_lead_gives_misread_pictures_away(pictures):
    kinds, scenes = pictures
    reading, doubts = Critic().read(kinds["more_blur"], margins=True)
    right, read = compare(reading, scenes)["whole"][0][:, 0], reading.n_objects > 0
    assert (read & ~right).sum() > 30 and doubts["lead"][read & ~right].median() < 0.7 * doubts["lead"][right].median()


def test_margins_of_other_sizes_of_none_and_of_one():
    generator = torch.Generator().manual_seed(1)
    for size in (48, 64):
        doubts = Critic(size).read(Sketchbook(size).draw(20, generator)[0], margins=True)[1]
        assert doubts["margin"].min() > 0.5
    critic = Critic()
    assert critic.read(torch.zeros(0, 3, 32, 32), margins=True)[1]["margin"].shape == (0,)
    many = Sketchbook().draw(300, generator)[0]
    whole = critic.read(many, margins=True)[1]["margin"]
    alone = critic.read(many[270:271], margins=True)[1]["margin"]
    torch.testing.assert_close(whole[270:271], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("margins", [None, 2, "yes"])
def test_what_is_no_yes_or_no(margins):
    with pytest.raises(ConfigError, match="^margins is one of True, False"):
        Critic().read(torch.zeros(1, 3, 32, 32), margins=margins)


def test_old_names_are_where_they_were():
    for module in (minidiff.scenes, minidiff.critic):
        for name in module.__all__:
            if name in ("single_out", "worst_doubts"): continue  # new
            assert getattr(minidiff.sketchbook, name) is getattr(module, name), name


@pytest.mark.parametrize("file, model, other", [("results/margins.json", "package", "ancestral"), ("runs/cpu/margins.json", "runs/cpu", "dpm")])
def test_the_table_is_of_the_model(file, model, other):
    found = json.loads((root / "minidiff/data" / file).read_text())
    assert found["model"] == model and found["captions"] == 2000
    painted = ["one_object", "two_objects", f"one_{other}", f"two_{other}"]
    assert list(found["rows"]) == ["drawn", "decoded", "blur", "noise", *painted]
    for name, row in found["rows"].items(): assert row["whole"]["n"] == (2000 if name in painted else 4000)


@pytest.mark.parametrize("script", [judge, margins])
@pytest.mark.parametrize("given, line", [("--captions 0", "a whole number, at least 1; got 0"), ("--captions 2 --seeds 0 1 2", "at least 3"),
                                         ("--from stickers", "of shapes"), ("--from {weights_stickers}", "of shapes"), ("--from {run}", "of shapes")])
def test_what_cannot_be_judged(script, given, line, tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text('{"book": "both"}')
    given = given.format(weights_stickers=data_folder("weights_stickers"), run=tmp_path)
    monkeypatch.setattr(sys, "argv", [script.__name__, *given.split()])
    with pytest.raises(SystemExit) as ended: script.main()
    assert ended.value.code == 2 and line in capsys.readouterr().err


def test_mud_has_a_row_too():
    scenes = Sketchbook(32).draw(3, torch.Generator().manual_seed(0), split="heldout")[2]
    found = margins.row(Critic(32), torch.zeros(3, 3, 32, 32), scenes)
    assert found["outline"] == dict(n=0) and "nan" in margins.table(dict(mud=found))
