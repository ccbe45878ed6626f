"""Readers of folders: images, work that is resumed, judges and models."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np

import efface
from efface.errors import BadFile
from efface.files import sha256_of_file
from efface.generation.folder import FolderWriter, read_folder
from efface.generation.jobs import Job
from efface.generation.run import Recipe, Sampling
from efface.generation.runs import check_one_run, runs_in_one_folder
from efface.judges.emoji import EmojiJudge
from efface.models.emoji import HERE as EMOJI
from efface.work_folder import claim
from fuzzing.efface_files import PICTURE, emoji
from fuzzing.picture_mutations import picture, png
from fuzzing.reader import Reader
from fuzzing.tensor_mutations import safetensors_file
from fuzzing.text_mutations import damaged, json_file, json_lines

_WORK = {"a": [1, "x"]}


def _images(folder: Path) -> list[Path]:
    recipe = Recipe.of(emoji(), Sampling())
    with FolderWriter(folder / "images") as writer:
        for seed in range(4):
            writer.add(recipe.row(Job("a cat", seed, concept="cat")), PICTURE)
        writer.finish(list(writer.rows))
    return [folder / "images" / "metadata.jsonl"]


def _metadata(folder: Path) -> list[Path]:
    foreign = folder / "foreign" / "metadata.jsonl"
    foreign.parent.mkdir()
    rows = [{"file_name": f"{index}.png", "prompt": "a cat", "boxes": [[1]]} for index in range(3)]
    foreign.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [*_images(folder), foreign]


def _read_metadata(path: Path) -> object:
    images = read_folder(path.parent)
    for image in images:
        with suppress(OSError):  # pictures that cannot be read are counted
            image.pixels()
    runs_in_one_folder(images)
    for image in images:
        if "key" in image.row and "model_hash" in image.row:
            check_one_run(path.parent, [image.row])
    with FolderWriter(path.parent) as writer:
        return sorted(writer.rows)


def _generated_pictures(folder: Path) -> list[Path]:
    return [next(_images(folder)[0].parent.glob("*.png"))]


def _read_generated_picture(path: Path) -> object:
    with FolderWriter(path.parent) as writer:
        if path.name not in {row["file_name"] for row in writer.rows.values()}:
            raise BadFile("The picture is generated again.")
    return sha256_of_file(path)


def _work(folder: Path) -> list[Path]:
    with claim(folder / "work", "evaluate", _WORK, "report.html", False):
        (folder / "work" / "x").touch()
    return [folder / "work" / "efface.json"]


def _read_work(path: Path) -> None:
    with claim(path.parent, "evaluate", _WORK, "report.html", False):
        pass


def _judge(folder: Path) -> Path:
    return Path(shutil.copytree(EMOJI / "judge", folder / "judge"))


def _judge_settings(folder: Path) -> list[Path]:
    return [_judge(folder) / "config.json"]


def _judge_weights(folder: Path) -> list[Path]:
    return [_judge(folder) / "model.safetensors"]


def _read_judge(path: Path) -> object:
    judge = EmojiJudge.load(path.parent)
    if not judge.knows("cat"):
        return None
    return judge.scores(np.zeros((1, 64, 64, 3), np.uint8), [judge.peers("cat")[0]]).tolist()


def _copied_model(folder: Path) -> None:
    shutil.copytree(EMOJI / "weights", folder / "model")
    index = folder / "model" / "text_encoder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors"}}))


def _model_settings(folder: Path) -> list[Path]:
    _copied_model(folder)
    return sorted((folder / "model").rglob("*.json"))


def _model_weights(folder: Path) -> list[Path]:
    _copied_model(folder)
    return [folder / "model" / "text_encoder" / "model.safetensors"]


def _read_model(path: Path) -> None:
    root = next(folder for folder in path.parents if (folder / "unet").is_dir())
    model = efface.open_model(root)
    model.last_tokens(["a cat"])
    if path.parent.name in ("unet", "scheduler"):
        _ = model.denoiser, model.scheduler_config


_JSON = (damaged, json_file, json_file)
READERS = (
    Reader("metadata of images", _metadata, (damaged, json_lines, json_lines), _read_metadata),
    Reader(
        "generated pictures", _generated_pictures, (damaged, png, picture), _read_generated_picture,
        (damaged, png, picture), 0.5,
    ),
    Reader("marks of work folders", _work, (damaged, json_file), _read_work),
    Reader("settings of judges", _judge_settings, _JSON, _read_judge, share=0.5),
    Reader("weights of judges", _judge_weights, (damaged, safetensors_file), _read_judge, share=0.3),
    Reader("settings of models", _model_settings, _JSON, _read_model, share=0.5),
    Reader("weights of models", _model_weights, (damaged, safetensors_file), _read_model, share=0.1),
)  # fmt: skip
