# %% [markdown]
# # Solutions of page 9

# %%
import json
from pathlib import Path

import numpy as np

from tinylane import learn

# %% [markdown]
# ## Solution 09.1
# Eight bytes are the length of the header. It is JSON: dtype, shape and place of every tensor. The
# places count from the end of the header. bfloat16 is the upper half of a float32.


# %%
def read_tensor(path, name):
    blob = Path(path).read_bytes()
    begin = 8 + int.from_bytes(blob[:8], "little")
    entry = json.loads(blob[8:begin])[name]
    start, end = (begin + place for place in entry["data_offsets"])
    if entry["dtype"] == "BF16":
        bits = np.frombuffer(blob[start:end], np.uint16).astype(np.uint32) << 16
        values = bits.view(np.float32)
    else:
        values = np.frombuffer(blob[start:end], np.float32)
    return values.reshape(entry["shape"])


print(learn.check("09.1", read_tensor))

# %% [markdown]
# ## Solution 09.2
# A key and a value, per layer, per key head and per row. The prompt is there once, for all lanes.


# %%
def cache_bytes(layers, kv_heads, head_dim, prompt, lanes, steps, item):
    rows = prompt + lanes * steps
    return 2 * layers * kv_heads * head_dim * rows * item


print(learn.check("09.2", cache_bytes))
