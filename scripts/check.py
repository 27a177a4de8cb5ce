"""What `make test` runs: is the tree in step with its notebooks, is their code laid out well, do all run, do the tests pass?"""
import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin_dir = Path(sys.executable).parent


def run(*command, **env):
    print("\n$", *command, flush=True)
    start = time.perf_counter()
    code = subprocess.run([str(part) for part in command], cwd=root, env={**os.environ, **env}).returncode
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    return code


def fingerprints():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True).stdout
    paths = [root / name for name in listed.decode().split("\0") if name]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def in_step():
    """Exporting and cleaning the notebooks, and making the README and the site's sidebar, must change nothing."""
    before = fingerprints()
    for command in ([bin_dir / "nbdev_export"], [bin_dir / "nbdev_clean"], [sys.executable, "scripts/readme.py"], [sys.executable, "scripts/sidebar.py"]):
        if run(*command):
            return False
    after = fingerprints()
    changed = sorted(str(path.relative_to(root)) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        print("not in step with the notebooks (export, clean, commit):", *changed, sep="\n  ")
    return not changed


def tests(lots=8):
    """All tests, in lots of files side by side, one processor thread each; a lot is told when it has ended. Returns 0 where all passed."""
    start, found, workers = time.perf_counter(), Counter(), os.cpu_count() or 1
    files = sorted((root / "tests").glob("test_*.py"))
    def one(lot):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *map(str, lot)]
        done = subprocess.run(command, cwd=root, env={"OMP_NUM_THREADS": "1", **os.environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, flush=True)
        last = re.findall(r"^=*\s*(\d+ [a-z].* in [0-9.]+s.*)$", done.stdout, re.M)
        found.update({kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)", last[-1] if last else "")})
        return done.returncode
    print(f"\n$ pytest, {len(files)} files in {lots} lots, {workers} at once", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        codes = list(pool.map(one, (files[i::lots] for i in range(lots))))
    print(", ".join(f"{n} {kind}" for kind, n in found.items()), f"in {time.perf_counter() - start:.2f}s", flush=True)
    return max(codes, key=abs)


def main():
    if not in_step():
        return 1
    if run(sys.executable, "scripts/lint.py"):
        return 1
    if run(sys.executable, "scripts/execute.py", "--check"):
        return 1
    return tests()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(main())
