"""Golden cases of mistakes: the exit code, and the message."""

from collections.abc import Callable

from commands import saved
from erasers import TINY_CONCEPTS, TINY_GUIDE
from lab import Lab, Outcome


def messages() -> dict[str, Callable[[Lab], Outcome]]:
    """Mistakes by name: only the exit code must hold, for wording gets better."""

    def of(*arguments: object, needs: Callable[[Lab], object] | None = None) -> Callable[[Lab], Outcome]:
        def ended(lab: Lab) -> Outcome:
            if needs:
                needs(lab)
            return lab.run(*arguments)

        return ended

    def damaged(lab: Lab) -> None:
        path = saved(lab)
        path.write_bytes(path.read_bytes()[:-20])

    def other(lab: Lab) -> None:
        lab.erase(*TINY_CONCEPTS, model="sd", to=TINY_GUIDE).save("cat.safetensors")

    return {
        "no concept": of("erase"),
        "empty concept": of("erase", ""),
        "twice": of("erase", "cat", "Cat"),
        "both ways": of("erase", "cat", "--preserve", "cat"),
        "guides": of("erase", "cat", "dog", "tiger", "--to", "car", "--to", "house"),
        "too long": of("erase", "cat " * 100),
        "setting": of("erase", "cat", "-s", "lamda=1"),
        "setting without value": of("erase", "cat", "-s", "lamb"),
        "method": of("erase", "cat", "--method", "magic"),
        "model": of("generate", "a cat", "--model", "no/such-model-here!"),
        "device": of("generate", "a cat", "--device", "magic"),
        "sampler": of("generate", "a cat", "--sampler", "magic"),
        "no prompt": of("generate"),
        "usage": of("erase", "cat", "--magic"),
        "command": of("magic"),
        "missing eraser": of("inspect", "gone.safetensors"),
        "damaged eraser": of("inspect", "cat.safetensors", needs=damaged),
        "other base": of("generate", "a cat", "-e", "cat.safetensors", needs=other),
        "exists": of("erase", "cat", "-o", "cat.safetensors", needs=saved),
        "protocol": of("evaluate", "cat.safetensors", "-p", "magic", needs=saved),
        "attack": of("attack", "cat.safetensors", "--attack", "magic", needs=saved),
        "format": of("export", "cat.safetensors", "--format", "magic", needs=saved),
        "nothing to ask": of("judge", "."),
        "debias for one": of("erase", "cat", "--goal", "debias", "--to", "dog"),
        "compose one": of("compose", "cat.safetensors", needs=saved),
        "no goal": of("erase", "cat", "--goal", "forget"),
        "diverged": of("erase", "cat", "--method", "esd", "-s", "lr=1e25", "-s", "iterations=2", "-s", "ddim_steps=2"),
    }
