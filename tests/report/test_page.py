import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from efface.generation import Job
from efface.metrics.rates import wilson
from efface.protocols import BASE, FailedImage, Result
from efface.report import page
from efface.report.words import provenance_rows

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    """Every tag with its attributes, and whether each is closed where it should be."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.split("<body>")[1].split("<script>")[0]))


@pytest.mark.parametrize("evil", [SCRIPT, IMAGE])
def test_names_prompts_and_errors_from_outside_are_escaped(evaluation, evil):
    made = evaluation(concept=evil, guide=evil, error=f"judge raised {evil}", erasers=2, distances=True)
    bounds = {evil: {"free": 0.0, "text": None, "ceiling": 0.9}}
    made = replace(
        made,
        protocol=evil,
        judge=replace(made.judge, name=evil, version=evil),
        erasers={
            **{name: result for name, result in made.erasers.items() if name != "second"},
            evil: replace(made.erasers["second"], certificate=bounds),
        },
        comparisons=tuple(replace(row, second=evil, metric=evil) for row in made.comparisons),
        provenance={evil: evil, "model": evil, "erasers": {evil: {"method": evil}}},
    )
    html = page(made)
    tags = Tags(html).found
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert all((attributes["src"] or "").startswith("data:") for tag, attributes in tags if tag == "img")
    assert evil not in html
    assert evil not in page(evaluation(), title=evil)


def test_the_page_asks_the_network_for_nothing(evaluation):
    html = page(evaluation(erasers=2))
    tags = Tags(html).found
    addresses = [value or "" for _, attrs in tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"url\(|@import", html)


def test_the_page_runs_its_own_script_and_no_other(evaluation):
    html = page(evaluation())
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("erasers", [1, 3])
def test_every_tag_is_closed_and_every_address_leads_somewhere(evaluation, erasers):
    html = page(evaluation(erasers=erasers, error="broken", undecided=1, distances=True))
    tags = Tags(html)
    assert tags.open == []
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    steps = {"#closed", "#picture-0", f"#picture-{sum((i or '').startswith('picture-') for i in ids) + 1}"}
    assert {attrs["href"] for tag, attrs in tags.found if tag == "a"} <= {f"#{i}" for i in ids} | steps


def test_every_picture_says_what_it_is(evaluation):
    alts = [attrs["alt"] or "" for tag, attrs in Tags(page(evaluation())).found if tag == "img"]
    assert sum(alt.startswith("before: “a ") for alt in alts) == sum(alt.startswith("after: “a ") for alt in alts) > 0


def test_a_failure_is_announced_and_listed(evaluation):
    printed = text_of(page(evaluation(error="the judge raised OSError")))
    assert "1 image without a verdict." in printed
    assert "the judge raised OSError" in printed
    assert "without a verdict" not in text_of(page(evaluation()))


def test_what_the_judge_is_undecided_about_is_counted_and_is_no_error(evaluation):
    printed = text_of(page(evaluation(undecided=2)))
    assert "Undecided about 2 images." in printed
    assert printed.count("the judge is undecided") == 2
    assert "2 images without a verdict" not in printed


def test_a_failure_of_the_unedited_model_is_listed_too(evaluation):
    made = evaluation()
    base = made.erasers[BASE]
    spoilt = (replace(base.images[0], shows=None, score=float("nan"), error="cannot be read"), *base.images[1:])
    printed = text_of(page(replace(made, erasers={**made.erasers, BASE: replace(base, images=spoilt, errors=1)})))
    assert "cannot be read" in printed


def test_a_failure_of_what_no_question_is_asked_of_is_listed_too(evaluation, tmp_path):
    made = evaluation(distances=True)
    unread = (FailedImage(Job("a red car", 7), "the image cannot be read: it ends early"),)
    results = {
        name: replace(result, images=(), failed_images=unread, errors=1) for name, result in made.erasers.items()
    }
    html = page(replace(made, erasers=results))
    assert "2 images without a verdict." in text_of(html)
    assert 'id="unanswered"' in html
    assert text_of(html).count("the image cannot be read: it ends early") == 2


def test_a_missing_picture_is_said_to_be_missing(evaluation, tmp_path):
    made = evaluation()
    for path in (tmp_path / "images").glob("base-*"):
        path.write_bytes(b"not a picture")
    assert "no image" in page(made)


def test_where_no_pictures_are_kept_failures_are_a_list(evaluation, tmp_path):
    made = evaluation(erasers=2)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    html = page(made)
    assert "no image" not in html
    assert "Before and after" not in html
    assert '<ul class="plain"><li>a cat in style 2 <span class="faint">seed 8' in html


def test_several_erasers_stand_side_by_side(evaluation):
    html = page(evaluation(erasers=3))
    assert html.count('<section class="verdict') == 3
    assert "Forgetting against keeping" in html
    assert "Forgetting against keeping" not in page(evaluation())


def test_the_best_score_over_all_has_the_first_place_and_equals_share_it(evaluation):
    made = evaluation(erasers=3)
    assert re.findall(r"#(\d) by err", page(made)) == ["1", "3", "2"]
    alike = {**made.erasers, "third": made.erasers["eraser"]}
    assert re.findall(r"#(\d) by err", page(replace(made, erasers=alike))) == ["1", "3", "1"]
    less = {**alike, **{name: replace(alike[name], weight_change=c) for name, c in (("eraser", 2e-6), ("third", 1e-6))}}
    html = page(replace(made, erasers=less))
    assert re.findall(r"#(\d) by err", html) == ["2", "3", "1"]
    assert "weights changed by 2e−06" in html
    assert "by err" not in page(evaluation())


def test_erasers_are_compared_with_one_another_and_many_with_the_first(evaluation):
    printed = text_of(page(evaluation(erasers=3)))
    assert "The second minus the first, on the same prompts and seeds" in printed
    assert "second eraser forget −40.0 points, −" in printed
    assert "third second forget +45.0 points, " in printed
    assert re.search(r"third second forget \S+ points, \S+ to \S+ 0\.0039 20 ", printed), "9 changes, all one way"
    assert re.search(r"third eraser forget \+5\.0 points, \S+ to \S+ 1 20 ", printed), "1 change says nothing"
    assert "with the first eraser alone" not in printed
    printed = text_of(page(evaluation(erasers=5)))
    assert "Each is compared with the first eraser alone." in printed
    assert "third second" not in printed
    assert "Eraser against eraser" not in page(evaluation())


def test_scores_alone_are_measured_and_not_judged(evaluation):
    made = evaluation(distances=True)
    bare = {name: Result(r.scores) for name, r in made.erasers.items()}
    printed = text_of(page(replace(made, erasers=bare, judge=replace(made.judge, recall=None))))
    assert "Measured, not judged" in printed
    assert "features of clip-b32" in printed
    assert "The judge" not in printed


def test_the_title_names_what_was_erased_else_the_erasers_else_the_unedited_model(evaluation):
    made = evaluation(erasers=2)
    bare = {name: replace(result, images=()) for name, result in made.erasers.items()}
    for results, title in (
        (made.erasers, "Did the model forget “cat”?"),
        (bare, "What did “eraser” and “second” change?"),
        ({BASE: bare[BASE]}, "The unedited model"),
    ):
        html = page(replace(made, erasers=results, comparisons=()))
        assert f"<title>{title}</title>" in html
        assert title in text_of(html)


def test_a_certificate_is_shown_with_what_it_does_not_cover(evaluation):
    bounds = {
        SCRIPT: {"free": 0.0, "text": 0.621, "ceiling": 0.98},
        "dog": {"free": 0.25, "text": None, "ceiling": 1.0},
    }
    made = evaluation()
    certified = {**made.erasers, "eraser": replace(made.erasers["eraser"], certificate=bounds)}
    html = page(replace(made, erasers=certified))
    assert html.count("How far can it be undone?") == 1
    assert SCRIPT not in html
    rows = re.findall(r"<tr><th scope=\"row\">([^<]*)</th><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td></tr>", html)
    assert ("&lt;script&gt;alert(1)&lt;/script&gt;", "0%", "62.1%", "98%") in rows
    assert ("dog", "25%", "not known", "100%") in rows
    assert "not the picture" in html
    assert "fine-tuned weights" in html
    assert "How far can it be undone?" not in page(evaluation())


def test_where_images_went_is_stated_rate_by_rate(evaluation):
    made = evaluation()
    by = {"indirect": {"cat": {"guide": 5}}, SCRIPT: {"cat": {"broken": 1}, "kitten": {"nothing": 1}}}
    results = {
        name: replace(result, destinations={**result.destinations, **by}) for name, result in made.erasers.items()
    }
    html = page(replace(made, erasers=results))
    assert Tags(html).open == []
    printed = text_of(html).split("Where the images went")[1]
    assert "before 20 after 1 19 Asked for in other words (indirect) before 5 after 5" in printed
    assert SCRIPT not in html
    assert "“kitten”" in printed
    assert "blank or noise" in printed


def test_long_lists_in_the_provenance_are_cut_short(evaluation):
    made = evaluation()
    html = page(replace(made, provenance={**made.provenance, "preserve": [f"prompt {i}" for i in range(10_000)]}))
    assert "prompt 49; and 9950 more" in html
    assert "prompt 50" not in html


def test_an_unknown_protocol_without_pictures_or_forgetting_has_a_page(evaluation):
    made = evaluation()
    results = {BASE: Result({"novel": wilson(3, 4)}), "mine": Result({"novel": wilson(1, 4)})}
    printed = text_of(page(replace(made, protocol="other", erasers=results, provenance={})))
    assert "Measured, not judged" in printed
    assert "novel" in printed
    assert "25%" in printed


def test_a_threshold_that_holds_for_many_concepts_is_one_row():
    thresholds = {**{f"thing {i}": 0.5 for i in range(20)}, "cat": 0.7}
    record = {"judge": {"name": "emoji", "thresholds": thresholds}, "n": 24, "none": None, "empty": {}}
    rows = list(provenance_rows(record))
    many = "; ".join(f"thing {i}" for i in range(20))
    assert rows == [
        ("judge.name", "emoji"),
        ("judge.thresholds", f"0.5: {many}"),
        ("judge.thresholds", "0.7: cat"),
        ("n", "24"),
        ("none", "–"),
        ("empty", "–"),
    ]


def test_a_request_is_stated_in_full():
    concepts = [{"name": "cat", "guide": "dog", "aliases": [], "kind": "object"}, {"name": "car", "guide": None}]
    assert list(provenance_rows({"concepts": concepts})) == [("concepts", "name cat, guide dog, kind object; name car")]
