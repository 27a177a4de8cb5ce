"""How a bad input is tried, and how its answer is judged.

A `Row` is one bad input. It is tried in a process of its own, a fork, with a limit of time and of memory, so
that a hang or a crash is an answer too and no row can spoil the next. The right answer is one clear line that
names what is wrong: `fault_of` says in a few words what else came.
"""

import contextlib
import gc
import importlib
import io
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import minidiff

PACKAGE = Path(minidiff.__file__).parent
LONGEST = 1000  # characters of a clear line
PATIENCE = 4  # how many times as long as it may work a row may take
MEMORY = 3 * 2**30  # bytes that a row may ask for, beyond what is there already
SLOW_IMPORTS = (
    "accelerate",
    "fastprogress.fastprogress",
    "matplotlib.pyplot",
    "torch._dynamo",
)
ERRORS = {"ValueError", "ConfigError", "LoadError"}  # what may be raised, by exact name


@dataclass(frozen=True)
class Row:
    "One bad input."

    id: str
    where: str  # the module that must answer
    call: Callable  # `call(bench)` tries it; what it returns was taken
    names: str  # a regular expression that the message must contain
    fine: Callable | None = (
        None  # `fine(result)`: "" where taking it is right, else what is wrong; None: never
    )
    seconds: float = 20  # of work; longer is a hang
    also: tuple = ()  # further errors that are right here


class Refused(ValueError):
    "What a command printed when it refused; as good as a raised ValueError."


def clear(folder):
    shutil.rmtree(folder, ignore_errors=True)


def attempt(row, bench):
    "Try a row here and now: what came of it, as a dictionary that JSON can carry."
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                result = row.call(bench)
                return dict(taken="silently" if row.fine is None else row.fine(result))
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [
            f"{Path(f.filename).stem}:{f.lineno}"
            for f in frames
            if Path(f.filename).parent == PACKAGE
        ]
        return dict(
            error=type(error).__name__, text=str(error), at=inside[-1] if inside else ""
        )


def _limit(seconds):
    "Let this process use so many seconds of a processor, and some more memory than it has."
    limit = math.ceil(seconds + time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))  # a signal that says so; then a kill
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # no Linux
    most = pages * resource.getpagesize() + MEMORY
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard)
    )


def try_row(row, bench):
    "Try a row in a fork, which may work for `row.seconds`; on a busy machine that takes longer."
    bench.new_folder()
    source, sink = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(source)
            os.setpgid(0, 0)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            torch.set_num_threads(1)
            gc.freeze()  # what came before the fork is nobody's garbage
            _limit(row.seconds)
            with os.fdopen(sink, "w") as out:
                json.dump(attempt(row, bench), out)
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    answer, end, status = b"", time.monotonic() + PATIENCE * row.seconds, 0
    try:
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                return dict(hang=row.seconds)
            part = os.read(source, 65536)
            if not part:
                break
            answer += part
    finally:
        os.close(source)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        bench.clear_folder()
    if answer:
        return json.loads(answer)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return dict(hang=row.seconds)
    return dict(error="a crash", text="the process died", at="")


def fault_of(row, answer, folder=""):
    "What is wrong with an answer; an empty text where nothing is."
    if "hang" in answer:
        return f"hang: no answer in {answer['hang']:g} s"
    if "taken" in answer:
        return answer["taken"] and f"taken: {answer['taken']}"
    text, kind = (
        answer["text"].replace(str(folder), "FOLDER") if folder else answer["text"]
    ), answer["error"]
    shown = f"{kind} at {answer['at']}: {' '.join(text.split())[:160]}"
    unknown = kind == "TypeError" and re.search(
        r"unexpected keyword argument|knows no '", text
    )
    if kind not in ERRORS | set(row.also) | {"Refused"} and not unknown:
        return f"bare {shown}"
    if kind in ERRORS and not answer["at"]:
        return f"raised outside of the package, so by the test itself: {shown}"
    if not re.search(row.names, text):
        return f"unnamed (wanted {row.names!r}): {shown}"
    if "\n" in text.strip() or len(text) > LONGEST:
        return f"not one clear line ({len(text)} characters): {shown}"
    return ""


def finite(result):
    "For `Row.fine`: right where all numbers of the result are finite."
    return (
        ""
        if all(bool(t.isfinite().all()) for t in tensors_of(result))
        else "the result is not finite"
    )


def spreads(result):
    "For `Row.fine`: right where NaN or inf went in and is seen in what comes out."
    found = tensors_of(result)
    return (
        ""
        if found and not all(bool(t.isfinite().all()) for t in found)
        else "NaN or inf went in, and nothing of it came out"
    )


def anything(result):
    "For `Row.fine`: taking it is right."
    return ""


def tensors_of(result):
    "All tensors (and numbers) in a result, however deep."
    if torch.is_tensor(result):
        return [
            (
                result.to_dense().float()
                if result.device.type != "meta"
                else result.new_zeros(0, device="cpu")
            )
        ]
    if isinstance(result, (int, float)):
        return [torch.tensor(float(result))]
    if isinstance(result, dict):
        return [t for v in result.values() for t in tensors_of(v)]
    if isinstance(result, (list, tuple)):
        return [t for v in result for t in tensors_of(v)]
    if hasattr(result, "parameters") and torch.is_tensor(result.parameters):
        return [result.parameters.float()]
    return []


class Bench:
    "What rows are tried on: a tiny pipeline in a folder and in memory, tiny models, and a folder for each row."

    def __init__(self, root):
        self.root, self.count = Path(root), 0
        self.source = self.root / "tiny"
        self.tmp = self.root
        torch.set_num_threads(1)
        for name in SLOW_IMPORTS:
            importlib.import_module(name)  # here, and not in every fork
        self.pipe = tiny_pipeline()
        self.pipe.save_pretrained(self.source)
        self.reference = self.paint(self.source)

    def new_folder(self):
        self.count += 1
        self.tmp = self.root / f"t{self.count}"
        self.tmp.mkdir()

    def clear_folder(self):
        clear(self.tmp)

    def copy(self):
        return Path(shutil.copytree(self.source, self.tmp / "copy"))

    def paint(self, folder=None, **more):
        "Two pictures from a folder, in two steps; (2, 3, 8, 8)."
        from minidiff.latent_diffusion import open_run

        pipe = self.pipe if folder is None else open_run(folder)
        settings = dict(
            num_inference_steps=2,
            guidance_scale=2.0,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        )
        return pipe(["a red circle", "a big blue square"], **{**settings, **more})

    def paint_(self, prompt, **more):
        "A picture of `prompt`, in two steps, by the pipeline in memory."
        return self.pipe(
            prompt, **{**dict(num_inference_steps=2, output_type="pt"), **more}
        )

    def command(self, which, *argv, out=None):
        "Run a command; what it printed where it went well, else `Refused`."
        command = find_command(which)
        said, printed = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(printed),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("default", category=UserWarning)
            try:
                code = command(list(argv))
            except SystemExit as stop:
                code = stop.code
        lines = [
            line
            for line in said.getvalue().splitlines()
            if not re.match(r"(note|warning): ", line)
        ]
        if "Traceback" in said.getvalue():
            raise RuntimeError("a traceback: " + said.getvalue()[-300:])
        if code in (0, None):
            if lines:
                raise RuntimeError(f"exit code 0, and yet it says: {lines[:3]}")
            return said.getvalue()
        if code == 2:
            lines = [
                re.sub(r"^minidiff_\w+: ", "", line)
                for line in lines
                if "error: " in line
            ]
        if code not in (1, 2):
            raise RuntimeError(f"exit code {code}: {lines[:3]}")
        if out is not None and Path(out).is_file():
            raise RuntimeError(f"refused, and yet it wrote {out}")
        if not lines or not lines[0].startswith("error: "):
            raise RuntimeError(f"exit code {code}, and no line 'error: ...'")
        raise Refused("\n".join(lines).removeprefix("error: "))

    def sample(self, *argv, prompt="a red circle", folder=None, out=None):
        "`minidiff_sample` on the tiny pipeline; two steps unless `--steps` is given."
        argv = [prompt] * (prompt is not None) + list(argv)
        if "--from" not in argv:
            argv += ["--from", str(folder or self.source)]
        if "--steps" not in argv:
            argv += ["--steps", "2"]
        out = self.tmp / "picture.png" if out is None else out
        if "--out" not in argv:
            argv += ["--out", str(out)]
        return self.command("sample_command", *argv, out=out)

    def train(self, *argv):
        "`minidiff_train --preset smoke`, with a preset smaller still."
        from minidiff import latent_diffusion

        latent_diffusion.PRESETS["smoke"] = tiny_preset()
        argv = list(argv)
        if "--preset" not in argv:
            argv += ["--preset", "smoke"]
        if not any(part.startswith("--out") for part in argv):
            argv += ["--out", str(self.tmp / "run")]
        return self.command("train_command", *argv)


def find_command(name):
    "A command, wherever it lives."
    for module in ("latent_diffusion", "terminal", "cli"):
        try:
            return getattr(importlib.import_module(f"minidiff.{module}"), name)
        except (ImportError, AttributeError):
            pass
    raise LookupError(name)


def tiny_pipeline():
    "Five parts, each as small as it can be, and all with random weights; it paints 8 x 8 pixels."
    from minidiff.pipeline import LatentDiffusionPipeline
    from minidiff.samplers import DPMSolverMultistepScheduler
    from minidiff.sd_unet import UNet2DConditionModel
    from minidiff.text_encoder import CLIPTextModel
    from minidiff.tokenizer import CLIPTokenizer, train_bpe
    from minidiff.vae import small_vae

    texts = ["a big red circle above a small blue square"] * 3
    tokenizer = CLIPTokenizer(*train_bpe(texts, 600), model_max_length=16)
    torch.manual_seed(0)
    text = CLIPTextModel(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = small_vae(size=8, widths=(8, 8), groups=4)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing"
    )
    return LatentDiffusionPipeline(
        vae, text, tokenizer, UNet2DConditionModel(**UNET), scheduler
    )


UNET = dict(
    sample_size=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=8,
    attention_head_dim=2,
)


def tiny_preset(**more):
    "The smoke preset in some seconds less."
    from dataclasses import replace
    from minidiff.latent_diffusion import PRESETS

    smoke = PRESETS["smoke"]
    shorter = lambda training: {**training, "steps": 2}
    return replace(
        smoke,
        pictures=16,
        captions=4,
        steps=2,
        vae_training=shorter(smoke.vae_training),
        text_training=shorter(smoke.text_training),
        unet_training=shorter(smoke.unet_training),
        **more,
    )
