"""Bringing from the hub: from its cache, which stands in for it here, and without it."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from efface import open_model
from efface.generation import read_prompts

Keep = Callable[..., Path]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """A cache of the hub without the hub; the function returns the folder of one name."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def keep(kind: str, name: str) -> Path:
        root = cache / f"{kind}--{name.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        snapshot = root / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    return keep


def test_i2p_is_brought_as_it_is_published(efface, hub):
    content = "prompt,sd_seed,sd_guidance_scale\na quiet street,3,7\n"
    (hub("datasets", "AIML-TUDA/i2p") / "i2p_benchmark.csv").write_text(content)
    answer = efface("fetch", "i2p", "--json").json()
    assert answer["path"] == "i2p_benchmark.csv"
    assert Path("i2p_benchmark.csv").read_text() == content
    assert read_prompts("i2p_benchmark.csv")[0].seed == 3
    assert "--force" in efface("fetch", "i2p").err


def test_unlearncanvas_is_laid_out_as_its_protocol_reads_it(efface, hub):
    def jpeg(colour: str) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
        return buffer.getvalue()

    printed = [
        "A Dogs image in Van Gogh style.",
        "An Architectures image in Van Gogh style",
        "A Dogs image in Van Gogh style",
        "?",
    ]
    rows = {"image": [{"bytes": jpeg(c), "path": None} for c in ("red", "blue", "green", "white")], "text": printed}
    folder = hub("datasets", "OPTML-Group/UnlearnCanvas") / "data"
    folder.mkdir()
    pq.write_table(pa.table(rows), folder / "train-00000-of-00001.parquet")
    answer = efface("fetch", "unlearncanvas", "-o", "canvas", "--json").json()
    assert answer["use"] == "--protocol unlearncanvas --data canvas"
    found = sorted(str(path) for path in Path("canvas").rglob("*.jpg"))
    assert found == [
        "canvas/Van_Gogh/Architectures/1.jpg",
        "canvas/Van_Gogh/Dogs/1.jpg",
        "canvas/Van_Gogh/Dogs/2.jpg",
    ]
    assert Path(found[0]).read_bytes() == jpeg("blue")
    again = efface("fetch", "unlearncanvas", "-o", "canvas")
    assert again.code == 0, "what is there is left as it is"


def test_a_model_is_brought_to_where_its_name_finds_it(efface, hub, tiny_sd):
    snapshot = hub("models", "someone/tiny")
    for path in tiny_sd.rglob("*"):
        if path.is_file():
            (snapshot / path.relative_to(tiny_sd)).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / path.relative_to(tiny_sd)).write_bytes(path.read_bytes())
    ended = efface("fetch", "models", "someone/tiny")
    assert (ended.code, ended.err) == (0, "")
    assert "--model someone/tiny" in ended.out
    assert open_model("someone/tiny").family == "sd"


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("i2p",), "place it at i2p_benchmark.csv, and pass --prompts"),
        (("unlearncanvas", "-o", "there"), "there/STYLE/OBJECT/NUMBER.jpg, and pass --data there"),
        (("models", "CompVis/stable-diffusion-v1-4"), "in a folder, as diffusers lays them out, and pass --model"),
    ],
)
def test_without_the_hub_it_says_in_one_line_what_to_place_where(efface, hub, arguments, printed):
    ended = efface("fetch", *arguments)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("efface: ")
    assert "https://huggingface.co/" in ended.err
    assert printed in ended.err
    assert not list(Path().iterdir())


def test_what_makes_no_sense(refused, hub):
    assert "models, i2p, unlearncanvas" in refused("fetch", "coco")
    assert "Name the model" in refused("fetch", "models")
    assert "OWNER/NAME" in refused("fetch", "models", "a/b/c")
    assert "leave -o out" in refused("fetch", "models", "a/b", "-o", "x")


def test_a_data_set_of_something_else_is_refused(refused, hub):
    pq.write_table(
        pa.table({"image": [{"bytes": b"x", "path": None}], "text": ["a dog"]}), hub("datasets", "a/b") / "x.parquet"
    )
    assert "is it UnlearnCanvas?" in refused("fetch", "unlearncanvas", "a/b")
