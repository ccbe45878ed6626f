from dataclasses import replace

import numpy as np
from PIL import Image

from efface.protocols import BASE
from efface.report.pictures import before_and_after, data_url, open_picture, pairs_of, spread, write_grid


def test_pairs_share_prompt_and_seed_and_need_both_sides(evaluation):
    made = evaluation()
    base, after = made.erasers[BASE], made.erasers["eraser"]
    found = pairs_of(base, after, "forget", "cat")
    assert len(found) == 20
    assert all(pair.before.probe.job == pair.after.probe.job for pair in found)
    assert pairs_of(replace(base, images=base.images[1:]), after, "forget") == found[1:]
    assert [pair.failed for pair in found] == [True] + [False] * 19


def test_a_spread_shows_every_prompt_before_it_shows_one_twice(evaluation):
    made = evaluation()
    found = pairs_of(made.erasers[BASE], made.erasers["eraser"], "forget")
    prompts = [pair.after.probe.job.prompt for pair in found]
    assert len({pair.after.probe.job.prompt for pair in spread(found, 3)}) == len(set(prompts)) == 3
    assert len(spread(found, 7)) == 7
    assert len({pair.after.probe.job for pair in spread(found, 100)}) == 20
    assert len(spread(found, 2)) == 2


def test_small_pictures_are_inlined_exactly_and_large_ones_smaller(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    picture.save(tmp_path / "small.png")
    picture.resize((1024, 1024)).save(tmp_path / "large.png")
    assert (data_url(tmp_path / "small.png") or "").startswith("data:image/png;base64,")
    assert (data_url(tmp_path / "large.png") or "").startswith("data:image/jpeg;base64,")
    assert data_url(tmp_path / "missing.png") is None
    assert open_picture(None) is None


def test_the_grid_has_a_row_before_and_a_row_after(evaluation, tmp_path):
    made = evaluation()
    found = pairs_of(made.erasers[BASE], made.erasers["eraser"], "forget")[:5]
    write_grid([before_and_after("cat → dog", found), before_and_after("empty", [])], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 5 * 96
        assert sheet.height > 2 * 96
