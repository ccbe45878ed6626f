"""Loading classes of libraries without their advice to programmers."""

import json
import logging
from pathlib import Path
from typing import Any

import transformers
from transformers.models import clip

from efface.models.pretrained import class_of
from efface.models.storage.folder import INDEX, Folder

NAME = "CLIPImageProcessor"


def advice(folder: Folder | None) -> list[str]:
    """What transformers logs when it imports an image processor, for a part of the folder or for other code."""
    lines: list[str] = []
    logger = logging.getLogger("transformers.utils.import_utils")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    for module in (transformers, clip):
        vars(module).pop(NAME, None)
    warning_once: Any = logger.warning_once  # pyright: ignore - transformers adds it, with a cache of its messages
    warning_once.cache_clear()
    logger.addHandler(handler)
    try:
        assert getattr(transformers, NAME) if folder is None else class_of(folder, "feature_extractor")
    finally:
        logger.removeHandler(handler)
    return lines


def test_advice_to_install_torchvision_is_hidden_from_users_of_efface_only(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"feature_extractor": ["transformers", NAME]}))
    settings = logging.getLogger("transformers.utils.import_utils")
    before = (list(settings.filters), settings.level)
    assert advice(Folder(tmp_path)) == []
    assert (list(settings.filters), settings.level) == before
    has_torchvision = transformers.utils.is_torchvision_available()
    assert any("torchvision" in line for line in advice(None)) is not has_torchvision
