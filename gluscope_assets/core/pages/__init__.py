"""Pages: what one neuron's page shows, and what it shares with the pages of other neurons, layers and checkpoints.

The line from tables to a page, a module a step:

- `rendering` shares the layers of `LayerSource`s (`layer_source`) among processes and writes files;
- `layer_pages` opens the tables of one layer, and goes through its neurons;
- `neuron_view` says what a page tells of one neuron, `distribution` what the position sample says of it, `density` draws gate
  and in, `windows` and `packing` turn its examples into bytes, with texts (`shown_texts`) and tokens (`vocabulary`) as a page
  shows them;
- the template `neuron.html` is filled (`templates`), with numbers as `formats` writes them.

Beside it: which neurons get a page (`selection`), which pages there are (`site_map`), the explorer's data of all neurons
(`explorer_columns`, with the texts of `contexts`), and the strips along training (`strips`), both from the `peaks` of examples.

What does not belong here: the index and whatever else surrounds the pages (`core.site`), computing statistics, lists and
windows (`core.tables`, `core.collect`), and looks, which lie in `site/` as templates, style sheets and scripts.
"""

__all__ = [
    "density",
    "explorer_columns",
    "formats",
    "layer_pages",
    "layer_source",
    "neuron_view",
    "rendering",
    "selection",
    "shown_texts",
    "site_map",
    "strips",
    "templates",
    "vocabulary",
    "windows",
]
