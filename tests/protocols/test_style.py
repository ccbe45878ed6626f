"""Distances of pairs against LPIPS and features by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import efface
from efface.errors import BadInput
from efface.generation import Sampling, read_folder
from efface.judges import open_judge
from efface.metrics.features import open_extractor
from efface.metrics.lpips import AlexLpips, Lpips
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.run import run_protocol

QUICK = Sampling("ddim", 2, 3.0, batch_size=7)
ROWS = (("van gogh house", "Vincent van Gogh", 3), ("art by van gogh", "Vincent van Gogh", 4))
OTHERS = (("picasso cat", "Picasso", 5), ("picasso dog", "Picasso", 6), ("a line by picasso", "Picasso", 7))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "art.csv"
    rows = [f"{k},{prompt},{seed},{artist}" for k, (prompt, artist, seed) in enumerate((*ROWS, *OTHERS))]
    path.write_text("\n".join(("case_number,prompt,evaluation_seed,artist", *rows)) + "\n")
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS with random weights."""
    path = tmp_path_factory.mktemp("lpips") / "alex.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(AlexLpips().state_dict(), path)
    return path


def run(model: Model, eraser: efface.Eraser, judge: Any, out: Path, prompts: Path | None, **options: Any) -> Evaluation:
    entry, n = PROTOCOLS.get("style"), options.pop("n", 20)
    return run_protocol(
        entry, model, {"mine": eraser}, judge, out=out, n=n, sampling=QUICK, prompts=prompts, options=options
    )


def pairs(out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By prompt, the images after and before."""
    images = {
        name: {i.row["prompt"]: i.pixels() for i in read_folder(out / "images" / name)} for name in ("mine", BASE)
    }
    return {prompt: (pixels, images[BASE][prompt]) for prompt, pixels in images["mine"].items()}


def test_lpips_of_pairs(tiny_model: Model, prompts: Path, weights: Path, colours: Any, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "van gogh", to="art", kind="style")
    judge = colours("Vincent van Gogh", "Monet", "Dali")
    found = run(tiny_model, eraser, judge, tmp_path / "out", prompts, lpips=str(weights), side=64)
    net = Lpips(weights, side=64)
    far = {prompt: net.distances([x], [y])[0] for prompt, (x, y) in pairs(tmp_path / "out").items()}
    e, u = (np.mean([far[prompt] for prompt, *_ in rows]) for rows in (ROWS, OTHERS))
    scores = found.erasers["mine"].scores
    assert set(scores) == {"lpips_e", "lpips_u", "lpips_d"}
    assert scores["lpips_e"].value == pytest.approx(e, abs=1e-6)
    assert scores["lpips_u"].value == pytest.approx(u, abs=1e-6)
    difference = scores["lpips_d"]
    assert difference.value == pytest.approx(e - u, abs=1e-6)
    assert difference.low <= difference.value <= difference.high
    assert (scores["lpips_e"].n, scores["lpips_u"].n, difference.n) == (2, 3, 5)
    assert difference.extractor == net.version
    assert set(found.erasers["mine"].rates) == {"forget"}, "the judge does not know the others"
    assert found.erasers[BASE].scores == {}


def test_an_image_that_cannot_be_read_is_an_error(
    tiny_model: Model, prompts: Path, colours: Any, tmp_path: Path, spoiled: None
) -> None:
    eraser = efface.erase(tiny_model, "van gogh", to="art", kind="style")
    judge = colours("Vincent van Gogh", "Monet", "Dali")
    found = run(tiny_model, eraser, judge, tmp_path / "out", prompts, extractor="emoji-clip")
    assert found.erasers["mine"].metrics["distance_u"].n == 2
    assert [found.erasers[name].errors for name in (BASE, "mine")] == [1, 1]


def test_features_stand_in_under_a_name_of_their_own(emoji: Model, tmp_path: Path) -> None:
    eraser = efface.erase(emoji, "blueprint", to="flat", kind="style")
    found = run(emoji, eraser, open_judge("emoji"), tmp_path / "out", None, n=2)
    mine = found.erasers["mine"]
    extractor = open_extractor("emoji-clip")
    far: dict[str, float] = {}
    for prompt, (x, y) in pairs(tmp_path / "out").items():
        f, g = extractor.features([x]), extractor.features([y])
        far[prompt] = 1 - (f @ g.T).item() / np.linalg.norm(f) / np.linalg.norm(g)
    erased = [value for prompt, value in far.items() if "blueprint" in prompt]
    others = [value for prompt, value in far.items() if "blueprint" not in prompt]
    assert (len(erased), len(others)) == (2, 12)
    assert mine.metrics["distance_e"].value == pytest.approx(np.mean(erased), abs=1e-6)
    assert mine.metrics["distance_u"].value == pytest.approx(np.mean(others), abs=1e-6)
    assert "cos" in mine.metrics["distance_e"].extractor
    assert (mine.metrics["forget"].n, mine.metrics["retain"].n) == (2, 12)
    assert sum(mine.destinations["forget"]["blueprint"].values()) == 2


def test_bad_input(tiny_model: Model, prompts: Path, colours: Any, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "Monet", to="art", kind="style")
    with pytest.raises(BadInput, match="no prompt of 'Monet'; there are prompts of Vincent van Gogh, Picasso"):
        run(tiny_model, eraser, colours("Monet"), tmp_path / "out", prompts)
    with pytest.raises(BadInput, match="--prompts"):
        run(tiny_model, eraser, colours("Monet"), tmp_path / "out", None)
    plain = tmp_path / "plain.csv"
    plain.write_text("prompt\na cat\n")
    with pytest.raises(BadInput, match="column 'artist'"):
        run(tiny_model, eraser, colours("Monet"), tmp_path / "out", plain)
    Image.new("RGB", (8, 8)).save(tmp_path / "weights.png")
    eraser = efface.erase(tiny_model, "picasso", to="art", kind="style")
    with pytest.raises(BadInput, match=r"weights\.png"):
        run(tiny_model, eraser, colours("Picasso"), tmp_path / "out", prompts, lpips=str(tmp_path / "weights.png"))
