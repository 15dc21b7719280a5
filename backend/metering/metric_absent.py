"""Names of vLLM and of OpenTelemetry that `/metrics` does not have, each with why: nothing there stands for them."""

from __future__ import annotations

NOT_APPLICABLE: dict[str, str] = {
    "vllm:engine_sleep_state": "The engine does not sleep.",
    "vllm:lora_requests_info": "There are no adapters.",
    "vllm:prompt_tokens_recomputed_total": "Tokens read again after a preemption are time of the request, not counted.",
    "vllm:external_prefix_cache_queries_total": "There is no cache outside the server.",
    "vllm:external_prefix_cache_hits_total": "The same.",
    "vllm:mm_cache_queries_total": "Text only.",
    "vllm:mm_cache_hits_total": "Text only.",
    "vllm:corrupted_requests_total": "Logits are not searched for NaN at each step.",
    "vllm:spec_decode_num_drafts_total": "Guesses are counted in tokens, not in rounds.",
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": "Guesses are not counted by position.",
    "vllm:estimated_flops_per_gpu_total": "Not estimated; the engine's bench measures it.",
    "vllm:estimated_read_bytes_per_gpu_total": "The same.",
    "vllm:estimated_write_bytes_per_gpu_total": "The same.",
    "vllm:inter_token_latency_seconds": "Each gap is not kept; vllm:request_time_per_output_token_seconds is its mean.",
    "vllm:request_max_num_generation_tokens": "What a request may write at most is not on its entry.",
    "vllm:request_params_max_tokens": "The same.",
    "vllm:request_params_n": "Each of n answers is an entry of its own.",
    "vllm:iteration_tokens_total": "Steps are counted, not the tokens of each.",
    "vllm:kv_block_lifetime_seconds": "Lives of blocks are not sampled.",
    "vllm:kv_block_idle_before_evict_seconds": "The same.",
    "vllm:kv_block_reuse_gap_seconds": "The same.",
    "gen_ai_client_operation_duration_seconds": "For a client to measure; see gen_ai_server_request_duration_seconds.",
    "gen_ai_client_operation_time_to_first_chunk_seconds": "For a client to measure.",
    "gen_ai_client_operation_time_per_output_chunk_seconds": "For a client to measure.",
    "gen_ai_workflow_duration_seconds": "There are no workflows.",
    "gen_ai_invoke_agent_duration_seconds": "There are no agents.",
    "gen_ai_execute_tool_duration_seconds": "There are no tools.",
}  # fmt: skip
"""Names that others' dashboards may ask for and that are not here, with why."""
