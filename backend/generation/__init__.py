"""Text in, text out over the engine: prompts, streams that outlive their page, and stored conversations."""
