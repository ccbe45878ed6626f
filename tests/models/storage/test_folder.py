import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from efface import BadFile
from efface.models.storage.folder import Folder


def test_sharded_weights_are_one_part(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    for index in (1, 2):
        tensors = {f"w{index}": torch.full((2,), float(index)), f"b{index}": torch.zeros(1)}
        save_file(tensors, tmp_path / "unet" / f"diffusion_pytorch_model-0000{index}-of-00002.safetensors")
    folder = Folder(tmp_path)
    assert set(folder.names("unet")) == {"w1", "b1", "w2", "b2"}
    assert {name: float(tensor[0]) for name, tensor in folder.tensors("unet", ("w1", "w2"))} == {"w1": 1.0, "w2": 2.0}


def test_plain_weights_are_preferred_to_their_variants(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    names = ("model.fp16.safetensors", "model.non_ema.safetensors", "model.safetensors")
    for name in names:
        save_file({name: torch.zeros(1)}, tmp_path / "unet" / name)
    folder = Folder(tmp_path)
    assert (folder.variant("unet"), folder.names("unet")) == (None, ("model.safetensors",))
    (tmp_path / "unet" / "model.safetensors").unlink()
    assert (folder.variant("unet"), folder.names("unet")) == ("fp16", ("model.fp16.safetensors",))


def test_what_is_absent_or_no_mapping_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with pytest.raises(BadFile, match="unet"):
        folder.weights("unet")
    with pytest.raises(BadFile, match="model_index"):
        folder.index()
    (tmp_path / "model_index.json").write_text(json.dumps([1]))
    with pytest.raises(BadFile, match="not a JSON object"):
        folder.index()


@pytest.mark.parametrize("kind", ["EDMDPMSolverMultistepScheduler", "EDMEulerScheduler", "SCMScheduler"])
def test_a_scheduler_without_betas_is_complete(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "scheduler" / "scheduler_config.json"
    getattr(diffusers, kind)().save_pretrained(place.parent)
    assert Folder(tmp_path).config("scheduler")["_class_name"] == kind
    place.write_text(json.dumps({"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}))
    with pytest.raises(BadFile, match="beta_start"):
        Folder(tmp_path).config("scheduler")
