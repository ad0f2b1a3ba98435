"""The computation: from a checkpoint and texts to tables, pages and a site. It knows nothing of Dagster and works from a
notebook.

Rooms, each of which imports only from those before it: `tables` (what is stored, declared once), `model` (a checkpoint,
opened), `corpus` (texts), `collect` (one pass over the corpus), `pages` (one neuron's page), `site` (what surrounds pages),
`exchange` (others' formats), `publishing`, `serve`. The modules beside them are the ground that all stand on. What does not
belong here: studies and their files.
"""

__all__ = [
    "arrays",
    "collect",
    "corpus",
    "errors",
    "exchange",
    "files",
    "model",
    "options",
    "pages",
    "paths",
    "processes",
    "progress",
    "publishing",
    "quadrants",
    "reports",
    "serve",
    "site",
    "tables",
]
