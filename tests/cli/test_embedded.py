"""The commands on the embedded model itself."""

from pathlib import Path

from efface import Eraser


def test_demo_shows_an_object_and_a_style_being_forgotten(efface):
    answer = efface("demo", "-n", 2, "-o", "demo", "--json").json()
    assert set(answer["erasers"]) == {"base", "cat", "pixel-art"}
    assert Path(answer["report"]).is_file()
    assert Path(answer["grid"]).is_file()
    assert Eraser.load("demo/pixel-art.safetensors").request.concepts[0].kind == "style"
    again = efface("demo", "-n", 2, "-o", "demo", "--json")
    assert again.code == 0
    assert again.err.count("\n") == 1
    assert {**again.json(), "seconds": answer["seconds"]} == answer
    assert "with other n" in efface("demo", "-n", 3, "-o", "demo").err


def test_demo_is_about_the_embedded_model_only(refused, tiny_sd):
    assert "efface evaluate" in refused("demo", "--model", tiny_sd)


def test_models_and_inspect_tell_what_the_embedded_model_draws(efface):
    models = efface("models", "--json").json()["models"]
    assert "cat" in models[0]["objects"]
    assert efface("models", "emoji", "--json").json() == {"models": models[:1], "pipelines": []}
    assert "efface inspect" in efface("models", "sd-v1-4").err
    content = efface("inspect", "--json").json()
    assert content["objects"] == models[0]["objects"]
    assert "pixel art" in content["styles"]
    assert content["text_parameters"]
    printed = efface("inspect").out
    assert f"objects: {', '.join(content['objects'])}" in printed.replace("\n", " ")
    assert "--details prints them" in printed
    details = "".join(efface("inspect", "--details").out.split())
    assert all(name in details for name in content["text_parameters"])
