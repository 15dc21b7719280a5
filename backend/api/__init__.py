"""HTTP: the OpenAI-compatible API, the console's own API, health and metrics. Knows only the runtime."""
