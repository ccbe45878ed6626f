import re
from dataclasses import replace
from html.parser import HTMLParser

from efface.report import page

SCRIPT = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_names_prompts_and_errors_from_outside_are_escaped(evaluation):
    html = page(
        evaluation(concept=SCRIPT, guide='"><img src=x onerror=alert(1)>', error=f"judge said {SCRIPT}"), SCRIPT
    )
    tags = Tags(html).found
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_the_page_asks_the_network_for_nothing(evaluation):
    tags = Tags(page(evaluation())).found
    addresses = [value or "" for _, attrs in tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"url\(|@import", page(evaluation()))


def test_every_pair_shows_before_and_after(evaluation):
    tags = Tags(page(evaluation())).found
    pictures = [attrs["alt"] or "" for tag, attrs in tags if tag == "img"]
    assert sum(alt.startswith("before") for alt in pictures) == sum(alt.startswith("after") for alt in pictures) > 0


def test_a_failure_is_announced_and_listed(evaluation):
    html = page(evaluation(error="the judge raised OSError"))
    assert "1 image without a verdict" in html
    assert "the judge raised OSError" in html
    assert "without a verdict" not in page(evaluation())


def test_a_missing_picture_is_said_to_be_missing(evaluation, tmp_path):
    made = evaluation()
    for path in (tmp_path / "images").glob("base-*"):
        path.write_bytes(b"not a picture")
    assert "no image" in page(made)


def test_several_erasers_stand_side_by_side(evaluation):
    html = page(evaluation(erasers=2))
    assert html.count('<section class="verdict') == 2


def test_the_images_where_the_concept_came_through_are_shown(evaluation):
    html = page(evaluation())
    assert "Where “cat” came through" in html
    assert html.count('<figure class="failed">') == 2  # once among all, once among the failures


def test_a_certificate_is_shown_with_what_it_does_not_cover(evaluation):
    bounds = {
        SCRIPT: {"free": 0.0, "text": 0.621, "ceiling": 0.98},
        "dog": {"free": 0.25, "text": None, "ceiling": 1.0},
    }
    html = page(replace(evaluation(erasers=2), certificates={"eraser": bounds}))
    assert html.count("How far can it be undone?") == 1
    assert SCRIPT not in html
    rows = re.findall(r"<tr><th scope=\"row\">([^<]*)</th><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td></tr>", html)
    assert ("&lt;script&gt;alert(1)&lt;/script&gt;", "0%", "62.1%", "98%") in rows
    assert ("dog", "25%", "not known", "100%") in rows
    assert "not the picture" in html
    assert "fine-tuned weights" in html
    assert "How far can it be undone?" not in page(evaluation())


def test_long_lists_in_the_provenance_are_cut_short(evaluation):
    made = evaluation()
    html = page(replace(made, provenance={**made.provenance, "preserve": [f"prompt {i}" for i in range(10_000)]}))
    assert "prompt 49, and 9950 more" in html
    assert "prompt 50" not in html
