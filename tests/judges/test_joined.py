"""Two judges as one."""

import numpy as np
import pytest

from efface.errors import BadInput
from efface.judges import open_judge
from efface.judges.pixels import PixelJudge
from efface.judges.wrappers import JoinedJudge


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def judge() -> JoinedJudge:
    copies = PixelJudge({"a caption": [picture(0)]})
    return JoinedJudge(copies, open_judge("emoji"), {"a caption": ("cat", "star")})


def test_each_is_asked_what_it_knows(judge: JoinedJudge) -> None:
    images = np.stack([picture(0), picture(1)])
    scores = judge.scores(images, ["cat", "a caption", "flat"])
    emoji = open_judge("emoji").scores(images, ["cat", "flat"])
    assert scores[:, [0, 2]] == pytest.approx(emoji)
    assert scores[0, 1] == 1 > scores[1, 1]
    assert (judge.threshold("a caption"), judge.threshold("cat")) == (0.95, open_judge("emoji").threshold("cat"))
    assert judge.floor("cat") == judge.threshold("cat")


def test_it_says_who_it_is(judge: JoinedJudge) -> None:
    assert judge.name == "pixels+emoji"
    assert open_judge("emoji").version in judge.version
    assert judge.peers("a caption") == ("cat", "star")
    assert "dog" in judge.peers("cat")
    assert judge.same("kitten", "cat")


def test_what_neither_knows(judge: JoinedJudge) -> None:
    assert not judge.knows("unicorn")
    with pytest.raises(BadInput, match="Neither"):
        judge.scores(picture(0)[None], ["unicorn"])
