"""Decodes mutated recordings for some time.

`make fuzz`, or `python tests/reliability/fuzz_audio.py --seconds=600 --count=1000000 --seed=7`.

Prints the seed, how the mutants end, and the numbers of those that do what none may do; leaves with
1 if there is one. `--write=NUMBER` writes that mutant of the seed to the current folder instead.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from mutants import BATCH, Batch, mutant, outcomes

from ser_jax.runtime.machine import available_cores


def main() -> int:
    """Parses the flags, decodes round after round, and says what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="begin no round after this time"
    )
    parser.add_argument("--count", type=int, default=10**9, help="most mutants")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--write", type=int, metavar="NUMBER", help="write this mutant and leave")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    if arguments.write is not None:
        path = Path(f"mutant-{seed}-{arguments.write}")
        path.write_bytes(mutant(seed, arguments.write))
        print(path)
        return 0
    print(f"seed {seed}", flush=True)
    ends, failures, done = Counter(), {}, 0
    cores, deadline = available_cores(), time.monotonic() + arguments.seconds
    while done < arguments.count and time.monotonic() < deadline:
        size = min(arguments.count - done, 20 * BATCH * cores)
        firsts = range(done, done + size, BATCH)
        batches = [Batch(seed, first, min(BATCH, done + size - first)) for first in firsts]
        for outcome in outcomes(batches, cores):
            ends += outcome.ends
            failures |= outcome.failures
        done += size
        print(f"{done} mutants, {len(failures)} failures: {dict(ends.most_common())}", flush=True)
    for number, what in sorted(failures.items()):
        print(f"mutant {number}: {what}  (--seed={seed} --write={number})")
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
