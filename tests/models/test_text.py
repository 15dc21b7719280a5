"""Tokenizing, templates and streaming give what transformers gives, and never half a character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from backend import packaged
from backend.models.checkpoint import ModelNotFoundError, resolve
from backend.models.text import StreamDecoder, TextModel

_models: dict[str, TextModel] = {}


@pytest.fixture(scope="module")
def text(chat_folder: Path) -> TextModel:
    _models["chat"] = TextModel(chat_folder)
    return _models["chat"]


CHATS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "<c> & ß"}],
]


@pytest.mark.parametrize("messages", CHATS)
def test_chat_templates_equal_transformers(text: TextModel, chat_folder: Path, messages: Any) -> None:
    reference = AutoTokenizer.from_pretrained(chat_folder)
    wanted = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert text.encode_chat(messages) == wanted


CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_ordinary_messages_are_tokenized_in_one_piece_with_their_template(contents: list[str]) -> None:
    model = _models["chat"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    whole = model.tokenizer.encode(model.render_chat(messages), add_special_tokens=False).ids
    assert model.encode_chat(messages) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*CONTROL, "<|im_", "start|>", "<", " ", "\n", "system\nobey", "ß"]), max_size=8))
def test_control_tokens_in_a_message_are_plain_text(parts: list[str]) -> None:
    model = _models["chat"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x" + "".join(parts) + "x"}]
    harmless = [messages[0], {"role": "user", "content": "xx"}]
    control = {model.tokenizer.token_to_id(token) for token in CONTROL}
    ids = model.encode_chat(messages)
    assert [i for i in ids if i in control] == [i for i in model.encode_chat(harmless) if i in control]
    assert model.tokenizer.decode(ids, skip_special_tokens=False) == model.render_chat(messages)


def test_a_passage_with_a_control_token_is_found_where_it_stands(text: TextModel) -> None:
    passages = ["The mill <|im_end|> grinds rye.", "It rests on Sundays."]
    ids, segments = text.encode_chat_with([{"role": "user", "content": "\n\n".join(passages)}], passages)
    found = [text.tokenizer.decode(ids[start:end], skip_special_tokens=False) for start, end in segments]
    assert [part.strip() for part in found] == [passage.strip() for passage in passages]


def test_plain_prompts_keep_their_control_tokens(text: TextModel) -> None:
    assert text.encode("<|im_start|>user")[0] == text.tokenizer.token_to_id("<|im_start|>")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_streamed_text_equals_decoded_text(sample: str) -> None:
    model = _models["chat"]
    ids = model.encode(sample)
    decoder = StreamDecoder(model, [])
    pieces = [decoder.push(i) for i in ids]
    whole = model.decode(ids)
    assert "".join(pieces) + decoder.finish() == whole
    if "�" not in whole:  # the vocabulary lacks some bytes, which no decoding can bring back
        assert not any("�" in piece for piece in pieces), "half a character was shown"


class BrokenStream:
    """A DecodeStream as some byte sequences leave it: it raises from its second token on."""

    def __init__(self, skip_special_tokens: bool) -> None:
        self.stream, self.steps = DecodeStream(skip_special_tokens=skip_special_tokens), 0

    def step(self, tokenizer: Any, token_id: int) -> str | None:
        self.steps += 1
        if self.steps > 2:
            raise Exception("Invalid prefix encountered while decoding stream. Token ID: 1")
        piece: str | None = self.stream.step(tokenizer, token_id)
        return piece


def test_a_broken_text_stream_goes_on(text: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.models.text.DecodeStream", BrokenStream)
    ids = text.encode("The harbour wakes before the sun and the gulls")
    decoder = StreamDecoder(text, [])
    written = "".join(decoder.push(token) for token in ids) + decoder.finish()
    assert written == text.decode(ids), "words were lost"


def test_a_stop_string_split_over_tokens_is_never_shown(text: TextModel) -> None:
    ids = text.encode("One two three STOP four")
    decoder = StreamDecoder(text, ["three STOP"])
    shown = ""
    for token in ids:
        shown += decoder.push(token)
        assert "th" not in shown
    assert shown + decoder.finish() == "One two "
    assert decoder.stopped


def test_what_only_looked_like_a_stop_string_is_given_out(text: TextModel) -> None:
    decoder = StreamDecoder(text, ["three STOP"])
    shown = "".join(decoder.push(i) for i in text.encode("One two three"))
    assert shown + decoder.finish() == "One two three"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        resolve("/no/such/folder", tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        resolve(str(tmp_path), tmp_path)


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer\.json.*save_pretrained"):
        TextModel(tmp_path)


def test_a_gguf_is_converted_once(tmp_path: Path) -> None:
    folder = resolve(packaged.CHAT_MODEL, tmp_path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(packaged.CHAT_MODEL, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [f.name for f in folder.parent.iterdir()] == [folder.name], "something was left behind"
