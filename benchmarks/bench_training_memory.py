"""How much memory does training take from a folder of sequences, however many events it has?

Each folder is measured in a process of its own: opening, splitting, planning an epoch and some steps, with a table of equally
many items. Anonymous memory cannot be given back to the system, mapped pages can.

python benchmarks/bench_training_memory.py small large --steps 10 --save
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import arguments, publish

ITEMS = 50_000


def main() -> None:
    """Print the table, or measure one folder."""
    if "--worker" in sys.argv:
        work(Path(sys.argv[2]), int(sys.argv[3]))
        return
    options = arguments(__doc__, add_options)
    rows = []
    for folder in options.folders:
        command = [sys.executable, __file__, "--worker", folder, str(options.steps)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
    notes = [f"D = 64, a table of {ITEMS:,} items, {options.steps} steps of 8,192 events, sampled softmax"]
    publish("bench_training_memory", rows, options, notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders."""
    parser.add_argument("folders", nargs="+", help="of `ssd4rec data build`")
    parser.add_argument("--steps", type=int, default=10)


def work(folder: Path, steps: int) -> None:
    """Measure one folder; print a row."""
    import torch

    from ssd4rec.config import DataConfig, SSD4RecConfig, TrainingConfig
    from ssd4rec.data.folder import open_folder
    from ssd4rec.data.split import make_split
    from ssd4rec.models.next_item import NextItemModel
    from ssd4rec.models.ssd4rec import SSD4Rec
    from ssd4rec.training.callbacks import Callback
    from ssd4rec.training.loop import FixedSteps, fit

    class Largest(Callback):
        """Remembers the most memory that was in use after a step."""

        anonymous = mapped = 0

        def on_batch_end(self, loop: Any) -> None:
            """Look at the memory in use."""
            del loop
            self.anonymous = max(self.anonymous, memory("RssAnon"))
            self.mapped = max(self.mapped, memory("RssFile"))

    torch.set_num_threads(1)
    began, before = time.perf_counter(), memory("RssAnon")
    prepared = open_folder(folder)
    split = make_split(prepared.sequences, DataConfig())
    opened = memory("RssAnon")
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64)), ITEMS)
    largest = Largest()
    settings = TrainingConfig(softmax="sampled", updated_rows="touched")
    fit(model, prepared.sequences, split, settings, callbacks=[largest], fixed=FixedSteps(steps, steps))
    row = {
        "events": f"{len(prepared.sequences.items):,}",
        "users": f"{len(prepared.sequences.offsets) - 1:,}",
        "opened and split": f"{(opened - before) / 1e6:.0f} MB",
        "most after a step": f"{(largest.anonymous - before) / 1e6:.0f} MB",
        "mapped pages": f"{largest.mapped / 1e6:.0f} MB",
        "seconds": f"{time.perf_counter() - began:.0f}",
    }
    print(json.dumps(row))


def memory(name: str) -> int:
    """Return a size of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
