"""Files that cannot be trusted, and files that must never be half-written.

In the order in which a run meets them: `io` (small files, strict JSON), `safetensors` (tensors),
`memory` (what a run will take, and what there is), `display` (text made safe to print). Then
`writing` (whole or not at all), `jsonl` (a line an object), `run_dir` (results that stay on disk),
`cache_file` (keys and values). Aside: `worker` and its `worker_program` (what may not hang or
crash the process that asks).
"""
