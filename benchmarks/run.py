"""`make bench`: run each benchmark after the tests of the code it measures; skip it if they fail."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
GUARDS = {
    "bench_ssd.py": ["tests/ops/ssd"],
    "bench_step.py": ["tests/training/test_objective.py", "tests/ops/test_cross_entropy.py"],
    "bench_step_parts.py": ["tests/ops/test_numba.py", "tests/ops/test_convolution.py", "tests/ops/test_gated_norm.py"],
    "bench_sharded_table.py": ["tests/test_sharded_table.py"],
    "bench_recommend.py": ["tests/serving/test_retrieval.py"],
    "bench_softmax.py": ["tests/ops/test_cross_entropy.py", "tests/ops/test_sampled_softmax.py"],
    "bench_length.py": ["tests/models/test_ssd4rec.py"],
    "bench_step_latency.py": ["tests/layers/test_step.py"],
    "bench_data.py": ["tests/data/test_sequences.py"],
    "bench_evaluation.py": ["tests/evaluation/test_ranks.py"],
    "bench_objective.py": ["tests/training/test_objective.py"],
    "bench_peers.py": ["tests/training/test_fit.py", "tests/evaluation/test_ranks.py"],
}
ALSO = {
    "bench_evaluation.py": ["--users", "6000"],
    # the peers need the network and environments of their own
    "bench_peers.py": ["--no-install"],
}


def main() -> int:
    """Run all benchmarks; return 1 if the tests of one failed."""
    failed = []
    for bench, guards in GUARDS.items():
        print(f"== {bench}", flush=True)
        tests = subprocess.run([sys.executable, "-m", "pytest", "-q", *guards], cwd=HERE.parent, check=False, capture_output=True)
        if tests.returncode:
            failed.append(bench)
            print(f"skipped: {' '.join(guards)} failed", flush=True)
            continue
        subprocess.run([sys.executable, bench, *ALSO.get(bench, []), *sys.argv[1:]], cwd=HERE, check=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
