"""`tinylane bench`: how fast, against what, and where the time goes.

Every contestant (tinylane on NumPy, on MLX, the peers) is a process of its own that loads the same
checkpoint and then waits; one case at a time is given to one of them, in turn, so that what else
the machine does falls on all alike, and ratios are taken pair by pair within a round.

    shapes      well-known sizes, as checkpoints with random weights
    engines     the contestants: load, then decode one case
    llama3np    the plain NumPy decoder that people read, as a peer
    worker      the process of one contestant, commanded by lines of JSON
    machine     memory bandwidth, peak memory, what the machine is
    profile     where a step goes, by timing the seams
    measure     the rounds, and what they amount to
"""
