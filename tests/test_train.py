"""The training command: what it leaves behind, being killed, several processes."""
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import torch
from conftest import BIN, environment, train
from safetensors.torch import load_file


def weights(run):
    return {f"{path.parent.name}/{name}": tensor for path in sorted((Path(run) / "pipeline").rglob("*.safetensors")) for name, tensor in load_file(path).items()}


def test_leaves_grid_numbers_and_pipeline(smoke_run):
    results = json.loads((smoke_run / "results.json").read_text())
    for key in ("one_object", "two_objects"):
        assert 0 <= results["accuracy"][key]["whole"] <= 1
    assert {"vae", "text", "unet"} <= results["seconds"].keys() and all(results["parameters"][k] > 0 for k in ("vae", "text", "unet"))
    assert (smoke_run / "captions.png").read_bytes()[:4] == b"\x89PNG"
    assert (smoke_run / "preview.png").read_bytes()[:4] == b"\x89PNG"
    assert (smoke_run / "pipeline" / "model_index.json").is_file()


def test_same_seed_same_weights_other_seed_other_weights(smoke_run, tmp_path):
    again = train(tmp_path / "other", "--seed", 1)
    assert again.returncode == 0, again.stderr
    first, second = weights(smoke_run), weights(tmp_path / "other")
    assert first.keys() == second.keys() and any(not torch.equal(first[k], second[k]) for k in first)


def test_killed_at_any_moment_and_resumed(smoke_run, tmp_path):
    """Kill the run in each of its stages, each time a moment after the stage saved something (or began to), then let it through: the weights are the same, bit for bit."""
    out, chance = tmp_path / "killed", random.Random(0)
    command = [str(BIN / "minidiff_train"), "--preset", "smoke", "--device", "cpu", "--out", str(out), "--resume"]

    def saved(stage):
        path = out / "checkpoints" / f"{stage}.checkpoint.safetensors"
        return path.stat().st_mtime_ns if path.exists() else 0

    for stage in ("vae", "vae", "text", "text", "unet", "unet", "unet"):
        before = saved(stage)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        while process.poll() is None and saved(stage) == before:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)
        assert process.poll() is None, f"it ended by itself before it was killed in stage {stage}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = train(out, "--resume")
    assert done.returncode == 0, done.stderr
    expected, got = weights(smoke_run), weights(out)
    assert expected.keys() == got.keys()
    assert [k for k in expected if not torch.equal(expected[k], got[k])] == []


def test_resume_with_other_settings_is_refused(smoke_run):
    done = train(smoke_run, "--resume", "--seed", 5)
    assert done.returncode == 1 and "seed=0" in done.stderr and "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_two_processes_do_what_one_does(smoke_run, tmp_path):
    out = tmp_path / "two"
    command = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "2", "--mixed_precision", "no", "--num_machines", "1", "--dynamo_backend", "no",
               "--main_process_port", "0", "-m", "minidiff.latent_diffusion", "--preset", "smoke", "--device", "cpu", "--out", str(out)]
    start = time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    expected, got = weights(smoke_run), weights(out)
    gaps = {k: (expected[k] - got[k]).abs().max().item() for k in expected}
    assert max(gaps.values()) < 2e-3, sorted(gaps.items(), key=lambda kv: -kv[1])[:5]
    print(f"{time.time() - start:.0f} s, largest gap {max(gaps.values()):.1e}")
