"""Names of the two models that are installed with the product; a leaf, so that settings need nothing of the rooms."""

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
