"""Bad inputs: each is answered by one clear line that names what is wrong. See `faults.py` for how that is judged.

`make test` tries some of each family of `fault_rows.py`; `pytest tests/test_faults.py --long` tries them all.
"""

import os
import zlib

import pytest

pytest.importorskip("resource", reason="limits of memory need Unix")

import torch
from fault_rows import FAMILIES, families, tensor_calls
from faults import Bench, Row, Refused, anything, fault_of, finite, spreads, try_row

EACH = 12  # rows of a family in the short run


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("q"))


@pytest.fixture(scope="session")
def table(bench):
    return families(bench)


def fault(row, bench):
    return fault_of(row, try_row(row, bench), bench.root)


def chosen(rows):
    "The same few of a family every time, spread over it."
    return sorted(
        rows, key=lambda row: zlib.crc32(row.id.encode("utf-8", "surrogatepass"))
    )[:EACH]


@pytest.mark.parametrize("k", range(EACH))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bad_input_is_answered_in_one_clear_line(bench, table, family, k):
    row = chosen(table[family])[k]
    found = fault(row, bench)
    assert not found, f"{row.id}\n    {found}"


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_every_bad_input_is_answered_in_one_clear_line(bench, table, family):
    faults = {row.id: found for row in table[family] if (found := fault(row, bench))}
    lines = "\n".join(f"{name}\n    {found}" for name, found in faults.items())
    assert not faults, f"{len(faults)} of {len(table[family])} rows:\n{lines}"


# --- does the table see what it should see? --------------------------------------------------------------------------
def _raise(error):
    def call(bench):
        from minidiff.checks import one_of  # an error must come out of the package: here it passes through a check

        class Wrong:
            def __eq__(self, other):
                raise error

        one_of("key", Wrong(), Wrong())

    return call


def _forever(bench):
    while True:
        pass


def _asleep(bench):
    import time

    time.sleep(60)


LINE = ValueError("steps is a whole number, at least 1; got 0")


@pytest.mark.parametrize(
    "call, fine, seen",
    [
        (_raise(LINE), None, ""),
        (lambda b: b.sample("--steps", "x"), None, ""),
        (lambda b: 5, anything, ""),
        (lambda b: 5, None, "taken: silently"),
        (
            lambda b: torch.tensor(float("nan")),
            finite,
            "taken: the result is not finite",
        ),
        (lambda b: torch.zeros(1), spreads, "taken: NaN or inf went in"),
        (_raise(KeyError("steps")), None, "bare KeyError"),
        (_raise(TypeError("steps must be an int")), None, "bare TypeError"),
        (
            _raise(TypeError("object of type 'steps' has no len()")),
            None,
            "bare TypeError",
        ),
        (_raise(TypeError("f() got an unexpected keyword argument 'steps'")), None, ""),
        (
            _raise(TypeError("f() got an unexpected keyword argument 'colour'")),
            None,
            "unnamed",
        ),
        (_raise(RecursionError("steps")), None, "bare RecursionError"),
        (_raise(OSError("steps")), None, "bare OSError"),
        (_raise(UnicodeError("steps")), None, "bare UnicodeError"),
        (_raise(SystemExit("steps")), None, "bare SystemExit"),
        (_raise(ValueError("the number is wrong")), None, "unnamed"),
        (_raise(ValueError("steps\nis wrong")), None, "not one clear line"),
        (_raise(ValueError("steps" * 300)), None, "not one clear line"),
        (lambda b: int("steps"), None, "raised outside of the package"),
        (_forever, None, "hang"),
        (_asleep, None, "hang"),
        (lambda b: bytearray(2**40), None, "bare MemoryError"),
        (lambda b: torch.zeros(2**40), None, "bare RuntimeError"),
        (lambda b: os._exit(0), None, "bare a crash"),
        (lambda b: os.kill(os.getpid(), 9), None, "bare a crash"),
    ],
)
def test_the_table_sees(bench, call, fine, seen):
    found = fault(Row("self-test", "hub", call, "steps", fine, seconds=1), bench)
    assert found.startswith(seen) if seen else found == "", found


def _command(code, text="", out=None):
    "A stand-in for a command."
    import sys

    def command(argv):
        print(text, file=sys.stderr, end="")
        if out:
            (argv[-1].parent / out).write_text("x")
        if isinstance(code, BaseException):
            raise code
        return code

    return command


@pytest.mark.parametrize(
    "code, text, seen",
    [
        (1, "error: steps must be 1\n", ""),
        (1, "note: so it is\nerror: steps must be 1\n", ""),
        (
            SystemExit(2),
            "usage: minidiff_sample [--n N]\nminidiff_sample: error: --steps must be 1\n",
            "",
        ),
        (0, "", "taken: silently"),
        (None, "note: steps\n", "taken: silently"),
        (0, "error: steps\n", "bare RuntimeError"),
        (1, "", "bare RuntimeError"),
        (3, "error: steps\n", "bare RuntimeError"),
        (1, "steps is wrong\n", "bare RuntimeError"),
        (1, "error: steps\nand more\n", "not one clear line"),
        (1, "error: wrong\n", "unnamed"),
        (1, "Traceback (most recent call last):\nerror: steps\n", "bare RuntimeError"),
        (KeyError("steps"), "", "bare KeyError"),
        (BrokenPipeError("steps"), "", "bare BrokenPipeError"),
    ],
)
def test_the_table_sees_what_a_command_does(bench, monkeypatch, code, text, seen):
    monkeypatch.setattr("faults.find_command", lambda name: _command(code, text))
    found = fault(
        Row("self-test", "commands", lambda b: b.sample(), "steps", seconds=5), bench
    )
    assert found.startswith(seen) if seen else found == "", found


def test_a_row_cannot_spoil_the_next(bench):
    def spoil(b):
        b.pipe.unet = None
        torch.manual_seed(5)
        os.chdir("/")
        return 1.0

    state, folder = torch.get_rng_state(), os.getcwd()
    assert fault(Row("self-test", "hub", spoil, ".", finite), bench) == ""
    assert (
        bench.pipe.unet is not None
        and os.getcwd() == folder
        and torch.equal(state, torch.get_rng_state())
    )


def test_good_inputs_are_taken(bench):
    "Else a row could be refused for what is wrong with the row."
    from fault_rows import _painted_same, _state, _trainer
    from faults import tiny_preset
    from minidiff.latent_diffusion import Job

    good = {
        f"{name}()": lambda b, f=f, g=g: f(**g)
        for name, (_, f, g, _) in tensor_calls(bench).items()
    }
    good["a pipeline"] = lambda b: b.paint_("a red circle")
    good["a trainer"] = lambda b: _state(_trainer(b).fit())
    good["a job"] = (
        lambda b: Job(tiny_preset(), b.tmp / "run", device="cpu", show_bar=False).run()
        and 1.0
    )
    good["minidiff_sample"] = lambda b: float(b.sample() == "")
    good["minidiff_train"] = lambda b: float(b.train() == "")
    rows = [
        Row(name, "", call, "$^", finite, seconds=60) for name, call in good.items()
    ]
    rows.append(
        Row("a folder", "", lambda b: b.paint(b.copy()), "$^", _painted_same(bench))
    )
    faults = {row.id: found for row in rows if (found := fault(row, bench))}
    assert not faults, faults


def test_the_table_is_large_and_its_rows_differ(table):
    ids = [row.id for rows in table.values() for row in rows]
    assert (
        len(ids) > 5000
        and len(set(ids)) == len(ids)
        and min(map(len, table.values())) >= 4 * EACH
    )
