"""Measures the engine on this machine: `python -m backend.engine.bench [--workloads sweep prefix …]`.

Prints one JSON line per row. Prompts of the sweep are random token ids with no prefix in common, all requests at once,
greedy, every one to its full length. Where a row compares a switch on and off, both ran in turn in this sitting, and
`ratio` is off ÷ on in time: above 1 the switch pays. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from backend import packaged
from backend.engine.bench.sitting import Sitting
from backend.engine.bench.workloads import WORKLOADS


def measure_peers(sitting: Sitting) -> None:
    """OpenVINO GenAI and vLLM on the same workload, by the script given."""
    for peer in ("openvino", "vllm"):
        command = ["bash", str(sitting.a.peers), peer, *map(str, sitting.a.concurrency)]
        result = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in result.stdout.splitlines() if line.startswith('{"peer"')]
        if not lines:
            raise RuntimeError(f"{peer} gave no figures: {result.stderr[-500:]}")
        for line in lines:
            print(json.dumps({"workload": "sweep", **json.loads(line)}), flush=True)


def main() -> None:
    """Parse arguments, run the workloads, print one JSON line per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["sweep"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--quantization", nargs="+", default=["auto"], help="auto, fp32, bf16, int8, mixed, …")
    parser.add_argument("--model", default=packaged.CHAT_MODEL)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--kv-cache-mb", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-kernels", action="store_true", help="the portable torch path")
    parser.add_argument("--peers", type=Path, help="a script that measures peers: SCRIPT openvino|vllm CONCURRENCY …")
    parser.add_argument(
        "--cache-dir", type=Path, default=Path(os.environ.get("TENFOLD_DATA_DIR", "data/var")) / "cache"
    )
    sitting = Sitting(parser.parse_args())
    for workload in sitting.a.workloads:
        WORKLOADS[workload](sitting)
    if sitting.a.peers is not None:
        measure_peers(sitting)


if __name__ == "__main__":
    main()
