"""Every setting of the product, from TENFOLD_* variables. What a user switches while it runs is in `Switches`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend import packaged

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "data" / "samples"
"""The sample documents that are shipped."""


def _short_name(model: str) -> str:
    """Of a folder, file or hub id: its last part, in which a dot is part of a version ("qwen2.5-1.5b")."""
    return Path(model).name.removesuffix(".gguf").lower()


class Settings(BaseSettings):
    """Read once at start."""

    model_config = SettingsConfigDict(env_prefix="TENFOLD_", env_file=".env", extra="ignore")

    data_dir: Path = Field(ROOT / "data" / "var", description="Where everything written at run time goes.")
    database_url: str | None = Field(
        None, validation_alias="DATABASE_URL", description="SQLAlchemy URL; by default SQLite inside data_dir."
    )
    model: str = Field(packaged.CHAT_MODEL, description="Folder, hub id, GGUF file or the packaged model's name.")
    model_name: str | None = Field(None, description="The name the API serves the model under.")
    embedding_model: str = Field(packaged.EMBEDDING_MODEL, description="The same for the embedding model.")
    quantize_embeddings: bool = Field(
        True, description="Hold the embedding model in 8 bits where that is faster; a change re-indexes."
    )
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    threads: int = Field(0, ge=0, description="Torch threads of the engine; 0 takes every core.")
    kv_cache_mb: int | None = Field(
        None, ge=8, description="Size of the KV cache; by default 1024 on a processor, and what a GPU has free."
    )
    prefix_disk_mb: int = Field(2048, ge=0, description="Most that prompt states kept on disk may take.")
    max_model_len: int | None = Field(None, ge=32)
    token_budget: int | None = Field(
        None, ge=16,
        description="Most tokens one step computes while prefill is chunked; by default 512, on a GPU 8192.",
    )  # fmt: skip
    engine_hang_s: float = Field(
        120.0, gt=0, description="Seconds without a sign of life or work after which a hung engine is restarted."
    )
    default_max_tokens: int = Field(
        512, ge=1, description="Most tokens of an answer where a request does not say; never more than fit."
    )
    max_prompts: int = Field(128, ge=1, description="Most answers (prompts × n) that one request may ask for.")
    max_waiting_realtime: int = Field(1024, ge=1, description="Requests that may wait for their first token; then 429.")
    max_waiting_batch: int = Field(4096, ge=1, description="The same for batch work.")
    use_kernels: bool = Field(True, description="False forces the portable torch path.")
    measure_precision: bool = Field(
        True, description="Whether auto weights move to the fastest precision that passes the quality gate here."
    )
    products: str = Field(
        "auto", pattern="^(auto|tiles|own|torch)$",
        description="What multiplies by the weights on a processor: what was measured, AMX's tiles, ours or torch's.",
    )  # fmt: skip
    hub_kernels: bool = Field(False, description="Whether bitsandbytes may fetch kernels from a hub at run time.")
    max_upload_mb: int = Field(100, ge=1, description="Largest document accepted, in the console and over the API.")
    max_file_mb: int = Field(512, ge=1, description="Largest file accepted by /v1/files.")
    max_batch_requests: int = Field(100_000, ge=1, description="Most lines of one batch.")
    webhook_origins: list[str] = Field(
        [], description="Where webhooks may be delivered, as origins: https://host or http://127.0.0.1:9000."
    )
    max_text_mb: int = Field(100, ge=1, description="Most text that one document may give, as UTF-8.")
    parse_timeout_s: float = Field(120.0, gt=0, description="Longest that a document's parser may take.")
    cut_timeout_s: float = Field(600.0, gt=0, description="Longest that cutting a document into chunks may take.")
    chunk_tokens: int = Field(128, ge=16, le=500)
    require_keys: bool = Field(
        False, description="Ask for a key on loopback too, as behind a reverse proxy. Implied on a network."
    )
    allowed_hosts: list[str] = Field([], description="Further Host names that the server answers to.")
    allowed_origins: list[str] = Field([], description="Further web origins that may call /v1 and /api.")
    ledger_days: int = Field(
        90, ge=1, description="Days after which single requests leave the ledger; their sums stay."
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="How the log is written: lines for people, or JSON objects."
    )
    price_per_hour: float | None = Field(None, ge=0, description="Your machine's price in US dollars per hour.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()  # the engine process works from another folder

    @property
    def cache_dir(self) -> Path:
        """Converted weights and built kernels: can be deleted, and is made again."""
        return self.data_dir / "cache"

    @property
    def files_dir(self) -> Path:
        """Uploaded files, by the SHA-256 of their bytes."""
        return self.data_dir / "files"

    @property
    def api_files_dir(self) -> Path:
        """Files of /v1/files, by the SHA-256 of their bytes: apart from documents, which are dropped by other rules."""
        return self.data_dir / "api-files"

    @property
    def index_dir(self) -> Path:
        """Chroma's folder: can be deleted, and is rebuilt from the database."""
        return self.data_dir / "index"

    @property
    def max_upload_bytes(self) -> int:
        """Largest document accepted."""
        return self.max_upload_mb << 20

    @property
    def sql_url(self) -> str:
        """The database in use."""
        return self.database_url or f"sqlite:///{self.data_dir / 'tenfold.sqlite3'}"

    @property
    def served_model(self) -> str:
        """The name under which the API serves the language model."""
        return self.model_name or _short_name(self.model)

    @property
    def served_embedding_model(self) -> str:
        """The name under which the API serves the embedding model."""
        return _short_name(self.embedding_model)
