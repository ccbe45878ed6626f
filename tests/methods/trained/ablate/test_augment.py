"""Shrunk and enlarged pictures: the published numbers, and masks that hold nothing but the picture."""

from collections import Counter

import pytest
import torch

from efface.methods.trained.ablate.augment import LARGE, SMALL, augmented, mirrored, resized, unchanged_view
from efface.methods.training.objective import seeded


@pytest.mark.parametrize(("size", "factor"), [(16, 2), (64, 4), (512, 8)])
def test_views_are_what_the_published_code_makes(size: int, factor: int) -> None:
    picture, side = torch.ones(3, size, size), size // factor
    seen: Counter[str] = Counter()
    draws = 400 if size < 512 else 60
    for number in range(draws):
        view = augmented(picture, factor, seeded(number))
        assert view.picture.shape == (3, size, size)
        assert view.mask.shape == (1, side, side)
        seen[view.prefix] += 1
        if view.prefix not in SMALL:
            assert bool((view.mask == 1).all())
            torch.testing.assert_close(view.picture, picture)
            continue
        shown = (view.picture[0] > 0).nonzero()
        (top, left), (bottom, right) = shown.min(0).values.tolist(), (shown.max(0).values + 1).tolist()
        assert bottom - top == right - left < 0.6 * size
        assert bottom - top >= size // 3
        expected = torch.zeros(side, side)
        expected[top // factor + 1 : bottom // factor - 1, left // factor + 1 : right // factor - 1] = 1
        assert torch.equal(view.mask[0], expected)
        assert float(view.mask.sum()) > 0
    shares = {name: sum(seen[prefix] for prefix in prefixes) / draws for name, prefixes in
              (("small", SMALL), ("large", LARGE), ("whole", ("",)))}  # fmt: skip
    assert shares["large"] == pytest.approx(1 / 3, abs=0.15)
    # Of sides from S / 3 to S, those below 0.6 S; fewer of a tiny picture, whose mask would be empty.
    assert shares["small"] == pytest.approx(2 / 3 * (0.4 if size > 16 else 0.33), abs=0.15)
    assert all(seen[prefix] for prefix in (*SMALL, *LARGE, ""))


def test_an_enlarged_picture_is_a_crop_of_it() -> None:
    ramp = torch.linspace(-0.9, 0.9, 64).expand(3, 64, 64)
    for number in range(40):
        view = augmented(ramp, 4, seeded(number))
        if view.prefix in LARGE:
            step = (view.picture[0, 32, 1:] - view.picture[0, 32, :-1])[8:-8].mean()
            assert 1.8 / 63 / 1.45 < float(step) < 1.8 / 63 / 1.15
            break
    else:
        pytest.fail("none of 40 was enlarged")


def test_pictures_stay_in_range_and_mirror_every_other_time() -> None:
    noise = torch.rand(3, 16, 16, generator=seeded(0)).round() * 2 - 1
    assert float(resized(noise, 10).abs().max()) <= 1
    flips = [bool(torch.equal(mirrored(noise, seeded(i)), noise.flip(-1))) for i in range(100)]
    assert 30 < sum(flips) < 70
    assert torch.equal(unchanged_view(noise, 2).picture, noise)
