"""Made-up tables of layers at checkpoints, in memory and written, for tests of what a site says of all neurons."""

import html
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.site.layer_rows import CLASSES

POSITIONS = 1000


@dataclass
class Layer:
    """A layer's tables in memory."""

    counts: np.ndarray
    """[5, neurons], quadrants and none; their sum is what the neuron saw."""
    largest: np.ndarray
    """[4, neurons], the largest |post| of each quadrant."""
    orientation: np.ndarray
    cosines: np.ndarray
    """[3, neurons]: gate and in, gate and out, in and out."""
    norm_out: np.ndarray
    classes: list[str]
    atypical: np.ndarray
    expert: list[int | None]

    @property
    def neurons(self) -> int:
        return self.counts.shape[1]

    @property
    def seen(self) -> np.ndarray:
        return self.counts.sum(axis=0)

    def shares(self, neuron: int, oriented: bool) -> np.ndarray:
        shares = self.counts[:, neuron].astype(np.float64) / self.counts[:, neuron].sum()
        return shares[[1, 0, 3, 2, 4]] if oriented and self.orientation[neuron] < 0 else shares

    def write(self, folder: Path, layer: int, baseline: float | None = 0.2) -> LayerTables:
        """The neurons stand in the weights in another order."""
        number = np.arange(self.neurons, dtype=np.int32)
        index = [place if expert is None else place % 3 for place, expert in enumerate(self.expert)]
        columns = {
            "layer": pa.array(np.full(self.neurons, layer, dtype=np.int32)),
            "neuron": pa.array(number),
            "mlp": pa.array(["mlp"] * self.neurons, pa.string()),
            "expert": pa.array(self.expert, pa.int32()),
            "index": pa.array(index, pa.int32()),
            "positions": pa.array(np.full(self.neurons, POSITIONS)),
            "routed": pa.array(self.seen),
            "zero": pa.array(self.counts[4]),
        }
        for place, quadrant in enumerate(QUADRANTS):
            columns[f"{quadrant}_count"] = pa.array(self.counts[place])
            columns[f"{quadrant}_post_largest"] = pa.array(self.largest[place], mask=self.counts[place] == 0)
        write_parquet(pa.table(columns), folder / f"{layer}" / "statistics.parquet", {})
        order = number[::-1]
        names = ("cos_gate_in", "cos_gate_out", "cos_in_out")
        weights = {
            "neuron": pa.array(number[order]),
            "orientation": pa.array(self.orientation[order].astype(np.int8)),
            **{name: pa.array(values[order].astype(np.float32)) for name, values in zip(names, self.cosines, strict=True)},
            "norm_out": pa.array(self.norm_out[order].astype(np.float32)),
            "class": pa.array([self.classes[place] for place in order]),
            "atypical": pa.array(self.atypical[order]),
        }
        chance = {} if baseline is None else {"cos_in_out": {"0.001": -baseline, "0.999": baseline / 2}}
        mlps = {"mlp" if expert is None else f"mlp, expert {expert}": chance for expert in self.expert}
        write_parquet(pa.table(weights), folder / f"weights-{layer}.parquet", {"random_baseline": mlps})
        return LayerTables(folder.name, layer, folder / f"{layer}", folder / f"weights-{layer}.parquet")


def random_layer(seed: int, neurons: int = 30, experts: bool = False) -> Layer:
    """Some quadrants are empty; experts see few positions, and one of them none."""
    random = np.random.default_rng(seed)
    counts = np.array([random.multinomial(POSITIONS, p) for p in random.dirichlet([0.8] * 5, neurons)]).T.astype(np.int64)
    expert: list[int | None] = [None] * neurons
    if experts:
        expert = [place // 3 for place in range(neurons)]
        counts //= random.integers(1, 12, neurons)
        counts[:, 3:6] = 0
    counts[1, 0] = 0
    return Layer(
        counts,
        random.gamma(2, 2, (4, neurons)).astype(np.float32),
        random.choice([-1, 1], neurons),
        random.uniform(-1, 1, (3, neurons)).astype(np.float32).astype(np.float64),
        random.gamma(2, 1, neurons).astype(np.float32).astype(np.float64),
        random.choice(CLASSES, neurons).tolist(),
        random.random(neurons) < 0.3,
        expert,
    )


def moved(before: Layer, after: Layer) -> dict[int, float]:
    """By neuron, the total variation distance of the raw shares."""
    return {
        neuron: 0.5 * sum(abs(a - b) for a, b in zip(before.shares(neuron, False), after.shares(neuron, False), strict=True))
        for neuron in range(min(before.neurons, after.neurons))
        if before.seen[neuron] and after.seen[neuron]
    }


Study = list[tuple[str, dict[int, Layer]]]


def study(checkpoints: int = 3, experts: bool = False, layers: tuple[int, ...] = (0, 2, 5)) -> Study:
    """The second checkpoint lacks a layer, as in a study that is partly built."""
    made = [
        (f"step{place}-000000{place}", {layer: random_layer(10 * place + layer, experts=experts) for layer in layers})
        for place in range(checkpoints)
    ]
    if checkpoints > 2:
        del made[1][1][2]
    return made


def written(made: Study, folder: Path, baseline: float | None = 0.2) -> list[tuple[str, list[LayerTables]]]:
    return [(key, [tables.write(folder / key, layer, baseline) for layer, tables in layers.items()]) for key, layers in made]


def site_map_of(made: Study) -> SiteMap:
    checkpoints = tuple((key, key.split("-")[0]) for key, _ in made)
    return SiteMap("s", "S", "m", "texts", checkpoints, tuple((layer, 30) for layer in (0, 2, 5)), ())


def rows_of(page: str, label: str) -> list[list[str]]:
    """The cells of the body of the table in the region with that label."""
    region = page[page.index(f'aria-label="{label}"') :].split("</table>")[0]
    body = region[region.index("<tbody>") :]
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]
