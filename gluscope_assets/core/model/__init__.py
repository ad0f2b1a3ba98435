"""A checkpoint, opened: its gated MLPs, where their weights lie, what they compute while it runs, what its weights say.

What belongs here: all that can be said of a checkpoint without a corpus. What does not: texts (`corpus`), what a pass over them
gives (`collect`), which checkpoints a study has (`study`).

`checkpoint.resolve_checkpoint` finds one, `loading.load_model` opens it, `anatomy.look_through` finds its gated MLPs,
`taps.Taps` hands over what they give, `weights.write_neuron_weights` writes what is said of each neuron without any text.
"""

__all__ = [
    "activation",
    "anatomy",
    "checkpoint",
    "discovery",
    "gated_mlp",
    "inspection",
    "loading",
    "stored_tensors",
    "taps",
    "tracing",
    "weights",
]
