"""Named evaluations: which images to make, what to ask of them, and which rates come out."""

from efface.protocols.base import BASE as BASE
from efface.protocols.base import DESTINATIONS as DESTINATIONS
from efface.protocols.base import Probe as Probe
from efface.protocols.base import Protocol as Protocol
from efface.protocols.base import Shot as Shot
from efface.protocols.base import Unread as Unread
from efface.protocols.inputs import Inputs as Inputs
from efface.protocols.results import Calibration as Calibration
from efface.protocols.results import Evaluation as Evaluation
from efface.protocols.results import Result as Result
from efface.registry import Registry

PROTOCOLS: Registry[Protocol] = Registry(
    "protocol",
    {
        name: f"efface.protocols.{name}:PROTOCOL"
        for name in ("ablation", "coco", "i2p", "imagenette", "memorised", "style", "unlearncanvas")
    }
    | {"err": "efface.protocols.err:ERR"},
    "efface.protocols",
)
