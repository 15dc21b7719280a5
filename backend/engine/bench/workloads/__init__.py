"""What the bench can measure, a workload a file."""

from __future__ import annotations

from collections.abc import Callable

from backend.engine.bench.sitting import Sitting
from backend.engine.bench.workloads import (
    baseline,
    batching,
    embedding,
    long,
    memory,
    mixed,
    neighbour,
    passages,
    paths,
    prefix,
    sampling,
    speculation,
    sweep,
    transformers,
)

WORKLOADS: dict[str, Callable[[Sitting], None]] = {
    "sweep": sweep.run,
    "baseline": baseline.run,
    "transformers": transformers.run,
    "prefix": prefix.run,
    "long": long.run,
    "mixed": mixed.run,
    "batching": batching.run,
    "speculation": speculation.run,
    "chunks": passages.run,
    "embedding": embedding.run,
    "memory": memory.run,
    "sampling": sampling.run,
    "neighbour": neighbour.run,
    "paths": paths.run,
}
"""By the name that the command line takes."""
