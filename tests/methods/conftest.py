"""What tests of several methods share."""

import pytest

from efface import Model


@pytest.fixture
def loud_model(tiny_model: Model) -> Model:
    """The tiny model, hearing its text well enough for differences of predictions to be more than rounding."""
    for name, parameter in tiny_model.denoiser.named_parameters():
        if "attn2.to" in name:
            parameter.data *= 8
    return tiny_model
