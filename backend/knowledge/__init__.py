"""Documents → text → chunks → embeddings → index → retrieval. Knows nothing of pages or HTTP."""
