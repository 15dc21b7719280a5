"""OpenAI's batches: a file of requests, answered behind everybody who waits, with the answers in a file."""
