"""A preserved prompt that the tokenizer would cut is rejected by every method that preserves prompts."""

from pathlib import Path
from typing import Any

import pytest

import efface
from efface import BadInput, Model
from efface.methods import METHODS
from tiny_families import tiny_sdxl

LONG = "a red house in the art of a golf ball by an artist"
#: Settings with which methods finish soon on a tiny model.
QUICK: dict[str, dict[str, Any]] = {"nullspace": {"layers": "0"}, "robust": {"rounds": 0}}
USING = [name for name in METHODS.names() if METHODS.get(name).uses_preserve]


@pytest.mark.parametrize("method", USING)
@pytest.mark.parametrize("preserve", [[LONG], ["a horse", f"{LONG} horse horse"]], ids=["alone", "second"])
def test_a_preserved_prompt_that_is_too_long_is_rejected(tiny_model: Model, method: str, preserve: list[str]) -> None:
    with pytest.raises(BadInput, match=f"'{LONG[:20]}.* tokens .* at most 12"):
        efface.erase(tiny_model, "cat", "dog", preserve=preserve, method=method, **QUICK.get(method, {}))


@pytest.mark.parametrize("method", ["oce", "uce"])
def test_in_a_file_of_many_prompts(tiny_model: Model, method: str, tmp_path: Path) -> None:
    (tmp_path / "preserve.txt").write_text("\n".join([*(f"{word} {LONG[:5]}" for word in ("car", "boat") * 40), LONG]))
    with pytest.raises(BadInput, match="at most 12"):
        efface.erase(tiny_model, "cat", "dog", preserve_file=tmp_path / "preserve.txt", method=method)


@pytest.mark.parametrize("method", ["oce", "uce", "cure"])
def test_with_two_tokenizers(tiny_sd: Path, method: str) -> None:
    with pytest.raises(BadInput, match="at most 12"):
        efface.erase(tiny_sdxl(tiny_sd), "cat", "dog", preserve=[LONG], method=method)


def test_the_built_in_prompts_are_cut_where_a_tokenizer_takes_few_tokens(tiny_model: Model) -> None:
    assert efface.erase(tiny_model, "cat", "dog", preserve=["a horse"], method="oce").edits
