"""What was measured once and holds until the model or the machine is another: small JSON files that may be deleted."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def recall(file: Path) -> Any:
    """What was remembered; None where nothing was, or it cannot be read."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def remember(file: Path, value: Any) -> bool:
    """Keep a value as JSON, whole or not at all; returns whether that could be done."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as aside:
            (Path(aside) / file.name).write_text(json.dumps(value, indent=1))
            os.replace(Path(aside) / file.name, file)
        return True
    except OSError as error:
        log.warning("%s could not be kept: %s", file.name, error)
        return False


def machine_key(threads: int, *parts: str) -> str:
    """Sixteen hex digits that are others on another processor, with other threads, or where `parts` differ."""
    lines: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    except OSError:
        lines["model name"] = platform.processor()
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "CPU part")
    processor = [platform.machine(), *(lines.get(name, "") for name in names)]
    return hashlib.sha256("\0".join([*processor, str(threads), *parts]).encode()).hexdigest()[:16]
