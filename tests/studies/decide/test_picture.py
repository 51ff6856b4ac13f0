"""The picture of a decision says what its numbers say, in colour, in letters and in words."""

import re
import xml.etree.ElementTree as Xml

import pytest

from studies.decide.decision import (
    Axis,
    BreakEven,
    Contender,
    Decision,
    Goal,
    Interval,
    Member,
    Outcome,
    Place,
    Runs,
    Sampled,
    Stability,
)
from studies.decide.picture import draw, words
from studies.decide.picture_parts import MOST_ROWS, scale_of, told_first

SVG = "{http://www.w3.org/2000/svg}"
CONSTANT = "ndp.devices.unit.memory_bandwidth"


def place(label: str, ndp: float | None, chips: float | None, share: float = 1.0) -> Place:
    """A place where the larger of two values wins; None: it does not fit."""
    def outcome(name: str, value: float | None) -> Outcome:
        if value is None:
            return Outcome(candidate=name, status="unfit", why="experts take 57.98 GB & there are 48 GB")
        return Outcome(candidate=name, status="ran", value=value, interval=Interval(
            p5=value / 2, p50=value, p95=value * 2, samples=10, failed=0))

    top = max(ndp or 0.0, chips or 0.0)
    tied = ("ndp", "chips") if ndp == chips and ndp is not None else ()
    winner = None if tied or not top else "ndp" if ndp == top else "chips"
    margin = max(ndp, chips) / min(ndp, chips) if winner and ndp and chips else None
    return Place(at={"workload.batch": label}, label=f"batch {label}", outcomes=(outcome("ndp", ndp),
                 outcome("chips", chips)), winner=winner, tied=tied, margin=margin, stability=Stability(
                     samples=10, wins={}, ties=0, none=0, share=share, low=0.0, high=1.0) if top else None)


def turn(value: float | None, where: str = "within", keeps: str = "above", at: int = 0) -> BreakEven:
    return BreakEven.model_validate({"place": at, "constant": CONSTANT, "winner": "ndp", "other": "chips",
                                     "keeps": keeps, "value": value, "between": None, "unit": "B/s", "where": where,
                                     "text": "ndp wins while its bandwidth is above 310 GB/s."})


def decision(places: tuple[Place, ...], turns: tuple[BreakEven, ...] = (), title: str = "who?",
             axes: tuple[Axis, ...] | None = None) -> Decision:
    member = Member(candidate="ndp", path=CONSTANT.removeprefix("ndp."), value="512 GB/s", kind="assumed",
                    source="a guess", range=("200 GB/s", "600 GB/s"))
    bandwidth = Sampled(name=CONSTANT, label="unit memory_bandwidth", unit="B/s", value=512e9, low=200e9, high=600e9,
                        scale="linear", swing=2.0, members=(member,))
    batches = tuple(one.at["workload.batch"] for one in places)
    return Decision(
        name="made", title=title, verdict=("ndp wins.",), goal=Goal(
            name="output_tokens_per_s", unit="1/s", more=True, text="output tokens a second"),
        axes=(Axis(path="workload.batch", label="batch", values=batches),) if axes is None else axes,
        candidates=tuple(Contender(name=name, machine=name, options={}, memory_bytes=1, policies=(), searched=())
                         for name in ("ndp", "chips")),
        equal=None, places=places, constants=(bandwidth,), influences=(), break_evens=turns, frontier=(), stability=1.0,
        runs=Runs(search=0, samples=0, again=0, swings=0, break_even=0), samples=10, seed=0, beyond=4.0, study={})


def texts(picture: str) -> list[str]:
    """What is written in the picture, titles of pointers left out."""
    return [found.text or "" for found in Xml.fromstring(picture).iter(f"{SVG}text")]


def cell(picture: str, sentence: str) -> Xml.Element:
    """The group whose title begins so."""
    return next(group for group in Xml.fromstring(picture).iter(f"{SVG}g")
                if (title := group.find(f"{SVG}title")) is not None and (title.text or "").startswith(sentence))


def test_a_cell_tells_its_winner_by_colour_letter_lead_and_share() -> None:
    found = cell(draw(decision((place("1", 10.0, 5.0), place("8", 5.0, 20.0)))), "batch 8:")
    assert [rect.get("class") for rect in found.iter(f"{SVG}rect")] == ["s1"]
    assert [text.text for text in found.iter(f"{SVG}text")] == ["B 4.00x", "100 %"]


@pytest.mark.parametrize(("share", "hatched"), [(0.9, True), (1.0, False)])
def test_a_cell_whose_winner_is_unsure_is_hatched(share: float, hatched: bool) -> None:
    found = cell(draw(decision((place("1", 10.0, 5.0, share),))), "batch 1:")
    assert ("hatch" in [rect.get("class") for rect in found.iter(f"{SVG}rect")]) is hatched


def test_what_does_not_fit_has_a_corner_of_its_colour_with_the_sentence() -> None:
    found = cell(draw(decision((place("1", 10.0, None),))), "batch 1:")
    corner = next(found.iter(f"{SVG}path"))
    assert corner.get("class") == "s1 halo"
    assert corner.findtext(f"{SVG}title") == "chips: experts take 57.98 GB & there are 48 GB"
    assert "A alone" in [text.text for text in found.iter(f"{SVG}text")]


@pytest.mark.parametrize(("one", "other", "said"), [(7.0, 7.0, "tie"), (None, None, "none")])
def test_a_tie_and_nobody_have_no_winners_colour(one: float | None, other: float | None, said: str) -> None:
    found = cell(draw(decision((place("1", one, other),))), "batch 1:")
    assert [text.text for text in found.iter(f"{SVG}text")] == [said]
    assert "track" in [rect.get("class") for rect in found.iter(f"{SVG}rect")]


@pytest.mark.parametrize(("keeps", "first"), [("above", "s1"), ("below", "s0")])
def test_a_break_even_is_painted_by_who_wins_on_each_side(keeps: str, first: str) -> None:
    found = cell(draw(decision((place("1", 10.0, 5.0),), (turn(300e9, keeps=keeps),))), "ndp wins while")
    left, right = list(found.iter(f"{SVG}rect"))
    assert (left.get("class"), right.get("class")) == (first, "s0" if first == "s1" else "s1")
    low, high = float(left.get("width") or 0), float(right.get("width") or 0)
    assert low / (low + high) == pytest.approx((300 - 200) / (600 - 200), abs=0.01)
    assert "changes at 300 GB/s" in [text.text for text in found.iter(f"{SVG}text")]


def test_break_evens_beyond_a_range_show_the_range_and_come_last() -> None:
    turns = (turn(100e9, "beyond"), turn(300e9))
    made = decision((place("1", 10.0, 5.0),), turns)
    assert [one.where for one in told_first(made)] == ["within", "beyond"]
    beyond = [group for group in Xml.fromstring(draw(made)).iter(f"{SVG}g")
              if any(line.get("class") == "edge" for line in group.iter(f"{SVG}line"))]
    assert len(beyond) == 1


def test_a_constant_shows_at_most_two_break_evens_and_none_where_nothing_turns() -> None:
    places = tuple(place(str(i), 10.0, 5.0) for i in range(30))
    made = decision(places, tuple(turn(300e9 + i, at=i) for i in range(30)))
    assert len(told_first(made)) == 2 <= MOST_ROWS
    assert "28 more in decision.json" in texts(draw(made))
    assert "nowhere: no constant alone changes a winner" in texts(draw(decision(places, (turn(None, "nowhere"),))))


def test_the_words_of_the_picture_tell_every_place() -> None:
    made = decision((place("1", 10.0, 5.0, 0.8), place("8", None, 20.0)), (turn(300e9),))
    said = words(made)
    assert said[0] == "ndp wins."
    assert said[1].startswith("batch 1: ndp wins")
    assert "2.00x the next, in 80 % of 10 draws" in said[1]
    assert said[2].endswith("alone, in 100 % of 10 draws; ndp does not fit.")
    assert " ".join(said) == Xml.fromstring(draw(made)).findtext(f"{SVG}desc")


def test_names_from_outside_are_text() -> None:
    picture = draw(decision((place("1", 10.0, 5.0),), title="<script>alert(1)</script>&\x00"))
    assert "<script" not in picture
    assert texts(picture)[0] == "<script>alert(1)</script>&\ufffd"


@pytest.mark.parametrize("axes", [(), tuple(Axis(path=path, label=path, values=(value,)) for path, value in (
    ("a", "x"), ("b", "y"), ("workload.batch", "1")))])
def test_planes_of_no_and_of_three_axes_are_drawn(axes: tuple[Axis, ...]) -> None:
    one = place("1", 10.0, 5.0).model_copy(update={"at": {"a": "x", "b": "y", "workload.batch": "1"}})
    assert ("x, y" in texts(draw(decision((one,), axes=axes)))) is bool(axes)


def test_the_picture_is_one_file_that_fetches_nothing_and_repeats_its_bytes() -> None:
    made = decision((place("1", 10.0, 5.0),), (turn(300e9),))
    assert draw(made) == draw(made)
    assert re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?([^\"')\s]+)", draw(made)) == ["#hatch"]


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [1e-6, 5.0], [0.0, 3.0], [1e-300, 1e300], [3e-3, 3.1e-3]])
def test_every_value_lies_on_its_axis(values: list[float]) -> None:
    scale = scale_of(values)
    assert all(0 <= scale.share(value) <= 1 for value in values)
    assert 1 <= len(scale.ticks) <= 6
    assert all(-1e-9 <= scale.share(tick) <= 1 + 1e-9 for tick in scale.ticks)
