"""Texts that the workloads quote: the sample documents, in sections."""

from __future__ import annotations

from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[4] / "data" / "samples"


def sample_sections() -> list[str]:
    """The sections of the sample documents, each with its heading."""
    return [
        part.strip() for path in sorted(SAMPLES.glob("*.md")) for part in path.read_text().split("\n## ")[1:]
    ]
