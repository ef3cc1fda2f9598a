"""For timm: its factory and its training script know the optimizers of this package by name.

Importing this module registers them:

    import yfkernels.integrations.timm
    optimizer = timm.optim.create_optimizer_v2(model, opt="yellowfin")
"""

from __future__ import annotations

from yfkernels.integrations._optional import required
from yfkernels.optim.lamb import LAMB
from yfkernels.optim.qhadam import QHAdam
from yfkernels.optim.qhm import QHM
from yfkernels.optim.yellowfin import YellowFin

factory = required("timm.optim._optim_factory")

NAMES = {
    "yellowfin": (YellowFin, "tunes its step size and momentum; lr is a multiplier"),
    "yflamb": (LAMB, "fused LAMB, with the recipe of timm's"),
    "qhm": (QHM, "quasi-hyperbolic momentum"),
    "qhadam": (QHAdam, "quasi-hyperbolic Adam"),
}
"""What the optimizers are called in timm, which takes what is before an underscore for a wrapper.

timm's script has a learning rate of its own unless told otherwise: give YellowFin ``--lr 1.0
--sched none``. Without `lr`, ``create_optimizer_v2`` leaves the default to the optimizer. timm
passes `eps` and `betas` to LAMB and QHAdam only, and `momentum` to none of these; ``--opt-kwargs
max_norm=1.0`` and the like reach the constructor.
"""


def register() -> None:
    """Enters NAMES into timm's registry; done when this module is imported."""
    for name, (optimizer, description) in NAMES.items():
        adamlike = optimizer in (LAMB, QHAdam)
        factory.default_registry.register(
            factory.OptimInfo(
                name=name,
                opt_class=optimizer,
                description=description,
                has_eps=adamlike,
                has_betas=adamlike,
            )
        )


register()
