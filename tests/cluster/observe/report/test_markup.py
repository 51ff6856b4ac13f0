"""Markup, axes and pictures: escaping in one place, human steps, and every share where it belongs."""

import xml.etree.ElementTree as ET
from html import unescape

import pytest

from cluster.observe.attribution import LABELS
from cluster.observe.report.axes import BANDWIDTH, BYTES, TIME, axis
from cluster.observe.report.bars import Bar, Segment, Stack, bars, stacks
from cluster.observe.report.colours import FAMILIES, HEAT, SERIES, by_family, family
from cluster.observe.report.heat import heat_map, levels
from cluster.observe.report.markup import Markup, number, tag, text
from cluster.observe.report.page import page
from cluster.observe.report.plots import Curve, cumulative, over_time
from emulation.lowering.emit import CAUSES

HOSTILE = "</script><script>alert(1)</script>\" onload='x' &amp; \x00\x1b\u202e"


def test_text_from_outside_is_never_markup() -> None:
    for written in (tag("p", HOSTILE), tag("p", title=HOSTILE), bars([Bar(HOSTILE, 1.0, HOSTILE)]),
                    stacks([Stack(HOSTILE, (Segment("s0", 1.0, HOSTILE, HOSTILE),), HOSTILE)])):
        parsed = ET.fromstring(written)
        assert [element.tag for element in parsed.iter()].count("script") == 0
        assert not any(key.startswith("on") for element in parsed.iter() for key in element.attrib)
        assert "\x00" not in written
        assert "\u202e" not in written
    assert ET.fromstring(tag("p", HOSTILE)).text == HOSTILE.replace("\x00", "\ufffd").replace(
        "\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert text(Markup("<b>")) == "<b>"


@pytest.mark.parametrize(("most", "unit", "ticks"), [
    (0.0087, TIME, ["0 ms", "5 ms"]),
    (288.2, TIME, ["0 s", "100 s", "200 s"]),
    (3.2e-6, TIME, ["0 µs", "1 µs", "2 µs", "3 µs"]),
    (58e9, BANDWIDTH, ["0 GB/s", "20 GB/s", "40 GB/s"]),
    (4e12, BYTES, ["0 TB", "1 TB", "2 TB", "3 TB", "4 TB"])])
def test_axes_step_by_one_two_or_five_in_the_unit_that_reads_best(most: float, unit: object, ticks: list[str]) -> None:
    found = axis(most, unit)  # type: ignore[arg-type]
    assert [words for _, words in found.ticks] == ticks
    assert found.end == most
    whole = axis(most, unit, whole=True)  # type: ignore[arg-type]
    assert whole.end >= most * (1 - 1e-9)
    assert whole.ticks[-1][0] == whole.end


def test_an_axis_of_nothing_has_no_steps() -> None:
    assert axis(0.0, TIME).ticks == ((0.0, "0 ps"),)


def test_segments_are_as_wide_as_their_share_and_behind_each_other() -> None:
    parts = (Segment("s0", 1.0, "", "one"), Segment("s1", 3.0, "", "three"))
    drawn = ET.fromstring(stacks([Stack("a", parts, "4", total=8.0)]))
    found = [(rect.get("x"), rect.get("width")) for rect in drawn.iter("rect") if "seg" in str(rect.get("class"))]
    assert found == [("0%", "12.5%"), ("12.5%", "37.5%")]


def test_a_bar_ends_where_its_amount_does_and_its_mark_where_the_bound_is() -> None:
    drawn = ET.fromstring(bars([Bar("a", 2.0, "2", mark=1.0), Bar("b", 4.0, "4")]))
    rects = {str(rect.get("class")): rect for rect in drawn.iter("rect")}
    assert [rect.get("width") for rect in drawn.iter("rect") if rect.get("class") == "s0"] == ["50%", "100%"]
    assert rects["mark"].get("x") == "25%"


def test_curves_stand_on_each_other_and_end_with_the_run() -> None:
    drawn = ET.fromstring(over_time("x", [Curve("a", "s0", [1.0, 1.0]), Curve("b", "s1", [0.0, 1.0])], BYTES, 1.0, 1.5,
                                    stacked=True))
    lower, upper = (path.get("d") for path in drawn.iter("path"))
    # two slices, of which the second is cut to half; 2 B high
    assert lower == "M0 500H1000H1000V1000H667V1000H0Z"
    assert upper == "M0 500H667V0H1000H1000V500H667V500H0Z"


def test_a_distribution_rises_at_each_observed_time() -> None:
    drawn = ET.fromstring(cumulative("x", [Curve("a", "s0", [4.0, 1.0, 2.0, 2.0])]))
    path, = (path.get("d") for path in drawn.iter("path"))
    assert path == "M0 1000H250V750H500V500H1000V0H1000"


def test_equal_cells_of_a_row_are_one_stroke() -> None:
    assert levels([0, 0.1, 0.25, 9], (0.25, 0.5, 1, 2, 4, 8)) == [0, 1, 2, 7]
    drawn = ET.fromstring(heat_map("x", ["r", "s"], [[0, 3, 3, 1], [3, 0, 0, 0]], ["one", "two"], axis(4.0, TIME)))
    paths = {path.get("class"): path.get("d") for path in drawn.iter("path")}
    assert paths == {"cell q1": "M3 0.5h1", "cell q3": "M1 0.5h2M0 1.5h1"}


def test_every_label_has_one_colour_and_amounts_are_kept() -> None:
    named = [label for entry in FAMILIES for label in entry.labels]
    assert len(named) == len(dict.fromkeys(named))
    assert [label for label in (*LABELS, *CAUSES) if label not in named] == []
    amounts = {label: i + 1 for i, label in enumerate(LABELS)}
    assert sum(by_family(amounts).values()) == sum(amounts.values())
    assert family("demand") == family("demand load")


def _luminance(colour: str) -> float:
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_from_the_page_in_both_schemes() -> None:
    pairs = {entry.name: (entry.light, entry.dark) for entry in FAMILIES if entry.name != "idle"}
    pairs |= {f"s{i}": pair for i, pair in enumerate(SERIES)}
    weak = {name: (light, dark) for name, (light, dark) in pairs.items()
            if _contrast(light, "#f7f8fa") < 3 or _contrast(dark, "#1a1f26") < 3}
    assert weak == {}
    for scheme in (0, 1):
        steps = [_luminance(pair[scheme]) for pair in HEAT]
        assert steps == sorted(steps, reverse=scheme == 0)


def test_a_page_lets_in_only_its_own_style_and_script() -> None:
    written = page(HOSTILE, "", Markup("<p>x</p>"), scripts=("let a=1",))
    assert written.count("<script>") == 2
    assert unescape(written).count("'sha256-") == 3
    assert "default-src 'none'" in unescape(written)


@pytest.mark.parametrize(("value", "written"), [(1.0, "1"), (0.125, "0.12"), (-0.001, "0"), (7, "7"), (0, "0")])
def test_coordinates_are_short(value: float, written: str) -> None:
    assert number(value) == written
