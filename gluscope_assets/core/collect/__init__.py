"""The collection: one pass of a corpus through a checkpoint, and what of it becomes activation shards.

What belongs here: forwarding packs, reducing what the gated MLPs compute, shards on disk and their merge, windows filled later,
and the checks of a finished aggregate against its corpus. What does not: finding and tapping gated MLPs (`model`), making the
corpus (`corpus`), what a table holds and how aggregates merge (`tables`).

`job.collect` makes shards, `shards.merge_layers` merges them, `verify.verify_aggregate` checks the result.
"""

__all__ = ["forward", "job", "kernel", "reduction", "shard_state", "shards", "verify", "window_filling", "workers"]
