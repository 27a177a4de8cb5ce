"""The two commands: every option, stream and interruption is answered in one line."""
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from conftest import BIN, environment, train
from PIL import Image

from minidiff import cli, latent_diffusion
from minidiff.cli import sample_command, train_command, unknown_words
from minidiff.checks import LoadError
from minidiff.latent_diffusion import open_run


def one_line(capsys, code, command, *argv):
    """Run a command that must fail; its line."""
    assert command([str(a) for a in argv]) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed
    return printed.err


def sample(capsys, code, *argv):
    return one_line(capsys, code, sample_command, "a red circle", *argv)


# ------------------------------------------------------------------------------------------ options

@pytest.mark.parametrize("option", ["--n 0", "--n -1", "--n many", "--n 1.5", "--n 1000000", "--n nan", "--n [1]", "--steps 0", "--steps x", "--steps 1e400", "--scale nan", "--scale inf", "--scale much",
                                    "--seed -1", f"--seed {2**64}", "--seed 1.5", "--seed x", "--enlarge 0", "--enlarge -3", "--enlarge 0.5", "--enlarge big"])
def test_a_bad_number_names_its_option(capsys, tmp_path, option):
    name, value = option.split()
    said = sample(capsys, 2, f"{name}={value}", "--out", tmp_path / "x.png")
    assert f"argument {name}: " in said and "--help" in said and "inference" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--preset big", "--device tpu", "--seed -1", "--seed x", f"--seed {2**32}"])
def test_bad_options_of_training(capsys, tmp_path, option):
    name, value = option.split()
    assert f"argument {name}: " in one_line(capsys, 2, train_command, f"{name}={value}", "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes_of_the_command_line(capsys):
    assert "required: prompt" in one_line(capsys, 2, sample_command)
    assert "--colour" in sample(capsys, 2, "--colour", "red") and "--colour" in one_line(capsys, 2, train_command, "--colour", "red")
    assert "--out" in sample(capsys, 2, "--out") and "--out" in one_line(capsys, 2, train_command, "--out")


def test_more_steps_than_the_model_was_trained_with(capsys, tmp_path):
    assert "--steps is a whole number from 1 to 1000; got 3000" in sample(capsys, 1, "--steps", 3000, "--out", tmp_path / "x.png")


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_numbers_that_are_fine(capsys, tmp_path, seed):
    out = tmp_path / "new" / "x.png"
    assert sample_command(["a red circle", "--n", "1e1", "--steps", "2.0", "--scale", "-1", "--seed", str(seed), "--enlarge", "1", "--negative", "a star", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n" and Image.open(out).size == (8 * 34 + 2, 2 * 34 + 2)


@pytest.mark.parametrize("command", [sample_command, train_command])
def test_help_is_no_error(capsys, command):
    with pytest.raises(SystemExit) as end:
        command(["--help"])
    assert end.value.code == 0 and "--debug" in capsys.readouterr().out


# -------------------------------------------------------------------------------- errors of any kind

@pytest.mark.parametrize("error, code, said", [
    (RecursionError("deep"), 1, "RecursionError: deep; --debug"), (KeyError("a"), 1, "KeyError: 'a'; --debug"), (MemoryError(), 1, "memory; try a smaller --n"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory:\n you tried"), 1, "memory; try a smaller --n"), (torch.OutOfMemoryError("CUDA"), 1, "memory; try a smaller --n"), (UserWarning("loud"), 1, "UserWarning: loud"),
    (ValueError("two\nlines"), 1, "error: two lines\n"), (ValueError(), 1, "ValueError: ; --debug"), (OSError(28, "No space left"), 1, "No space left"), (AssertionError(), 1, "AssertionError"), (KeyboardInterrupt(), 130, "stopped; no picture"),
])
def test_every_kind_of_error_is_one_line(capsys, monkeypatch, tmp_path, error, code, said):
    def fail(*_, **__): raise error
    monkeypatch.setattr(cli, "open_run", fail)
    line = sample(capsys, code, "--out", tmp_path / "x.png")
    assert said in line and "--resume" not in line
    assert sample_command(["a red circle", "--debug"]) == code
    printed = capsys.readouterr().err
    assert "Traceback" in printed and printed.splitlines()[-1] + "\n" == line


@pytest.mark.parametrize("error, code, said", [(KeyboardInterrupt(), 130, "stopped; the same command with --resume goes on"), (MemoryError(), 1, "memory; try a smaller --preset"), (KeyError("step"), 1, "KeyError: 'step'; --debug")])
def test_training_too(capsys, monkeypatch, tmp_path, error, code, said):
    def fail(*_, **__): raise error
    monkeypatch.setattr(latent_diffusion.Job, "run", fail)
    assert said in one_line(capsys, code, train_command, "--preset", "smoke", "--device", "cpu", "--out", tmp_path)


def test_warnings_of_libraries_do_not_spoil_the_line(capsys, monkeypatch):
    def fail(*_, **__):
        warnings.warn("soon gone", FutureWarning)
        warnings.warn("soon gone", DeprecationWarning)
        torch.nn.init.normal_(torch.empty(0))  # "a no-op", says torch
        raise ValueError("no")
    monkeypatch.setattr(cli, "open_run", fail)
    before = warnings.showwarning
    assert sample(capsys, 1) == "error: no\n"
    assert warnings.showwarning is before


def test_a_command_leaves_the_python_it_runs_in_alone(capsys, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    assert sample_command(["a red circle", "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    assert signal.getsignal(signal.SIGTERM) is handler
    codes = []
    thread = threading.Thread(target=lambda: codes.append(sample_command(["a red circle", "--steps", "1", "--out", str(tmp_path / "x.png")])))
    thread.start(), thread.join()
    assert codes == [0]


# ------------------------------------------------------------------------------------------- --out

@pytest.mark.parametrize("name", ["picture", "picture.txt", "picture.xbm", "picture.hdf", "."])
def test_a_kind_that_cannot_be_written_is_found_before_painting(capsys, monkeypatch, tmp_path, name):
    monkeypatch.setattr(latent_diffusion.LatentDiffusionPipeline, "__call__", lambda *_, **__: pytest.fail("it painted"))
    said = sample(capsys, 1, "--out", tmp_path / name)
    assert "--out: " in said and ".png" in said and list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(latent_diffusion.LatentDiffusionPipeline, "__call__", lambda *_, **__: pytest.fail("it painted"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert "folder.png is a folder" in sample(capsys, 1, "--out", tmp_path / "folder.png")
    for place in (tmp_path / "file", "/proc/none", "/dev/null/none"):
        assert f"nothing can be written into {place}" in sample(capsys, 1, "--out", f"{place}/x.png")
        assert f"nothing can be written into {place}" in one_line(capsys, 1, train_command, "--out", place)


@pytest.mark.parametrize("options", ["--enlarge 10000", "--n 10000", "--n 10000 --enlarge 2", f"--enlarge {10**30}"])
def test_pictures_of_a_foolish_size_are_refused_at_once(capsys, monkeypatch, tmp_path, options):
    monkeypatch.setattr(latent_diffusion.LatentDiffusionPipeline, "start_latents", lambda *_, **__: pytest.fail("it began"))
    assert "too large" in sample(capsys, 1, *options.split(), "--out", tmp_path / "x.png")


@pytest.mark.parametrize("ending", ["png", "PNG", "jpg", "webp", "gif", "bmp", "tif"])
def test_kinds_of_pictures(tmp_path, ending):
    out = tmp_path / f"x.{ending}"
    assert sample_command(["a red circle", "--steps", "1", "--out", str(out)]) == 0
    assert Image.open(out).size == (288, 288) and [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("moment", ["painting", "writing"])
def test_the_old_picture_stays_until_the_new_one_is_whole(capsys, monkeypatch, tmp_path, moment):
    out = tmp_path / "x.png"
    out.write_text("old")
    def fail(self, path, *_, **__):
        if moment == "writing" and not hasattr(path, "getvalue"):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return save(self, path, *_, **__)
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", fail)
    if moment == "painting": monkeypatch.setattr(latent_diffusion.LatentDiffusionPipeline, "__call__", lambda *_, **__: torch.full((1, 3, 32, 32), float("nan")))
    said = sample(capsys, 1, "--steps", 1, "--out", out)
    assert ("No space left" if moment == "writing" else "NaN") in said
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_the_picture_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try: assert sample_command(["a red circle", "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    finally: os.umask(before)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o640


# -------------------------------------------------------------------------------- prompts and batches

@pytest.mark.parametrize("prompt, note", [
    ("🦓", "'🦓'"), ("红", "'红'"), ("a red zebra " * 50, "'zebra'"), (" \t\n", "empty"), ("zig zag zog zug zeg zeb", "and 1 more"), ("a red \udcff circle", "vocabulary"), ("a \ud800", "vocabulary"), ("a red\x00circle", None), ("!?", None),
])
def test_odd_prompts(capsys, tmp_path, prompt, note):
    assert sample_command([prompt, "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: cut")]
    assert len(notes) == (note is not None) and all(note in line and len(line) < 300 for line in notes), notes


def test_a_thousand_special_tokens(capsys, tmp_path):
    assert sample_command(["<|endoftext|>" * 1000, "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    assert "vocabulary" not in capsys.readouterr().err


def test_unknown_words():
    tokenizer = open_run().tokenizer
    assert unknown_words(tokenizer, "A big red circle, above 2 zebras!<|endoftext|>") == ["zebras"]


def test_many_pictures_are_painted_in_parts_and_begin_alike(monkeypatch, tmp_path):
    sizes, call = [], latent_diffusion.LatentDiffusionPipeline.__call__
    def count(self, prompts, *more, **options):
        sizes.append(len(prompts))
        return call(self, prompts, *more, **options)
    monkeypatch.setattr(latent_diffusion.LatentDiffusionPipeline, "__call__", count)
    pictures = {}
    for n in (2, 200):
        out = tmp_path / f"{n}.png"
        assert sample_command(["a red circle", "--n", str(n), "--steps", "1", "--enlarge", "1", "--out", str(out)]) == 0
        pictures[n] = torch.tensor(list(Image.open(out).crop((2, 2, 68, 34)).tobytes())).int()
    assert sizes == [2, 128, 72] and (pictures[2] - pictures[200]).abs().max() <= 1


def test_one_part_is_what_it_was(tmp_path):
    """At most 128 pictures are one batch, and their noise comes from one generator."""
    from minidiff.plots import image_grid
    assert sample_command(["a red circle", "--n", "9", "--steps", "2", "--seed", "5", "--enlarge", "2", "--out", str(tmp_path / "x.png")]) == 0
    images = open_run()(["a red circle"] * 9, num_inference_steps=2, guidance_scale=2.0, generator=torch.Generator().manual_seed(5), output_type="pt")
    assert Image.open(tmp_path / "x.png").tobytes() == image_grid(images, ncols=8, upscale=2).tobytes()


# ------------------------------------------------------------------------------------------ folders

def test_a_name_with_a_slash_is_a_folder(capsys, monkeypatch, tmp_path):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("it asked the Hub"))
    monkeypatch.chdir(tmp_path)
    assert "there is no folder owner/name" in (said := sample(capsys, 1, "--from", "owner/name")) and "hub:owner/name" in said
    with pytest.raises(LoadError, match="no folder owner/name"): open_run("owner/name")
    shutil.copytree(Path(latent_diffusion.__file__).parent / "data" / "weights", tmp_path / "owner" / "name")
    assert open_run("owner/name").unet is not None


def test_hub_ids_stay_as_they_are(monkeypatch):
    asked = []
    monkeypatch.setattr(latent_diffusion.LatentDiffusionPipeline, "from_pretrained", lambda name, **options: asked.append(name))
    open_run("hub:owner/name")
    assert asked == ["hub:owner/name"]


def test_an_unfinished_run_says_how_to_finish_it(capsys, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert f"minidiff_train --resume --out {tmp_path}/run" in sample(capsys, 1, "--from", tmp_path / "run")


# ----------------------------------------------------------------------- the commands as processes

def started(*argv, shell_end="", **more):
    command = " ".join([f"exec '{BIN}/minidiff_sample' 'a red circle' --steps 1", *argv, shell_end])
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**environment(), **more}, timeout=120)


def test_closed_streams(tmp_path):
    out = f"--out {tmp_path}/x.png"
    done = started(out, shell_end=">&-")
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "x.png").is_file()
    done = started(out, shell_end="2>&-")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/x.png\n")
    done = started(out, "--n 0", shell_end="2>&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert started(out, shell_end="<&- >&- 2>&-").returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_below_stdout(tmp_path):
    done = started(f"--out {tmp_path}/x.png", shell_end="> /dev/full")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_reader_that_went_away(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([str(BIN / "minidiff_sample"), "a red circle", "--steps", "1", "--out", str(tmp_path / "x.png")], stdout=write, stderr=subprocess.PIPE, text=True, env=environment(), timeout=120)
    os.close(write)
    assert done.returncode == 1 and "Broken pipe" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_terminal_that_knows_no_accents(tmp_path):
    done = started("--negative é", f"--out {tmp_path}/é.png", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.endswith("\\xe9.png\n"), done
    done = started(f"--out {tmp_path}/$'\\xff'.png", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0 and done.stderr == "", done.stderr


def as_module(*argv, **options):
    return subprocess.run([sys.executable, "-m", "minidiff", *argv], capture_output=True, text=True, env=environment(), timeout=120, **options)


def test_python_m_minidiff_says_what_there_is():
    for argv in ((), ("paint",), ("--colour",)):
        done = as_module(*argv)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 2, done
        assert "minidiff train" in done.stderr and "minidiff sample" in done.stderr
    done = as_module("--help")
    assert done.returncode == 0 and done.stderr == "" and "minidiff train" in done.stdout


def test_python_m_minidiff_is_the_two_commands(tmp_path):
    done = as_module("sample", "a red circle", "--steps", "1", "--out", f"{tmp_path}/x.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/x.png\n", "") and (tmp_path / "x.png").is_file()
    done = as_module("sample", "a red circle", "--n", "0")
    assert done.returncode == 2 and done.stderr.startswith("error: argument --n: ") and done.stderr.count("\n") == 1
    done = as_module("train", "--preset", "big")
    assert done.returncode == 2 and "argument --preset" in done.stderr and done.stderr.count("\n") == 1
    assert "--resume" in as_module("train", "--help").stdout


def listens():
    """In a child process: hear Ctrl-C, even where the tests were started in the background and so told not to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_painting(tmp_path, number):
    code = ("import minidiff.cli as l, os, sys\n"
            f"def slow(*_, **__): os.kill(os.getpid(), {int(number)}); import time; time.sleep(60)\n"
            f"l._paint = slow; sys.argv = ['minidiff_sample', 'a red circle', '--out', '{tmp_path}/x.png']\n"
            "sys.exit(l.sample_command())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60, preexec_fn=listens)
    assert (done.returncode, done.stderr) == (130, "error: stopped; no picture was written\n") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training(tmp_path, number):
    command = [str(BIN / "minidiff_train"), "--preset", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=listens)
    while process.poll() is None and not list(tmp_path.glob("checkpoints/*.safetensors")): time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, 128 + number) and said == "error: stopped; the same command with --resume goes on\n", said


def test_resume_goes_on_in_a_finished_folder_too(smoke_run, tmp_path):
    """`make train` always passes --resume."""
    run = shutil.copytree(smoke_run, tmp_path / "run")
    done = train(run, "--resume")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for file in (smoke_run / "pipeline").rglob("*.safetensors"):
        assert file.read_bytes() == (run / file.relative_to(smoke_run)).read_bytes()


def test_a_forgotten_resume_deletes_nothing(smoke_run, tmp_path):
    run = shutil.copytree(smoke_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = train(run)
    assert done.returncode == 1 and "--resume" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
