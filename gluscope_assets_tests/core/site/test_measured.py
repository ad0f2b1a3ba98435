"""What was measured, as the index says it."""

from dataclasses import replace
from pathlib import Path

from gluscope_assets.core.pages.formats import format_count
from gluscope_assets.core.site.measured import MeasuredCheckpoint, Measurement, Pass
from gluscope_assets.core.site.site import render_site
from gluscope_assets_tests.support.made_up_layers import rows_of, site_map_of, study


def test_what_was_not_recorded_is_said_and_not_made_up(tmp_path: Path) -> None:
    made = study(2)
    ran = Pass((0, 2), "2026-01-02 03:04", 12000, 1.5, 1, None, "float32", (("torch", "2.13.0"),))
    measurement = Measurement(
        "", "c0ffee", 9, 8, (), (MeasuredCheckpoint("a", "x", "aa", ()), MeasuredCheckpoint("b", "y", "bb", (ran,)))
    )
    assert (measurement.seconds, measurement.dates) == (1.5, ("2026-01-02",))
    render_site(tmp_path, site_map_of(made), measurement)
    first, second = rows_of((tmp_path / "index.html").read_text(), "Checkpoints and what measuring them cost")
    assert first == ["a", "x", "aa", "not recorded"]
    cells = ["b", "y", "bb", "2026-01-02 03:04", "2", f"{format_count(12000)}and 1 shard before", "1.50 s", format_count(8000)]
    assert second == [*cells, "not recorded", "float32"]
    untimed = replace(measurement, checkpoints=(MeasuredCheckpoint("b", "y", "bb", (replace(ran, seconds=None),)),))
    assert untimed.seconds is None
    render_site(tmp_path, site_map_of(made), untimed)
    assert "not recorded" in (tmp_path / "index.html").read_text()
    mixed = replace(ran, software=(("torch", "2.14.0"),))
    both = replace(measurement, checkpoints=(MeasuredCheckpoint("b", "y", "bb", (ran, mixed)),))
    assert both.software == {"torch": "2.13.0, 2.14.0"}
