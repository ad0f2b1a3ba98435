"""Tables: what is stored of a checkpoint's neurons and of the corpus, declared once, and how it is written and read.

What belongs here: the declaration of every column (`schema`); the quadrant aggregate of a layer in memory and on disk, and
its merge (`aggregate`); its lists of examples as flat arrays (`examples`) and the order that they are kept in (`ranking`); and,
for readers, what follows from stored numbers: shares, means and deviations (`statistics`), the oriented view (`orientation`).

What does not belong here: computing what is stored (`core.model`, `core.corpus`, `core.collect`), checking it against corpus
and model (`core.collect.verify`), other projects' formats (`core.exchange`), and where files lie (`core.paths`).
"""

__all__ = ["aggregate", "examples", "orientation", "ranking", "schema", "statistics"]
