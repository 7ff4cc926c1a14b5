"""Damage files of every kind that pcctlearn reads, and count the outcomes of reading them.

    python -m benchmarks.fuzz_files --mutants 300 --seed 0

A reader may return finite numbers, or refuse the file with an error of one line that names it.
Anything else is a fault: another exception, an error without the name of the file, a signal, more
than 30 s or 4 GB, or execution of code from the file. Readers run in a separate process, which is
restarted when it ends.
"""

import argparse
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

LIMIT_s, LIMIT_BYTES = 30.0, 4 * 2**30
MOST_BYTES = 4 * LIMIT_BYTES  # address space of a reader
PAYLOADS = 0.05  # share of mutants that contain code
EDITED = 0.5  # share of the others that are edited with the library of the format, not as bytes
OUTCOMES = (
    "accepted",
    "refused",
    "traceback",
    "not finite",
    "signal",
    "hang",
    "memory",
    "code run",
)
FAULTS = OUTCOMES[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=300, help="number for each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", help="kinds of files; by default all")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--keep", type=Path, help="folder for the mutants that show a fault")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        read_forever(arguments.worker)
        return
    results, examples = fuzz(arguments.mutants, arguments.seed, arguments.kinds, arguments.keep)
    Console(width=120).print(table(results))
    print("\n".join(examples))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(int(any(counts[fault] for counts in results.values() for fault in FAULTS)))


def fuzz(
    n_mutants: int, seed: int, kinds: list[str] | None = None, keep: Path | None = None
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Counts of the outcomes for each kind of file, and a line for each fault."""
    from benchmarks.fuzz_sources import SOURCES

    if unknown := set(kinds or ()) - set(SOURCES):
        sys.exit(f"unknown kinds {sorted(unknown)}; accepted: {', '.join(SOURCES)}")
    results, examples = {}, []
    for kind in kinds or SOURCES:
        counts: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as folder, Reader(kind) as reader:
            sound = Path(folder) / "sound" / kind
            sound.parent.mkdir()
            SOURCES[kind].write(sound)
            for number in range(n_mutants):
                generator = np.random.default_rng([seed, number, zlib.crc32(kind.encode())])
                mutant = Path(folder) / f"mutant{number}" / kind
                marker = Path(folder) / f"code{number}"
                make_mutant(sound, mutant, marker, generator)
                outcome, words = reader.outcome(mutant)
                if marker.exists():
                    outcome = "code run"
                counts[outcome] += 1
                if outcome in FAULTS:
                    examples.append(f"{kind} {number}: {outcome}: {words}")
                    if keep is not None:
                        shutil.copytree(
                            mutant.parent, keep / f"{kind}_{number}", dirs_exist_ok=True
                        )
                shutil.rmtree(mutant.parent)
        results[kind] = {"mutants": n_mutants, **{name: counts[name] for name in OUTCOMES}}
    return results, examples


def make_mutant(sound: Path, mutant: Path, marker: Path, generator: np.random.Generator) -> None:
    """Damage a copy of a file, or of one slice of a folder."""
    from benchmarks.fuzz_mutations import EDITS, of_bytes
    from benchmarks.fuzz_sources import write_payload

    mutant.parent.mkdir()
    if sound.is_dir():
        shutil.copytree(sound, mutant)
        files = sorted(mutant.iterdir())
        target = files[int(generator.integers(len(files)))]
    else:
        shutil.copy(sound, mutant)
        target = mutant
    if generator.random() < PAYLOADS:
        write_payload(target, marker, generator)
        return
    edited = generator.random() < EDITED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(int(generator.integers(1, 4)) if not edited else 1):
            if target.stat().st_size:
                (EDITS[target.suffix] if edited else of_bytes)(target, generator)


class Reader:
    """A process that reads files of one kind; it is restarted after a signal or a hang."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def outcome(self, path: Path) -> tuple[str, str]:
        """One of ``OUTCOMES``, and a description."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        if not select.select([process.stdout], [], [], LIMIT_s)[0]:
            self._stop()
            return "hang", f"more than {LIMIT_s:g} s"
        if not (line := process.stdout.readline()):
            status = process.wait()
            self._stop()
            return "signal", f"exit status {status}"
        outcome, words = json.loads(line)
        return outcome, words

    def _running(self) -> "subprocess.Popen[str]":
        if self.process is None:
            root = Path(__file__).resolve().parents[1]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fuzz_files", "--worker", self.kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=root,
                env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            )
            assert self.process.stdout is not None
            self.process.stdout.readline()  # waits until its imports are done
        return self.process

    def _stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def read_forever(kind: str) -> None:
    """Read the files named on standard input, and write a line of JSON for each."""
    from benchmarks.fuzz_sources import SOURCES

    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries is kept apart from the answers
    SOURCES[kind].read(sound_file(kind))  # imports and compiles before the limit is set
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(outcome_of(kind, Path(line.rstrip("\n")))), file=answers, flush=True)


def sound_file(kind: str) -> Path:
    """An undamaged file of this kind."""
    from benchmarks.fuzz_sources import SOURCES

    path = Path(tempfile.mkdtemp()) / kind
    SOURCES[kind].write(path)
    return path


def outcome_of(kind: str, path: Path) -> tuple[str, str]:
    """Outcome of reading one file, and a description."""
    from benchmarks.fuzz_sources import SOURCES, numbers_in
    from pcctlearn.app.sentences import EXPECTED, explain

    before = peak_bytes()
    try:
        found: Any = SOURCES[kind].read(path)
    except EXPECTED as error:
        if peak_bytes() > max(before, LIMIT_BYTES):
            return "memory", "more than 4 GB"
        words = explain(error, "evaluate.py")
        names = str(path) in words or any(str(file) in words for file in path.glob("*"))
        if names and "\n" not in str(error) and len(words) < 1500:
            return "refused", words
        return "traceback", f"improper message: {type(error).__name__}: {words[:300]}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"
    if peak_bytes() > max(before, LIMIT_BYTES):
        return "memory", "more than 4 GB"
    finite = all(bool(values.isfinite().all()) for values in numbers_in(found))
    return ("accepted", "") if finite else ("not finite", "NaN or infinity was returned")


def peak_bytes() -> int:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(results: dict[str, dict[str, int]]) -> Table:
    shown = Table(title="damaged files", title_justify="left")
    for heading in ("kind", "mutants", *OUTCOMES):
        shown.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, counts in results.items():
        shown.add_row(kind, *(str(counts[name]) for name in ("mutants", *OUTCOMES)))
    return shown


if __name__ == "__main__":
    main()
