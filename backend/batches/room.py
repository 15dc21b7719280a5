"""The files of programs, what answers batches of them, and what tells that these have ended."""

from __future__ import annotations

from dataclasses import dataclass

from backend.batches.deliveries import Deliveries
from backend.batches.service import Batches
from backend.batches.webhooks import Webhooks
from backend.files.blobs import Blobs
from backend.files.catalogue import Catalogue
from backend.generation.service import GenerationService
from backend.settings import Settings
from backend.store.database import Database


@dataclass(frozen=True, slots=True)
class BatchRoom:
    """Built, begun and ended together."""

    files: Catalogue
    service: Batches
    webhooks: Webhooks
    deliveries: Deliveries

    @classmethod
    def of(cls, settings: Settings, database: Database, generations: GenerationService) -> BatchRoom:
        """Wire them."""
        files = Catalogue(database, Blobs(settings.api_files_dir), settings.max_file_mb << 20)
        writing, embedding = settings.served_model, settings.served_embedding_model
        served = {"/v1/chat/completions": writing, "/v1/completions": writing, "/v1/embeddings": embedding}
        webhooks = Webhooks(database, settings.webhook_origins)
        deliveries = Deliveries(database, webhooks)
        service = Batches(
            database, files, generations, served, settings.max_batch_requests, ended=deliveries.wake
        )  # fmt: skip
        return cls(files, service, webhooks, deliveries)

    def start(self) -> None:
        """Begin to deliver; batches begin with the program that answers their lines."""
        self.deliveries.start()

    def close(self) -> None:
        """End both; unfinished work goes on at the next start."""
        self.service.close()
        self.deliveries.close()
