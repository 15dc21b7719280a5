"""The sample documents that are shipped, to begin with."""

from __future__ import annotations

from backend.knowledge.sight import SHARED
from backend.knowledge.uploads import Uploads
from backend.settings import SAMPLES


class Samples:
    """Uploads them like anybody's documents, for everybody."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    @property
    def names(self) -> list[str]:
        """The files' names."""
        return [path.name for path in sorted(SAMPLES.iterdir())]

    def load(self) -> None:
        """Upload them all."""
        for path in sorted(SAMPLES.iterdir()):
            self._uploads.upload(path.name, [path.read_bytes()], SHARED)
