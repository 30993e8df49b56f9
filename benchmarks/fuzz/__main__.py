"""`python -m benchmarks.fuzz TARGET --seconds N`: any input, and nothing may raise. Guided by coverage where atheris is
installed (`pip install atheris`), else by chance. An input that raises is written to a file; given as a path it is run
again."""

import argparse
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz import data

FOLDS = ("events", "results", "monitor", "embed", "drift", "judge", "archive")
EDGES = ("state", "controls", "notices", "listener")
TARGETS = (*FOLDS, *EDGES)

Run = Callable[[bytes], None]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by-chance", action="store_true", help="without atheris")
    parser.add_argument("input", nargs="?", type=Path, help="run this input alone")
    options = parser.parse_args()
    if options.input:
        _target(options.target)(options.input.read_bytes())
    elif options.by_chance or importlib.util.find_spec("atheris") is None:
        sys.exit(_by_chance(options.target, options.seconds, options.seed))
    else:
        _by_coverage(options.target, options.seconds, options.seed)


def _target(name: str) -> Run:
    run: Run = getattr(importlib.import_module(f"benchmarks.fuzz.{'edges' if name in EDGES else 'targets'}"), name)
    return run


def _by_coverage(target: str, seconds: float, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["driftline"]):
        run = _target(target)
    limits = [
        f"-max_total_time={seconds:.0f}",
        f"-seed={seed}",
        "-max_len=4096",
        "-len_control=0",
        "-timeout=60",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([sys.argv[0], *limits], run)
    atheris.Fuzz()


def _by_chance(target: str, seconds: float, seed: int) -> int:
    run = _target(target)
    began, tries = time.monotonic(), 0
    faults: dict[str, str] = {}
    while time.monotonic() - began < seconds:
        raw = data.random_bytes(seed * 1_000_000 + tries)
        tries += 1
        try:
            run(raw)
        except Exception as error:  # noqa: BLE001  # what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            if name not in faults:
                faults[name] = f"fuzz-{target}-{len(faults)}.bin"
                Path(faults[name]).write_bytes(raw)
                traceback.print_exc()
    print(json.dumps({"target": target, "tries": tries, "faults": faults}, indent=2))
    return len(faults)


if __name__ == "__main__":
    main()
