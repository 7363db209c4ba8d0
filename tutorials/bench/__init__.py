"""`python tutorials/bench`: tinylane's decoding beside other programs, and how often faster.

It takes the flags of `tinylane bench`, and `--against`. Every engine (tinylane on NumPy, on MLX,
the peers) is a process of its own that loads the same checkpoint and then waits; one case at a time
is given to one of them, in turn, so that other work on the machine disturbs all of them alike, and
ratios are taken pair by pair within a round.

    engines     the peers as engines
    process     the process of an engine, and the rounds in which they take turns
    llama3np    the plain NumPy decoder that people read, as a peer
    llamacpp    llama.cpp as a peer, from a GGUF file that it writes
    training    a training step beside torch and mlx-lm, a script of its own
    __main__    the command, and the ratios
"""
