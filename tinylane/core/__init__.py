"""The decoder and its lanes.

Read in this order: rope, lanes, decoder, cache, model, sampling, decoding.
"""

__version__ = "0.1.0"
