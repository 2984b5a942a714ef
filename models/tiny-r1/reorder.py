"""The same model with its dimensions in another order: another draw of what quantizing rounds.

    python reorder.py SEED tiny-r1-f16.gguf importance.gguf OUT.gguf OUT-importance.gguf

The residual stream (with random signs), the latents of queries and of keys and values, and the feed-forward layers are
put in a random order, in the F16 file and in its importance matrix. The function is the same, but blocks of weights hold
other neighbours. Two programs are compared fairly over some seeds; over one, chance decides what lies within a tenth.

Needs numpy and gguf.
"""

import shutil
import sys

import numpy as np
from gguf import GGUFReader

READ_RESIDUAL = {"ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_gate_inp",
                 "attn_q_a", "attn_kv_a_mqa", "output", "token_embd"}
WRITE_RESIDUAL = {"ffn_down", "ffn_down_exps", "ffn_down_shexp", "attn_output"}
NORMS_OF_RESIDUAL = {"attn_norm", "ffn_norm", "output_norm"}
# What a layer's tensors read (columns) and write (rows) besides the residual stream.
COLUMNS = {"attn_q_b": "q", "attn_v_b": "kv", "ffn_down": "ffn", "ffn_down_shexp": "shared"}
ROWS = {"attn_q_a": "q", "attn_q_a_norm": "q", "attn_kv_a_mqa": "kv", "attn_kv_a_norm": "kv", "ffn_gate": "ffn",
        "ffn_up": "ffn", "ffn_gate_shexp": "shared", "ffn_up_shexp": "shared"}
SIZES = {"q": 256, "kv": 256, "ffn": 512, "shared": 256, "expert": 256}
EXPERTS, RESIDUAL = 16, 256


class Orders:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.residual = self.rng.permutation(RESIDUAL)
        self.signs = self.rng.choice([-1, 1], RESIDUAL)
        self.known = {}

    def of(self, layer, what, expert=0):
        key = layer, what, expert
        if key not in self.known:
            self.known[key] = self.rng.permutation(SIZES[what])
        return self.known[key]


def split(name):
    """Layer and name of a tensor."""
    parts = name.split(".")
    return (parts[1], parts[2]) if parts[0] == "blk" else ("", parts[0])


def weights(name, data, orders):
    layer, name = split(name)
    signs = orders.signs.astype(data.dtype)
    if name in READ_RESIDUAL:
        data[:] = data[..., orders.residual] * signs
    elif name in NORMS_OF_RESIDUAL:
        data[:] = data[orders.residual]
    elif name in WRITE_RESIDUAL:
        data[:] = data[..., orders.residual, :] * signs[:, None]
    if name in COLUMNS:
        data[:] = data[..., orders.of(layer, COLUMNS[name])]
    if name in ROWS:
        order = orders.of(layer, ROWS[name])
        data[: len(order)] = data[order]
    if name == "attn_k_b":
        data[:] = data[:, orders.of(layer, "kv"), :]
    for expert in range(EXPERTS):
        if name == "ffn_down_exps":
            data[expert] = data[expert][:, orders.of(layer, "expert", expert)]
        elif name in ("ffn_gate_exps", "ffn_up_exps"):
            data[expert] = data[expert][orders.of(layer, "expert", expert)]


def importance(name, data, orders):
    layer, tensor = split(name)
    if not name.endswith(".in_sum2"):
        return
    if tensor == "ffn_down_exps":
        for expert in range(EXPERTS):
            data[expert] = data[expert][orders.of(layer, "expert", expert)]
    elif tensor in READ_RESIDUAL:
        data[:] = data[..., orders.residual]
    elif tensor in COLUMNS:
        # Of attn_v_b, a row for each head.
        order = orders.of(layer, COLUMNS[tensor])
        rows = data.reshape(-1, len(order))
        rows[:] = rows[:, order]


def main(seed, model, matrix, new_model, new_matrix):
    orders = Orders(int(seed))
    for old, new, change in [(model, new_model, weights), (matrix, new_matrix, importance)]:
        shutil.copyfile(old, new)
        file = GGUFReader(new, "r+")
        for tensor in file.tensors:
            change(tensor.name, tensor.data, orders)
        file.data.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
