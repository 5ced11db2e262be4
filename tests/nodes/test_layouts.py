"""The committed layouts draw what they say; that the topics exist is asked of running nodes."""

from __future__ import annotations

from tests.nodes import layouts


def test_curves_are_labelled_with_the_field_they_draw() -> None:
    """Fields are picked by number: a number that points elsewhere would be a wrong picture."""
    plots = layouts.plotjuggler()
    assert len(plots) > 8
    for topic, titles, drawn in plots:
        assert titles == drawn, topic
    _, curves, _, _ = layouts.foxglove()
    assert len(curves) > 8
    assert [label for label, _ in curves] == [drawn for _, drawn in curves]


def test_every_panel_is_laid_out() -> None:
    """No panel is configured and never seen, none is seen and not configured."""
    _, _, panels, seen = layouts.foxglove()
    assert panels == seen
