"""One process with all threads, or one process for each core with one thread: which finishes the runs of a study first?

    python benchmarks/study_threads.py                 # about a minute and a half
    python benchmarks/study_threads.py --json

Training steps of the preset gpt-64 at several widths, on random tokens: by one process with as many threads as there
are cores, and by as many processes side by side as there are cores, one thread each. Reported are steps a second of all
together, without starting up. The two ways in turn, three rounds; medians.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

from measure import emit, machine, say

from nanogpt.training.machine import cores

WIDTHS = (32, 64, 128, 256)
CODE = """
import sys, time
from nanogpt.config import compose
from nanogpt.study.estimate import steps
width, threads, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
config = compose("gpt-64", [f"model.dim={width}", "tokenizer=char"])
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
taken = steps(config, 65, threads, 10**9, seconds)
print(len(taken) / sum(taken))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for width in WIDTHS:
        ways: dict[str, list[float]] = {"one": [], "many": []}
        for _ in range(arguments.rounds):
            ways["one"].append(together(width, 1, cores(), arguments.seconds))
            ways["many"].append(together(width, cores(), 1, arguments.seconds))
        one, many = (median(values) for values in ways.values())
        rows.append({"dim": width, "one process": one, "a process for each core": many, "ratio": many / one})
        say(f"dim {width}: {one:.1f} and {many:.1f} steps a second")
    emit({"machine": machine(), "rows": rows}, arguments.json)


def together(width: int, processes: int, threads: int, seconds: float) -> float:
    """Steps a second of so many processes that begin at the same moment."""
    command = [sys.executable, "-c", CODE, str(width), str(threads), str(seconds)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in started:
        assert process.stdout
        process.stdout.readline()
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


if __name__ == "__main__":
    main()
