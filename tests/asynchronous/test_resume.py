"""A server cut in the middle of an epoch goes on to the bit; nothing is applied twice or half."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.cases import assert_same_bits
from support.cut_training import through_a_file
from support.resume import BUILDS, make_model, own_copy, samples, snapshot
from torch import nn

from yfkernels.asynchronous import Batches, CosineGate, Refusal, Server, Simulator
from yfkernels.asynchronous.engines.simulator import memoryless, round_robin

EVERY_BUILD = {**BUILDS, "Adam": torch.optim.Adam}
X, Y = samples(6)  # 48 of them
BATCH = 5
CUT = 14  # pushes: in the second epoch


class Training:
    """A model, its server with batches, and a simulator."""

    def __init__(self, name: str, **options: Any) -> None:
        self.model = make_model()
        self.batches = Batches(len(X), BATCH, epochs=3, seed=4, clock=lambda: 0.0)
        optimizer = EVERY_BUILD[name](self.model.parameters())
        self.server = Server(self.model, optimizer, batches=self.batches, **options)
        self.simulator = Simulator(self.server, self._loss)
        self.seen: list[int] = []

    def _loss(self, batch: list[int] | None) -> torch.Tensor:
        assert batch is not None
        return nn.functional.mse_loss(self.model(X[batch]), Y[batch])

    def state(self) -> dict[str, Any]:
        state = own_copy(self.server.state_dict())
        return {**snapshot(self.model, self.server.optimizer), "server": state}


@pytest.mark.parametrize("name", EVERY_BUILD)
def test_resumes_in_the_middle_of_an_epoch(name: str) -> None:
    """What goes on beside what was loaded: the gradients under way are lost in both."""
    whole, resumed = (Training(name, staleness_rule=CosineGate()) for _ in range(2))
    steps = whole.simulator.steps(round_robin(4, 40))
    for _ in range(CUT):
        next(steps)
    saved = through_a_file(whole.server.state_dict())
    whole.batches.take_back_all("")
    resumed.server.load_state_dict(saved)
    assert_same_bits(resumed.state(), whole.state())
    rest = memoryless(3, 100, seed=1)
    assert resumed.simulator.run(rest) == whole.simulator.run(rest)
    assert whole.batches.finished
    assert_same_bits(resumed.state(), whole.state())


def test_every_batch_is_applied_once_across_a_resume() -> None:
    """30 batches make 30 versions, whatever was under way at the cut."""
    before, after = Training("SGD"), Training("SGD")
    steps = before.simulator.steps(round_robin(4, 40))
    for _ in range(CUT):
        next(steps)
    after.server.load_state_dict(through_a_file(before.server.state_dict()))
    records = after.simulator.run(round_robin(2, 100))
    assert after.batches.finished
    assert after.server.version.number == after.server.log.applied == 30
    assert [record.step for record in records] == list(range(CUT + 1, 31))


def test_a_push_from_before_the_resume_is_refused() -> None:
    training = Training("YellowFin")
    server, batches = training.server, training.batches
    lease, pulled = batches.lend(), server.pull()
    assert lease is not None
    server.load_state_dict(through_a_file(server.state_dict()))
    again = batches.lend()
    assert again is not None
    assert again.indices == lease.indices
    gradient = [torch.ones_like(flat) for flat in server.gradients]
    result = server.push(gradient, version=pulled.version, lease=again.number)
    assert result.refusal is Refusal.OTHER_RUN
    assert server.push(gradient, version=server.version, lease=again.number).applied


def test_a_cut_in_the_middle_of_a_step_loses_that_step() -> None:
    """The process dies in step(): its checkpoint knows nothing of the push, and lends it again."""
    before, after = Training("SGD"), Training("SGD")
    before.simulator.run(round_robin(1, 3))
    saved = through_a_file(before.server.state_dict())

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    before.server.optimizer.register_step_post_hook(die)
    with pytest.raises(KeyboardInterrupt):
        before.simulator.run(round_robin(1, 1))
    after.server.load_state_dict(saved)
    after.simulator.run(round_robin(1, 100))
    whole = Training("SGD")
    whole.simulator.run(round_robin(1, 100))
    assert_same_bits(after.state(), whole.state())


@pytest.mark.parametrize("name", EVERY_BUILD)
@pytest.mark.parametrize("options", [{}, {"max_staleness": 2}], ids=["", "refused"])
def test_a_simulation_goes_on_with_the_gradients_on_their_way(
    name: str, options: dict[str, Any]
) -> None:
    """Of the batches that are due at the cut, one may be due because it was just refused."""
    schedule = memoryless(4, 400, seed=2)
    whole, cut, resumed = (Training(name, **options) for _ in range(3))
    expected = whole.simulator.run(schedule)
    refused = [push for push, record in enumerate(expected, 1) if record.refusal]
    steps = cut.simulator.steps(schedule)
    first = [next(steps) for _ in range(refused[3] if refused else CUT)]
    saved = through_a_file(cut.simulator.state_dict())
    for _ in steps:  # what is saved does not change
        pass
    resumed.simulator.load_state_dict(saved)
    rest = list(resumed.simulator.steps(schedule, start=resumed.simulator.pushes))
    assert [*first, *rest] == expected
    assert any(record.refusal for record in rest) == bool(options)
    found, wanted = resumed.state(), whole.state()
    for state in (found, wanted):
        del state["server"]["batches"]["number"]  # leases lent again have new ones
    assert_same_bits(found, wanted)


def test_a_simulation_without_batches_goes_on() -> None:
    whole, resumed = ([nn.Parameter(torch.ones(1))] for _ in range(2))
    simulators = []
    for (x,) in (whole, resumed):
        server = Server([x], torch.optim.SGD([x], lr=0.1))
        simulators.append(Simulator(server, lambda batch, x=x: x.square().sum()))
    steps = simulators[0].steps(round_robin(3, 9))
    for _ in range(4):
        next(steps)
    simulators[1].load_state_dict(through_a_file(simulators[0].state_dict()))
    rest = simulators[1].steps(round_robin(3, 9), start=4)
    assert [*rest] == [*steps]
    assert torch.equal(resumed[0], whole[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("log"), "it lacks log; give what Server.state_dict"),
        (lambda s: s.update(parameters=[torch.ones(3)]), r"parameters are \[\(3, torch.float32"),
        (lambda s: s.update(batches=None), "saved without batches; construct the server without"),
        (lambda s: s.update(staleness_rule={}), "saved with staleness_rule"),
        (lambda s: s["batches"].update(samples=3), "saved with 3 samples"),
        (lambda s: s["optimizer"]["param_groups"].append({"params": []}), "parameter groups"),
    ],
)
def test_a_bad_checkpoint_changes_nothing(spoil: Any, message: str) -> None:
    training, server = Training("QHM"), Training("QHM").server
    training.simulator.run(round_robin(2, 5))
    saved = training.server.state_dict()
    spoil(saved)
    version, before = server.version, own_copy(server.state_dict())
    with pytest.raises(ValueError, match=message):
        server.load_state_dict(saved)
    assert server.version == version
    assert_same_bits(own_copy(server.state_dict()), before)
