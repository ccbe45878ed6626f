from dataclasses import replace

import pytest

from efface.metrics.base import Measured
from efface.metrics.rates import wilson
from efface.protocols import BASE
from efface.protocols.unlearncanvas import ENTRY as UNLEARNCANVAS
from efface.report.bars import judge_section, rate_bars, score_tables
from efface.report.destinations import destination_shares
from efface.report.plot import plots
from efface.report.words import series_of


def test_a_shared_past_is_one_bar_and_each_eraser_another(evaluation):
    found = {block.metric: block for block in rate_bars(evaluation(erasers=3))}
    assert list(found) == ["forget", "retain", "err"]
    forget = found["forget"]
    assert [bar.title for bar in forget.bars] == ["before", "eraser", "second", "third"]
    assert [bar.value for bar in forget.bars] == ["0%", "95%", "55%", "100%"]
    assert forget.bars[1].change.startswith("+95.0 points")
    assert forget.bars[0].mark == "base"


def test_different_pasts_are_told_apart(evaluation):
    made = evaluation(erasers=2)
    other = replace(made.erasers["second"], base={"forget": wilson(5, 20)})
    forget = rate_bars(replace(made, erasers={**made.erasers, "second": other}))[0]
    assert [bar.title for bar in forget.bars] == ["before eraser", "eraser", "before second", "second"]


def test_unknown_rates_come_after_the_known_ones(evaluation):
    made = evaluation()
    result = made.erasers["eraser"]
    made = replace(
        made,
        erasers={BASE: made.erasers[BASE], "eraser": replace(result, metrics={"new": wilson(1, 2), **result.metrics})},
    )
    assert [block.metric for block in rate_bars(made)] == ["forget", "retain", "err", "new"]


def test_values_of_two_extractors_never_stand_in_one_table(evaluation):
    clip, efficient = score_tables(evaluation(erasers=2, distances=True))
    assert (clip.extractor, [block.metric for block in clip.blocks]) == ("clip-b32", ["clip_score", "clip_accuracy"])
    assert (efficient.extractor, [block.metric for block in efficient.blocks]) == ("efficientnet-1", ["kid"])
    assert [bar.title for bar in clip.blocks[0].bars] == ["before", "eraser", "second"]
    assert [bar.value for bar in clip.blocks[0].bars] == ["30.5", "29.5", "28.5"]
    assert efficient.blocks[0].notes == ["against 40 images"]
    assert max(high for bar in clip.blocks[0].bars for high in bar.drawn) == 1


def test_a_metric_of_another_extractor_does_not_slip_into_the_table(evaluation):
    made = evaluation(erasers=2, distances=True)
    second = made.erasers["second"]
    foreign = {**second.metrics, "kid": Measured(3.0, 2.0, 4.0, 40, "score", "inception")}
    found = score_tables(replace(made, erasers={**made.erasers, "second": replace(second, metrics=foreign)}))
    assert {t.extractor: [bar.title for bar in t.blocks[-1].bars] for t in found} == {
        "clip-b32": ["before", "eraser", "second"],
        "efficientnet-1": ["eraser"],
        "inception": ["second"],
    }


def test_a_number_that_is_no_share_gets_no_percent(evaluation):
    made = evaluation()
    result = replace(made.erasers["eraser"], metrics={"ratio": Measured(3.5, 3.0, 4.0, 10)})
    made = replace(made, erasers={**made.erasers, "eraser": result})
    assert rate_bars(made) == []
    assert [(t.extractor, t.blocks[0].bars[0].value) for t in score_tables(made)] == [("", "3.5")]


def test_a_score_shows_its_paired_change(evaluation):
    clip, _ = score_tables(evaluation(distances=True))
    assert [bar.change for bar in clip.blocks[0].bars] == ["", "−1, −2 to +0; paired bootstrap, p=0.01"]


def test_an_attack_has_its_own_rate(evaluation):
    made = evaluation()
    result = replace(made.erasers["eraser"], attacks={"random_prefix": wilson(3, 4), "prompts": wilson(4, 4)})
    found = {block.metric: block.bars for block in rate_bars(replace(made, erasers={**made.erasers, "eraser": result}))}
    assert [bar.value for bar in found["adversarial: random_prefix"]] == ["75%"]
    assert [bar.value for bar in found["adversarial: prompts"]] == ["100%"]


def test_a_point_stands_where_its_rates_say_with_its_intervals(evaluation):
    (plot,) = plots(evaluation(erasers=2))
    assert (plot.forget, plot.keep) == ("forget", "retain")
    first, second = plot.points
    assert (first.x, first.y) == (plot.x.at(1.0), plot.y.at(0.95))
    assert second.x < first.x
    assert second.y > first.y
    assert first.whiskers.startswith(f"M{plot.x.at(first.keep.low)} {first.y}H{plot.x.at(1.0)}")
    assert f"{plot.x.at(0.97)} {plot.y.at(0.95)}" in plot.goal


@pytest.mark.parametrize(
    ("lows", "floor", "ticks"),
    [
        ((0.97, 0.95), 0.9, [0.9, 0.92, 0.94, 0.96, 0.98, 1]),
        ((0.8, 0.99), 0.75, [0.75, 0.8, 0.85, 0.9, 0.95, 1]),
        ((0.6, 0.6), 0.5, [0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ((0.1, 0.9), 0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_an_axis_begins_below_the_lowest_interval(evaluation, lows, floor, ticks):
    made = evaluation(erasers=2)
    results = dict(made.erasers)
    for name, low in zip(("eraser", "second"), lows, strict=True):
        rates = {"forget": Measured(0.99, low, 1, 9), "retain": Measured(1, 0.95, 1, 9)}
        results[name] = replace(results[name], metrics=rates)
    (plot,) = plots(replace(made, erasers=results))
    assert (plot.y.floor, plot.y.ticks) == (floor, ticks)
    assert plot.y.at(1) < plot.y.at(floor)
    assert (plot.before is None) is (floor > 0), "the unedited model forgets nothing"


def test_a_mark_that_another_would_hide_is_larger(evaluation):
    made = evaluation(erasers=3)
    results = {**made.erasers, "second": made.erasers["eraser"]}
    (plot,) = plots(replace(made, erasers=results))
    assert [point.size for point in plot.points] == [1.6, 1, 1]


def test_one_eraser_makes_no_trade_off(evaluation):
    assert list(plots(evaluation())) == []


def test_the_embedded_world_of_unlearncanvas_has_a_trade_off_too(evaluation):
    made = evaluation(erasers=2)
    rates = {"object_ua": wilson(9, 10), "object_ira": wilson(8, 10)}
    results = {name: replace(result, metrics=rates, base={}) for name, result in made.erasers.items()}
    (plot,) = plots(replace(made, erasers=results, metrics=UNLEARNCANVAS.metrics))
    assert (plot.forget, plot.keep) == ("object_ua", "object_ira")


def test_where_the_images_went_before_and_after(evaluation):
    found = destination_shares(evaluation(erasers=2))
    assert [(s.of.title, dict(s.counts)) for s in found["cat"]] == [
        ("before", {"concept": 20}),
        ("eraser", {"concept": 1, "guide": 19}),
        ("second", {"concept": 9, "guide": 11}),
    ]


def test_where_the_images_of_other_prompts_went_stands_behind_in_the_order_of_the_rates(evaluation):
    made = evaluation()
    by = {"indirect": {"cat": {"guide": 5}}, "adversarial": {"cat": {"broken": 1, "concept": 4}}}
    made = replace(
        made,
        erasers={
            name: replace(result, destinations={**result.destinations, **by}) for name, result in made.erasers.items()
        },
    )
    assert [(s.metric, s.of.title, dict(s.counts)) for s in destination_shares(made)["cat"]] == [
        ("forget", "before", {"concept": 20}),
        ("forget", "after", {"concept": 1, "guide": 19}),
        *(("indirect", title, {"guide": 5}) for title in ("before", "after")),
        *(("adversarial", title, {"concept": 4, "broken": 1}) for title in ("before", "after")),
    ]


def test_the_judge_is_described_concept_by_concept_from_the_unedited_model_alone(evaluation):
    made = evaluation(erasers=2)
    base = made.erasers[BASE]
    half = tuple(replace(s, shows=s.probe.job.seed % 2 == 0) if s.probe.concept == "house" else s for s in base.images)
    found = judge_section(replace(made, erasers={**made.erasers, BASE: replace(base, images=half)}))
    assert found
    assert [(bar.title, bar.value, bar.n) for bar in found.concepts] == [("house", "50%", 20), ("cat", "100%", 20)]
    assert "misses 2.5%" in found.meaning


def test_a_judge_without_recall_says_so(evaluation):
    made = evaluation()
    found = judge_section(replace(made, judge=replace(made.judge, recall=None, false_positive_rate=None)))
    assert found
    assert found.blocks == []
    assert "no recall" in found.meaning
    assert found.concepts == [], "no prompt names its concept"


def test_a_judge_that_nothing_is_asked_of_is_not_shown(evaluation):
    made = evaluation()
    silent = {name: replace(result, images=()) for name, result in made.erasers.items()}
    assert judge_section(replace(made, judge=replace(made.judge, recall=None), erasers=silent)) is None


@pytest.mark.parametrize("erasers", [1, 7])
def test_every_eraser_has_a_colour(evaluation, erasers):
    marks = [series.mark for series in series_of(evaluation(erasers=erasers)).values()]
    assert marks == ["base", "s0", "s1", "s2", "s3", "s4", "s5", "s0"][: erasers + 1]
