"""How the chat looks beyond what the theme says: questions as bubbles, small actions, rows of one line."""

from __future__ import annotations

import streamlit as st

STYLE = """
<style>
/* The browser's part draws nothing. */
.st-key-chat-browser { position: absolute; width: 0; height: 0; overflow: hidden; }

/* Questions stand right, in a bubble; answers take the page's width. */
[class*="st-key-question-"] [data-testid="stChatMessage"] { flex-direction: row-reverse; padding: 0; gap: 0; }
[class*="st-key-question-"] [data-testid^="stChatMessageAvatar"] { display: none; }
[class*="st-key-question-"] [data-testid="stChatMessage"] { background: transparent; }
[class*="st-key-question-"] [data-testid="stChatMessageContent"] > [data-testid="stVerticalBlock"] { gap: 0.15rem; }
[class*="st-key-question-"] [data-testid="stElementContainer"]:has(> [data-testid="stText"]) {
  width: fit-content; max-width: 85%; margin-left: auto; padding: 0.6rem 1rem; border-radius: 1.1rem;
  background: color-mix(in srgb, currentColor 7%, transparent); overflow-wrap: anywhere; }
[class*="st-key-question-"] [data-testid="stChatMessageContent"] [class*="st-key-actions-"] {
  justify-content: flex-end; }
[class*="st-key-answer-"] [data-testid="stChatMessage"] { padding-left: 0; padding-right: 0; }
[class*="st-key-answer-"] [data-testid="stMarkdownContainer"] { overflow-wrap: anywhere; }

/* Marks [1] are small and press well. */
a[href*="#source-"] { font-size: 0.75em; padding: 0.1em 0.35em; border-radius: 0.5em; text-decoration: none;
  vertical-align: 0.15em; white-space: nowrap; background: color-mix(in srgb, currentColor 12%, transparent); }
a[href*="#source-"]:hover { background: color-mix(in srgb, currentColor 24%, transparent); }
[class*="st-key-sources-"] button { min-height: 1.9rem; padding: 0 0.6rem; }
[class*="st-key-sources-"] button p { font-size: 0.8rem; }

/* Actions under a turn: an icon each, whose name is there for whoever cannot see it. */
[class*="st-key-actions-"] { min-height: 2rem; }
[class*="st-key-actions-"] button { min-height: 2rem; padding: 0 0.4rem; }
[class*="st-key-actions-"] [data-testid="stCaptionContainer"] { margin: 0; }
[class*="st-key-actions-"] [data-testid="stCaptionContainer"] p { margin: 0 0.35rem; }
[class*="st-key-icon-"] button [data-testid="stMarkdownContainer"],
[class*="st-key-menu-"] button[aria-haspopup] [data-testid="stMarkdownContainer"] {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
[class*="st-key-menu-"] button[aria-haspopup] > div > [aria-hidden="true"] { display: none; }
[class*="st-key-icon-edit-"] { opacity: 0.45; }
[class*="st-key-icon-edit-"]:hover, [class*="st-key-icon-edit-"]:focus-within,
[class*="st-key-question-"]:hover [class*="st-key-icon-edit-"] { opacity: 1; }

/* The list: one line a chat, its menu where the pointer or the focus is. */
[class*="st-key-chat-row-"] { border-radius: 0.5rem; }
[class*="st-key-chat-row-"]:hover, [class*="st-key-chat-row-open-"] {
  background: color-mix(in srgb, currentColor 8%, transparent); }
[class*="st-key-chat-row-"] [class*="st-key-open-"] { min-width: 0; }
[class*="st-key-chat-row-"] [class*="st-key-open-"] button {
  min-height: 2.1rem; padding: 0 0.6rem; justify-content: flex-start; text-align: left; }
[class*="st-key-chat-row-"] [class*="st-key-open-"] button > div { width: 100%; justify-content: flex-start; }
[class*="st-key-chat-row-"] button[aria-haspopup] { min-height: 2.1rem; padding: 0 0.4rem; }
.st-key-chat-list [data-testid="stCaptionContainer"] { margin: 0.6rem 0 0; padding-left: 0.6rem; }
.st-key-chat-list [data-testid="stCaptionContainer"] p { margin: 0; font-size: 0.75rem; }
@media (hover: hover) {
  [class*="st-key-chat-row-"] [class*="st-key-menu-"] { opacity: 0; }
  [class*="st-key-chat-row-"]:hover [class*="st-key-menu-"],
  [class*="st-key-chat-row-"]:focus-within [class*="st-key-menu-"],
  [class*="st-key-chat-row-open-"] [class*="st-key-menu-"],
  [class*="st-key-menu-"]:has([aria-expanded="true"]) { opacity: 1; }
}
.st-key-chat-settings button { min-height: 1.9rem; padding: 0 0.7rem; border-radius: 1rem; }
.st-key-chat-settings button p { font-size: 0.8rem; }
.st-key-chat-suggestions button > div { width: 100%; justify-content: flex-start; text-align: left; }
</style>
"""


def draw_style() -> None:
    """Once on a page."""
    st.html(STYLE)
