"""The corpus: documents, the texts that they are cut into, the tokens of texts and what these look like, the position sample.

What belongs here: all that is said of texts without a model. What does not: which texts drive a neuron (`collect`), how pieces
of text are shown (`pages`), and tokenizers' files, which come with a checkpoint (`model`).

`tokenize.tokenize_corpus` makes a corpus, `texts.TokenizedCorpus` reads it, `decoder.TokenDecoder` turns tokens into strings.
"""

__all__ = ["decoder", "documents", "sample", "texts", "tokenize"]
