"""Training, with MLX and the decoder's own functions.

Read in this order, for a checkpoint tuned on lane transcripts: `data` (transcripts as rows),
`parameters` (what is trained), `recipe` (settings and order), `omega` and `forward` (one pass),
`step` (losses and one step), `setup` (from a checkpoint to a run), `loop` (the run). The model
inside is trained by `from_scratch`. `state` saves both. Aside: `extras` (parameters for lanes),
`exponentials` (quicker ones for a CPU).
"""
