"""The same call in four languages, ready to be copied. Knows only what is put into them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """A chat completion that a program asks for.

    Attributes:
        url: of the server, without a path.
        key: what is sent as a key.
        documents: answer from the uploaded documents.
        stream: have the answer come as it is written.
    """

    url: str
    key: str
    model: str
    question: str
    documents: bool = False
    stream: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """What is posted to /v1/chat/completions."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": self.question}]}
        if self.documents:
            body["documents"] = True
        if self.stream:
            body["stream"] = True
        return body


def _quoted(text: str) -> str:
    """A string as Python and JavaScript both write it."""
    return json.dumps(text, ensure_ascii=False)


def python(call: Call) -> str:
    """With OpenAI's own client."""
    more = '\n    extra_body={"documents": True},  # answer from the uploaded documents' if call.documents else ""
    start = f"""from openai import OpenAI

client = OpenAI(base_url="{call.url}/v1", api_key="{call.key}")
answer = client.chat.completions.create(
    model={_quoted(call.model)},
    messages=[{{"role": "user", "content": {_quoted(call.question)}}}],{more}"""
    if not call.stream:
        return f"{start}\n)\nprint(answer.choices[0].message.content)\n"
    return f"""{start}
    stream=True,
)
for chunk in answer:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


def curl(call: Call) -> str:
    """For a shell."""
    quiet = " --no-buffer" if call.stream else ""
    return f"""curl{quiet} {call.url}/v1/chat/completions \\
  -H 'Authorization: Bearer {call.key}' \\
  -H 'Content-Type: application/json' \\
  -d {shlex.quote(json.dumps(call.body, ensure_ascii=False))}
"""


def javascript(call: Call) -> str:
    """With OpenAI's own client, for Node."""
    more = "\n  documents: true, // answer from the uploaded documents" if call.documents else ""
    start = f"""import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{call.url}/v1", apiKey: "{call.key}" }});
const answer = await client.chat.completions.create({{
  model: {_quoted(call.model)},
  messages: [{{ role: "user", content: {_quoted(call.question)} }}],{more}"""
    if not call.stream:
        return f"{start}\n}});\nconsole.log(answer.choices[0].message.content);\n"
    return f"""{start}
  stream: true,
}});
for await (const chunk of answer) {{
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}}
"""


def langchain(call: Call) -> str:
    """With LangChain's chat model."""
    more = '\n    extra_body={"documents": True},  # answer from the uploaded documents' if call.documents else ""
    asked = (
        f'for chunk in model.stream({_quoted(call.question)}):\n    print(chunk.content, end="", flush=True)'
        if call.stream
        else f"print(model.invoke({_quoted(call.question)}).content)"
    )
    return f"""from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model={_quoted(call.model)},
    base_url="{call.url}/v1",
    api_key="{call.key}",{more}
)
{asked}
"""


LANGUAGES: dict[str, tuple[str, Callable[[Call], str]]] = {
    "Python": ("python", python),
    "curl": ("bash", curl),
    "JavaScript": ("javascript", javascript),
    "LangChain": ("python", langchain),
}
"""By name: what colors it, and what writes it."""
