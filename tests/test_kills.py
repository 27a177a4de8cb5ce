"""Runs that are killed: `kill -9` and SIGTERM at random moments and in the middle of saves. All are long: pytest --long."""
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minidiff.checks import LoadError
from minidiff.files import load_metadata

STAGES = ("vae", "text", "unet")


def command(out, seed):
    """What a child does: the command, with nothing to say."""
    from minidiff.cli import train_command
    torch.set_num_threads(1)
    silence = open(os.devnull, "w")
    os.dup2(silence.fileno(), 1)
    os.dup2(silence.fileno(), 2)
    sys.exit(train_command(["--preset", "smoke", "--device", "cpu", "--out", str(out), "--resume", "--seed", str(seed)]))


@pytest.fixture(scope="module")
def start():
    """Starts a run in a process that has imported everything already."""
    os.environ |= dict(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minidiff.cli", "accelerate", "matplotlib.figure"])

    def start(out, seed=0):
        process = context.Process(target=command, args=(out, seed))
        process.start()
        return process
    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """Two undisturbed runs, with different seeds."""
    folder = tmp_path_factory.mktemp("finished")
    for seed in (0, 1):
        process = start(folder / str(seed), seed)
        process.join(600)
        assert process.exitcode == 0
    return folder


def weights(pipeline):
    return {f"{path.parent.name}/{name}": tensor for path in sorted(Path(pipeline).rglob("*.safetensors"))
            for name, tensor in load_file(path).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def progress(out):
    """The step of the newest whole checkpoint of each stage."""
    steps = dict.fromkeys(STAGES, 0)
    for stage in STAGES:
        for kind in ("", ".previous", ".new"):
            try:
                header = load_metadata(out / "checkpoints" / f"{stage}.checkpoint{kind}.safetensors")
            except LoadError:
                continue
            steps[stage] = max(steps[stage], json.loads(header["minidiff"])["step"])
    return steps


def where(out):
    """What a killed run was at: a stage, or the end."""
    ends = dict(vae=30, text=20, unet=40)
    return next((stage for stage, step in progress(out).items() if step < ends[stage]), "end")


def half_written(out):
    return [*out.rglob("*.tmp"), *out.rglob("*.new.safetensors"), *out.rglob(".saving-*")]


PLAN = ("vae", "text", "unet", "end", "vae", "text", "unet", "end", "unet")


def pick_moment(process, out, chance, target):
    """Wait until a stage begins, and from there for a random moment or for the next save; then some microseconds."""
    def begun(stage):
        lock = out / "checkpoints" / f".{stage}.lock"
        return lock.stat().st_mtime_ns if lock.exists() else 0

    stage = "unet" if target == "end" else target
    before = begun(stage)
    while process.is_alive() and (begun(stage) == before or target == "end" and where(out) != "end"):
        time.sleep(0.002)
    until, in_a_save = time.perf_counter() + chance.random() * 0.8, chance.random() < 0.5
    while process.is_alive() and time.perf_counter() < until:
        time.sleep(0.001)
    while in_a_save and process.is_alive() and not half_written(out):
        pass
    time.sleep(chance.random() ** 3 * 0.01)


@pytest.mark.long
@pytest.mark.parametrize("old", [False, True], ids=["fresh", "over an old pipeline"])
@pytest.mark.parametrize("how, times", [("kill", 15), ("terminate", 5)])
def test_killed_at_random_and_resumed(how, times, old, start, finished, tmp_path):
    """Every folder ends up as if nobody had been killed, no checkpoint goes back, and no pipeline is a mixture of two."""
    folder, chance = finished, random.Random(f"{how} {old}")
    expected, other = weights(folder / "0" / "pipeline"), weights(folder / "1" / "pipeline")
    kills, in_saves, met, runs = 0, 0, dict.fromkeys((*STAGES, "end"), 0), 0
    while kills < times or runs == 0:
        out, over = tmp_path / str(runs), False
        out.mkdir()
        plan = iter(PLAN)
        while True:
            before = progress(out)
            process, target = start(out), next(plan, None) if kills < times else None
            if target:
                pick_moment(process, out, chance, target)
            else:
                process.join(600)
            if process.is_alive():
                getattr(process, how)()
                process.join(60)
                if process.exitcode == 0:
                    break
                assert process.exitcode in ((-9,) if how == "kill" else (130, 143)), process.exitcode
                kills, in_saves = kills + 1, in_saves + bool(half_written(out))
                met[where(out)] += 1
            else:
                process.join()
                assert process.exitcode == 0
                break
            after = progress(out)
            assert all(after[stage] >= before[stage] for stage in STAGES), (before, after)
            if how == "terminate":
                assert not [*out.rglob("*.tmp"), *out.rglob(".saving-*")], "a clean end leaves nothing half written"
            if old and not over and any(after.values()):
                over = bool(shutil.copytree(folder / "1" / "pipeline", out / "pipeline", dirs_exist_ok=True))
            if (out / "pipeline" / "model_index.json").exists():
                got = weights(out / "pipeline")
                assert same(got, expected) or same(got, other), "the pipeline is a mixture"
        assert same(weights(out / "pipeline"), expected), f"run {runs} is not what it should be"
        assert not half_written(out) and (out / "results.json").is_file() and (out / "captions.png").is_file()
        shutil.rmtree(out)
        runs += 1
    print(f"\n{kills} x {how} in {runs} runs: {met}, {in_saves} in the middle of a save")


@pytest.mark.long
def test_killed_in_every_save_of_the_end(start, finished, tmp_path):
    """A run that is finished is finished once more: each time it is killed a little later while it saves."""
    folder = finished
    out = shutil.copytree(folder / "0", tmp_path / "run")
    expected, kills, chance = weights(out / "pipeline"), 0, random.Random(0)
    lock = out / "checkpoints" / ".unet.lock"
    for i in range(10):
        before = lock.stat().st_mtime_ns
        process = start(out)
        while process.is_alive() and (lock.stat().st_mtime_ns == before or not half_written(out)):
            time.sleep(0.0005)
        time.sleep((i + chance.random()) * 0.02)
        process.kill()
        process.join()
        kills += process.exitcode == -9
        if (out / "pipeline" / "model_index.json").exists():
            assert same(weights(out / "pipeline"), expected)
    process = start(out)
    process.join(600)
    assert process.exitcode == 0 and same(weights(out / "pipeline"), expected) and not half_written(out)
    assert kills > 3
    print(f"\n{kills} kills in the saves of the end")
