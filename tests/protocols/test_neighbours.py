"""Near neighbours by the text encoder: the nearest by the published cosine, without spellings of the concept."""

import pytest
import torch

from efface import open_model
from efface.errors import BadInput
from efface.models import Model
from efface.protocols.neighbours import propose_neighbours
from efface.request.record import Concept, Request

CANDIDATES = ("dog", "horse", "house", "car", "boat", "bird", "cats", "cat", "apple", "of")


def test_it_is_the_order_of_centred_cosines(tiny_model: Model) -> None:
    stored = [word for word in CANDIDATES if word not in ("cat", "cats", "of")]
    rows = tiny_model.last_tokens([*stored, "cat"]).double()
    centred = rows - rows[:-1].mean(dim=0)
    cosines = torch.nn.functional.cosine_similarity(centred[:-1], centred[-1:])
    expected = [stored[i] for i in cosines.argsort(descending=True).tolist()]
    assert propose_neighbours(tiny_model, Request.make("cat"), CANDIDATES, count=len(stored)) == {"cat": expected}


def test_several_concepts_and_few_candidates(tiny_model: Model) -> None:
    request = Request(concepts=(Concept(name="cat", aliases=("parrot",)), Concept(name="van gogh", kind="style")))
    found = propose_neighbours(tiny_model, request, ("parrot", "picasso"), count=5)
    assert found == {"cat": ["picasso"], "van gogh": ["picasso"]}


def test_without_candidates_it_is_the_tokenizers_words(tiny_model: Model) -> None:
    (found,) = propose_neighbours(tiny_model, Request.make("cat"), count=4).values()
    assert len(found) == 4
    assert set(found) <= set(tiny_model.words()) - {"cat"}
    with pytest.raises(BadInput, match="no words to propose"):
        propose_neighbours(tiny_model, Request.make("cat"), ("cats",))


def test_the_embedded_model_knows_what_is_near_a_cat() -> None:
    (found,) = propose_neighbours(open_model("emoji"), Request.make("cat"), count=10).values()
    assert {"kitten", "kitty", "tiger", "feline", "lion", "dog"} & set(found)
