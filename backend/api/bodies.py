"""What the bodies of all routes have in common: how strict they are, and that every string in them is text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from backend.errors import InvalidInputError


def check_text(value: Any, where: str = "") -> Any:
    """Refuse strings that are no text, however deep they lie in a JSON value; gives the value back.

    Raises:
        InvalidInputError: names the field that holds half of a surrogate pair.
    """
    left: list[tuple[str, Any]] = [(where, value)]
    while left:
        place, value_here = left.pop()
        if isinstance(value_here, str):
            _check_string(value_here, place)
            continue
        pairs = value_here.items() if isinstance(value_here, dict) else enumerate(value_here)
        for key, item in pairs:
            if isinstance(key, str):
                _check_string(key, place)
            if isinstance(item, (str, dict, list)):
                left.append((f"{place}.{key}" if place else str(key), item))
    return value


def _check_string(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise InvalidInputError(
            f"{place or 'A string'}: character {error.start} is half of a surrogate pair ({half}), which is no text. "
            "Send whole characters.",
            param=place or None,
        ) from error


class Part(BaseModel):
    """A part of a body. Unknown fields are ignored, as clients send many."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Body(Part):
    """A whole body."""

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, raw: Any) -> Any:
        return check_text(raw) if isinstance(raw, (dict, list)) else raw


Text = Annotated[str, AfterValidator(check_text)]
"""A string that UTF-8 can hold, for queries, paths and forms."""
