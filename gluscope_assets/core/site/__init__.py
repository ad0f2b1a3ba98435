"""The site: what surrounds the neuron pages, and the checks on a site that is built.

`site` writes the index with its figures, the explorer, the explanation, the manifest and the static files. What the index says
comes from `measured` (what was measured, and how), `overview` (numbers over the neurons of layers and checkpoints), `unusual`
(the neurons that stand out) and `gate_finding` (the paper's correlation), all from the rows of `layer_rows`; `figures` and
`overview_figures` draw it. `links` looks for broken links and pages that are too large.

What does not belong here: pages of neurons and of layers (`core.pages`), the dataset beside them (`core.exchange`), publishing
and serving (`core.publishing`, `core.serve`), and looks, which lie in `site/` as templates, style sheets and scripts.
"""

__all__ = ["links", "measured", "overview", "site"]
