"""The options `--long` and `-m full_size`, and a smoke run and a small pipeline that several files share."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long runs, too: fuzzing and kills")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")
    config.addinivalue_line("markers", "full_size: Stable Diffusion 1.5 at full size, about 8 GB of memory and 5 of disk; runs with -m full_size only")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("full_size") and "full_size" not in config.getoption("-m"):
            item.add_marker(pytest.mark.skip(reason="full_size: 4.3 GB of weights, minutes; runs with -m full_size only"))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="long: runs with --long only"))


def environment():
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}


def train(out, *more, **options):
    command = [str(BIN / "minidiff_train"), "--preset", "smoke", "--device", "cpu", "--out", str(out), *map(str, more)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600, **options)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "smoke"
    done = train(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `real`, a small pipeline that diffusers has saved."""
    from test_pipeline import real_pipeline
    folder = tmp_path_factory.mktemp("pipe")
    real_pipeline(folder).save_pretrained(folder / "real")
    return folder


@pytest.fixture
def ours(folder):
    """That pipeline, opened in ours."""
    from minidiff.pipeline import LatentDiffusionPipeline
    return LatentDiffusionPipeline.from_pretrained(folder / "real")
