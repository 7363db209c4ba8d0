"""Hugging Face folders: what is in them, checked before a tensor is read, loaded, written.

In the order in which a run meets them: `load` (what is chosen, and the loading itself),
`config_json` (sizes), `weights` (tensors), `adapter` (what was trained for lanes), `tokenizer` and
`tokenizer_files` (text to ids), `text_stream` (ids to text). Where a folder has it: `quantized`
(packed layers), `extras` (parameters for lanes) and `side` (what the decoder does with them),
`peft_adapter` (adapters of others), `chat_template` and its `chat_template_worker`. Aside: `hub`
(downloads), `export` (writes folders).
"""
