"""Which neurons get pages: a study's page selections, resolved.

The top of a ranking becomes lists of neurons here, once the tables are there; how selections are written belongs to
`core.options`, and which pages a site has to `site_map`.
"""

from collections.abc import Iterable, Mapping, Sequence

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import PageSelection, TopNeurons
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import View
from gluscope_assets.core.tables.schema import rankable

SOME_STATISTICS = ("gate+_in+_frequency", "gate-_in+_post_largest", "cos_in_out")


def chosen_neurons(selections: Iterable[PageSelection], layer: int, width: int) -> Sequence[int]:
    """The neurons of a layer that any of `selections` holds, ascending; all of them are about this layer.

    InputError if one lists a neuron that the layer lacks. Rankings must have been replaced by `with_lists`.
    """
    first, listed = 0, set[int]()
    for selection in selections:
        if selection.neurons == "all":
            first = width
        elif isinstance(selection.neurons, int):
            first = max(first, min(selection.neurons, width))
        elif isinstance(selection.neurons, TopNeurons):
            raise ValueError("a ranking has no neurons before the tables are read")
        else:
            check_lists([selection], {layer: width})
            listed.update(selection.neurons)
    return sorted(listed.union(range(first))) if listed else range(first)


def check_lists(selections: Iterable[PageSelection], widths: Mapping[int, int]) -> None:
    """InputError if a list has a neuron that one of its layers lacks; `widths` are the neurons of layers."""
    for selection in selections:
        if isinstance(selection.neurons, tuple):
            for layer, width in widths.items():
                if (selection.layers == "all" or layer in selection.layers) and max(selection.neurons) >= width:
                    raise InputError(
                        f"site.pages lists neuron {max(selection.neurons)} in neurons, and layer {layer} has only {width:,}; "
                        f"leave it out or name other layers."
                    )


def with_lists(
    selections: Iterable[PageSelection],
    checkpoints: Sequence[tuple[str, str]],
    layers: Sequence[int],
    tables: Mapping[tuple[str, int], LayerTables],
    view: View,
) -> tuple[PageSelection, ...]:
    """`selections` with each ranking replaced by the lists of neurons that it gives, one for each layer of a checkpoint.

    `checkpoints` are (key, name) in the order of training, `layers` the study's layers, `tables` those that are there, by
    (checkpoint key, layer). A ranking whose tables are not all there gives nothing. InputError if it names no statistic.
    """
    resolved: list[PageSelection] = []
    for selection in selections:
        top = selection.neurons
        if not isinstance(top, TopNeurons):
            resolved.append(selection)
            continue
        for number, (key, name) in enumerate(checkpoints):
            held = [layer for layer in layers if selection.holds(name, number == len(checkpoints) - 1, layer)]
            for together in [held] if top.of == "checkpoint" else [[layer] for layer in held]:
                if not together or any((key, layer) not in tables for layer in together):
                    continue
                of_layers: dict[int, list[int]] = {}
                for layer, neuron in top_neurons(top, [tables[key, layer] for layer in together], view):
                    of_layers.setdefault(layer, []).append(neuron)
                resolved += [
                    PageSelection(checkpoints=(name,), layers=(layer,), neurons=tuple(sorted(neurons)))
                    for layer, neurons in sorted(of_layers.items())
                ]
    return tuple(resolved)


def top_neurons(top: TopNeurons, tables: Sequence[LayerTables], view: View) -> list[tuple[int, int]]:
    """The (layer, neuron) that a ranking of some layers holds, in its order. InputError if it names no statistic."""
    # Processes that render know what is chosen, and start sooner without polars.
    import polars as pl
    from polars import selectors

    from gluscope_assets.core.tables.orientation import scan_neurons

    check_statistic(top.by)
    frame = scan_neurons([of.aggregate for of in tables], [of.weights for of in tables], view)
    # An expert that no position was routed to has 0 of 0 positions everywhere: NaN.
    values = frame.select("layer", "neuron", value=pl.col(top.by)).with_columns(selectors.float().fill_nan(None))
    down = [top.order == "descending", False, False]
    ranked = values.sort("value", "layer", "neuron", descending=down, nulls_last=True).head(top.top)
    return list(ranked.select("layer", "neuron").collect().iter_rows())


def check_statistic(name: str) -> None:
    """InputError if no numeric column of `scan_neurons` has that name."""
    if name not in rankable():
        raise InputError(
            f"site.pages ranks by {name}, which is no statistic; choose one such as {', '.join(SOME_STATISTICS[:-1])} "
            f"or {SOME_STATISTICS[-1]}."
        )
