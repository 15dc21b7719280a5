"""Which engine serves: the one place that knows where it runs. Everything else holds an `EngineClient`."""

from __future__ import annotations

from collections.abc import Callable

from backend.engine.client import LocalEngine
from backend.engine.config import EngineConfig
from backend.engine.messages import Stats
from backend.metering.happenings import Happenings
from backend.settings import Settings
from backend.switchboard.service import Switchboard


def local_engine(
    settings: Settings, switchboard: Switchboard, hear: Callable[[Stats], None], happenings: Happenings
) -> LocalEngine:
    """An engine in a process of its own on this machine; not started yet."""
    config = EngineConfig(
        model=settings.model,
        embedding_model=settings.embedding_model,
        quantize_embeddings=settings.quantize_embeddings,
        cache_dir=settings.cache_dir,
        prefix_dir=settings.data_dir / "prefix",
        prefix_disk_bytes=settings.prefix_disk_mb << 20,
        device=settings.device,
        kv_cache_bytes=settings.kv_cache_mb << 20 if settings.kv_cache_mb else None,
        max_model_len=settings.max_model_len,
        token_budget=settings.token_budget,
        threads=settings.threads,
        use_kernels=settings.use_kernels,
        measure_precision=settings.measure_precision,
        products=settings.products,
        hub_kernels=settings.hub_kernels,
        switches=switchboard.stored,
    )
    return LocalEngine(
        config, on_stats=hear, on_applied=switchboard.keep, on_said=happenings.engine_said,
        hang_limit=settings.engine_hang_s,
    )  # fmt: skip
