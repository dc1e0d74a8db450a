"""The entry point of a contestant's process: `python -m benchmarks.contestant BENCHMARK CONTESTANT OPTIONS`."""

import importlib
import json
import sys

from benchmarks.measure import measure_work

if __name__ == "__main__":
    benchmark, contestant, options = sys.argv[1:]
    work = importlib.import_module(f"benchmarks.{benchmark}").CONTESTANTS[contestant]()
    sys.stdout.write("\n" + json.dumps(measure_work(work, json.loads(options)), default=str) + "\n")
