"""Random cases (profile, layer, input), and what must hold for each: `make fuzz`, or `python -m tests.fuzz --help`.

Cases run in a process of their own, so that one which ends the interpreter or never returns is found and named, too.
"""

import argparse
import json
import math
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

CHILD = 2000  # cases of one process
PATIENCE = 120  # seconds that a case may take


@dataclass
class Summary:
    """What came of a run: failures are (case, what failed), refusals are counted by their messages."""

    seed: int
    cases: int = 0
    seconds: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, result: dict[str, Any]) -> None:
        """Take note of one case's result."""
        self.cases += 1
        if "kind" in result:
            self.kinds[result["kind"]] += 1
        if "failed" in result:
            self.failures.append((result["case"], result["failed"]))
        if "refused" in result:
            self.refusals[re.sub(r"[-+0-9.e]*\d", "#", result["refused"])] += 1

    def __str__(self) -> str:
        refused = sum(self.refusals.values())
        about = f"{self.cases} cases of seed {self.seed} in {self.seconds:.0f} s"
        lines = [f"{about}: {len(self.failures)} failed, {refused} refused"]
        lines.append("layers: " + ", ".join(f"{name} {count}" for name, count in sorted(self.kinds.items())))
        lines += [f"  refused {count:6d}  {message}" for message, count in self.refusals.most_common(25)]
        groups: dict[str, list[int]] = {}
        for number, message in self.failures:
            groups.setdefault(re.sub(r"[-+0-9.e]*\d", "#", message), []).append(number)
        first = dict(self.failures)
        for numbers in sorted(groups.values(), key=len, reverse=True):
            lines.append(f"  FAILED {len(numbers)}: {first[numbers[0]]}")
            lines += [f"      python -m tests.fuzz --seed {self.seed} --case {number}" for number in numbers[:3]]
        return "\n".join(lines)


def one(seed: int, number: int) -> dict[str, Any]:
    """Run one case."""
    from .check import Failure, check
    from .draw import draw

    case = draw(seed, number)
    result: dict[str, Any] = {"case": number, "kind": case.kind}
    try:
        refused = check(case)
    except Failure as failure:
        return result | {"failed": str(failure)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        own = next((f for f in reversed(where) if "analogsim" in f.filename), where[-1])
        name = own.filename.rsplit("analogsim/", 1)[-1]
        return result | {"failed": f"{type(error).__name__} in {name}:{own.lineno}: {str(error).strip()[:200]}"}
    return result | ({} if refused is None else {"refused": refused})


def child(seed: int, first: int, stop: int) -> None:
    """Run cases; say on standard output which begins, and what came of it."""
    import torch

    torch.set_num_threads(1)
    for number in range(first, stop):
        print(json.dumps({"begins": number}), flush=True)
        print(json.dumps(one(seed, number)), flush=True)


def run(
    seed: int,
    cases: int,
    minutes: float = math.inf,
    first: int = 0,
    progress: bool = False,
    program: tuple[str, ...] = ("-m", "tests.fuzz"),
    patience: float = PATIENCE,
) -> Summary:
    """Run cases until there are so many or time is up; `program` is what Python runs them by."""
    summary, start, number, stop = Summary(seed), time.monotonic(), first, first + cases
    while number < stop and time.monotonic() - start < minutes * 60:
        end = min(number + CHILD, stop)
        own = (*program, "--seed", str(seed), "--child", str(number), str(end))
        number = _batch(summary, number, end, start + minutes * 60, progress, own, patience)
    summary.seconds = time.monotonic() - start
    return summary


def _batch(
    summary: Summary, number: int, stop: int, end: float, progress: bool, program: tuple[str, ...], patience: float
) -> int:
    """Run cases from `number` on in one process; return the next one to run."""
    said: queue.Queue[str | None] = queue.Queue()
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-X", "faulthandler", *program]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        reader = threading.Thread(target=_pass_on, args=(process.stdout, said), daemon=True)
        reader.start()
        try:
            while time.monotonic() < end:
                line = said.get(timeout=patience)
                if line is None:
                    if process.wait() == 0:
                        return stop
                    errors.seek(0)
                    found = [text for text in errors.read().splitlines() if text.strip()]
                    about = next((text for text in found if "Fatal" in text), found[-1] if found else "")
                    summary.add({"case": number, "failed": f"the process ended with {process.returncode}: {about}"})
                    return number + 1
                result = json.loads(line)
                if "begins" in result:
                    number = result["begins"]
                    continue
                summary.add(result)
                number += 1
                if progress and (sys.stderr.isatty() or summary.cases % 500 == 0):
                    line_end = "\r" if sys.stderr.isatty() else "\n"
                    took = f"{time.monotonic() - began:.0f} s in this process"
                    about = f"{summary.cases} cases, {len(summary.failures)} failures, {took}"
                    print(about, end=line_end, file=sys.stderr, flush=True)
        except queue.Empty:
            summary.add({"case": number, "failed": f"it did not return in {patience:g} s"})
            number += 1
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
    return number


def _pass_on(stream: Any, said: "queue.Queue[str | None]") -> None:
    for line in stream:
        said.put(line)
    said.put(None)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all cases (0)")
    parser.add_argument("--cases", type=int, default=20_000, help="how many at most (20,000)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="how long at most")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--case", type=int, help="run this one alone, here, and show it")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.seed, *given.child)
        return 0
    if given.case is not None:
        return _show(given.seed, given.case)
    summary = run(given.seed, given.cases, given.minutes, given.first, progress=True)
    print(summary)
    return 1 if summary.failures else 0


def _show(seed: int, number: int) -> int:
    """Run one case and let its failure through, with a traceback."""
    import torch

    from .check import check
    from .draw import draw

    torch.set_num_threads(1)
    case = draw(seed, number)
    print(case)
    refused = check(case)
    print("holds" if refused is None else f"refused: {refused}")
    return 0
