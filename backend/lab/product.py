"""What the lab needs of the product it measures: some of its rooms, opened. Knows nothing of how they are wired."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from backend.engine.protocol import EngineClient
from backend.generation.service import GenerationService
from backend.knowledge.documents import Documents
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.retrieve import Retriever
from backend.knowledge.samples import Samples
from backend.knowledge.uploads import Uploads
from backend.metering.ledger import Ledger
from backend.switchboard.service import Switchboard


class Product(Protocol):
    """The rooms that are measured."""

    engine: EngineClient
    switchboard: Switchboard
    generations: GenerationService
    ledger: Ledger
    uploads: Uploads
    samples: Samples
    documents: Documents
    index: KnowledgeIndex
    retriever: Retriever


class Open(Protocol):
    """Opens the product, ready to be asked, until the end of the block."""

    def __call__(self, **settings: Any) -> AbstractContextManager[Product]:
        """With these settings, over a data folder that shares the models' cache."""
        ...
