"""Exchange: a study's tables in the forms in which others take and give them.

What belongs here: our own tables as a dataset with a card (`dataset`), the published tables of the paper, written and read
(`paper_schema`), and Neuronpedia's batches (`neuronpedia`), each with the names and rules of the other side in one module.

What does not belong here: what our columns are (`core.tables.schema`), putting a folder where others find it
(`core.publishing`), and running a model over the texts of imported tables (`core.collect.window_filling`).
"""

__all__ = ["dataset", "neuronpedia", "paper_schema"]
