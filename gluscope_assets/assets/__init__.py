"""One module a stage, and nothing else: each says what Dagster shows of it and hands its inputs to `study.stages`.

A body takes inputs, calls one function and hands over its report. What does not belong here: logic of any kind.
"""

__all__ = [
    "activation_shards",
    "corpus_source",
    "model_checkpoint",
    "neuron_pages",
    "neuron_weights",
    "published_site",
    "quadrant_aggregates",
    "site",
    "tokenized_corpus",
]
