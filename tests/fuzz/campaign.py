"""Feed unusual and damaged inputs to everything that reads; count exceptions that are not the library's own. The goal is 0.

Run: PYTHONPATH=tests python -m fuzz.campaign [--cases 10000] [--seed 2024] [--minutes 15]

Most cases are files and frames of interactions; the others are settings, RecBole files, model folders, saved sessions and
arguments of Python functions. A case fails if anything but SSD4RecError is raised, if a message is longer than 2,000 characters
or has several lines, or if a damaged model or session is accepted. The process exits with 1 if a case failed, and prints the
number of each such case.
"""

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzz.inputs import Rng
from fuzz.models import ModelCases
from fuzz.readers import file_case, frame_case, recbole_case, settings_case
from ssd4rec.errors import SSD4RecError

LONGEST_MESSAGE = 2000
Case = Callable[[Rng, Path], None]


def run(cases: int, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Return the outcomes ("file read", "file refused", …) and the failures."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        models = ModelCases(folder)
        kinds: list[tuple[str, Case, float]] = [
            ("file", file_case, 0.66),
            ("frame", frame_case, 0.12),
            ("settings", settings_case, 0.06),
            ("recbole", recbole_case, 0.04),
            ("model", models.model_case, 0.04),
            ("session", models.session_case, 0.04),
            ("arguments", models.arguments_case, 0.04),
        ]
        edges = np.cumsum([share for _, _, share in kinds])
        for case in range(cases):
            if time.monotonic() > end:
                break
            rng = np.random.default_rng([seed, case])
            kind, check, _ = kinds[min(int(np.searchsorted(edges, rng.random())), len(kinds) - 1)]
            outcome, failure = _outcome(check, rng, folder)
            outcomes[f"{kind} {outcome}"] += 1
            if failure:
                failures.append(f"case {case} ({kind}): {failure}")
    return outcomes, failures


def _outcome(check: Case, rng: Rng, folder: Path) -> tuple[str, str]:
    """Return "read", "refused" or "failed", and the reason of a failure."""
    try:
        check(rng, folder)
    except SSD4RecError as error:
        if len(str(error)) > LONGEST_MESSAGE or "\n" in str(error):
            return "failed", f"message of {len(str(error)):,} characters: {str(error)[:200]!r}"
        return "refused", ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of polars is no Exception
        frames = traceback.extract_tb(error.__traceback__)
        place = next((frame for frame in reversed(frames) if "ssd4rec" in frame.filename), frames[-1])
        return "failed", f"{type(error).__name__}: {str(error)[:200]!r} ({Path(place.filename).name}:{place.lineno})"
    return "read", ""


def main() -> None:
    """Run the campaign and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--minutes", type=float, default=15.0)
    arguments = parser.parse_args()
    began, cpu = time.monotonic(), time.process_time()
    outcomes, failures = run(arguments.cases, arguments.seed, arguments.minutes * 60)
    for failure in failures[:50]:
        sys.stdout.write(f"{failure}\n")
    for kind in dict.fromkeys(name.partition(" ")[0] for name in sorted(outcomes)):
        counts = {name: outcomes[f"{kind} {name}"] for name in ("read", "refused", "failed")}
        share = counts["read"] / max(sum(counts.values()), 1)
        sys.stdout.write(f"{kind:10} {counts['read']:6,} read ({share:.0%}), {counts['refused']:6,} refused\n")
    sys.stdout.write(
        f"{outcomes.total():,} cases in {time.monotonic() - began:.0f} s ({time.process_time() - cpu:.0f} s of CPU time), "
        f"{len(failures):,} failures (seed {arguments.seed})\n"
    )
    sys.exit(1 if failures or outcomes.total() < arguments.cases else 0)


if __name__ == "__main__":
    main()
