"""What each stage of a study does, a module a stage: the computation of `core` with the study's options and paths.

Here: which function of `core` makes a stage's results, and what is said of them. Not here: what a stage is made from
(`fingerprints`), partitions, retries and records (`orchestration`), and Dagster. The import closure of a stage's module is the
code that makes its results (`closure`), so a stage imports what it runs and nothing else.
"""

__all__ = [
    "activation_shards",
    "neuron_pages",
    "neuron_weights",
    "published_site",
    "quadrant_aggregates",
    "site",
    "tokenized_corpus",
]
