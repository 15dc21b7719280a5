"""The patient path: files of prompts run through the model, now or on a schedule, behind everybody who waits."""
