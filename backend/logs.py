"""How the server's log is written: lines for people, or one JSON object a line for programs that collect logs.

A record may carry `fields` (`extra={"fields": {…}}`): they follow the message as key=value, or are keys of the object.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

NOISY = ("httpx", "chromadb", "apscheduler", "pdfminer", "alembic")
"""Libraries that tell more than anybody reads."""


def configure_logs(format_: str) -> None:
    """Write the process's log as "text" or as "json"."""
    logging.basicConfig(level=logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if format_ == "json" else TextLines())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


class TextLines(logging.Formatter):
    """Time, logger, level, message, and the fields that it carries as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        pairs = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items() if value is not None)
        return super().formatMessage(record) + pairs


class JsonLines(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, fields, and a traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname, "logger": record.name,
            "message": record.getMessage(), **_fields(record),
        }  # fmt: skip
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _word(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text
