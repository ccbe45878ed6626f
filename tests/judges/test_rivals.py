"""A judge with more peers."""

import numpy as np
import pytest
import torch

from efface.judges import open_judge
from efface.judges.shared.classifier import ClassifierJudge
from efface.judges.wrappers import WithPeers


def judge(n: int) -> ClassifierJudge:
    """A classifier of n classes; `gas pump` and `petrol pump` are one."""
    classes = [["gas pump", "petrol pump"], *([f"class {k}"] for k in range(1, n))]
    return ClassifierJudge("many", "1", classes, lambda images: torch.eye(n)[: len(images)], ())


def test_a_judge_of_many_classes_learns_its_rivals() -> None:
    plain = judge(200)
    wrapped = WithPeers(plain, ("petrol pump", "class 7", "unicorn", "class 7"))
    assert plain.peers("class 3") == ()
    assert wrapped.peers("class 3") == ("petrol pump", "class 7")
    assert wrapped.peers("gas pump") == ("class 7",), "not itself by another word"
    assert not wrapped.knows("unicorn")


def test_a_judge_that_names_all_of_them_gets_no_new_peers() -> None:
    plain = judge(3)
    assert WithPeers(plain, ("class 1", "petrol pump")).peers("class 2") == plain.peers("class 2")


def test_answers_are_the_judges_own() -> None:
    plain = open_judge("emoji")
    wrapped = WithPeers(plain, ("cat",))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert wrapped.scores(images, ["cat", "flat"]) == pytest.approx(plain.scores(images, ["cat", "flat"]))
    assert (wrapped.name, wrapped.version, wrapped.threshold("cat")) == (
        plain.name,
        plain.version,
        plain.threshold("cat"),
    )
    assert wrapped.floor("cat") == wrapped.threshold("cat")
    assert wrapped.same("kitten", "cat")
