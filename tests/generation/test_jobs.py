"""Jobs and sampling settings: what is refused, and the defaults of pipelines."""

import sys
from typing import Any

import pytest

from efface.errors import BadInput
from efface.generation.jobs import Job, Sampling, repeated
from efface.generation.schedulers import make_scheduler
from efface.models import Model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "magic"}, "Unknown sampler 'magic'; there is: .*ddim"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"guidance": -1.0}, "0 or more"),
        ({"guidance": float("nan")}, "0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Sampling(**settings)


def test_copies_of_a_job_have_seeds_of_their_own() -> None:
    jobs = repeated([Job("a cat", 3), Job("a dog", 4)], 3)
    assert len({(job.prompt, job.seed) for job in jobs}) == len(jobs) == 6
    with pytest.raises(BadInput, match="at least 1"):
        repeated([Job("a cat")], 0)


def test_samplers_need_a_schedule_of_betas_and_lms_scipy(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dict(tiny_model.scheduler_config)
    own = make_scheduler(config, Sampling("own", 5))
    assert type(own).__name__ == config["_class_name"]
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    for sampler in ("dpm++", "ddim", "lms"):
        with pytest.raises(BadInput, match="needs a model trained on a schedule of betas"):
            make_scheduler(flow, Sampling(sampler, 5))
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_lms_discrete", None)
    with pytest.raises(BadInput, match="needs SciPy"):
        make_scheduler(config, Sampling("lms", 5))
