"""Muon beside AdamW, and optimizers that are told the loss."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bench.convergence import cell as training
from bench.convergence.campaign import Campaign
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.contestants.muon import MuonAndAdamW, hidden_weights
from bench.convergence.contestants.told import telling, with_told_loss
from bench.convergence.tasks import TASKS

torch_muon = getattr(torch.optim, "Muon", None)
needs_muon = pytest.mark.skipif(torch_muon is None, reason="this torch has no Muon")


class Everything(nn.Module):
    """An embedding, kernels, matrices, vectors, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.embedding = nn.Embedding(5, 6)
        self.hidden = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        seen = self.second(F.relu(self.first(images))).mean((2, 3)) + self.embedding(words)
        logits: Tensor = self.head(self.norm(F.relu(self.hidden(seen))))
        return logits


def names_of(model: nn.Module) -> list[str]:
    hidden = {id(param) for param in hidden_weights(model)}
    return [name for name, param in model.named_parameters() if id(param) in hidden]


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(7, 1, 4, 4, generator=generator)
    words, classes = (torch.randint(n, (7,), generator=generator) for n in (5, 3))
    return F.cross_entropy(model(images, words), classes)


def take(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def test_muon_gets_hidden_matrices_and_kernels() -> None:
    assert names_of(Everything()) == ["second.weight", "hidden.weight"]


@pytest.mark.parametrize(
    ("task", "hidden"),
    [
        ("digits-mlp", ["3.weight"]),
        ("digits-conv", ["3.weight", "7.weight"]),
        ("text-lstm", ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
        ("logistic", []),
        ("quadratic", []),
    ],
)
def test_of_the_tasks(task: str, hidden: list[str]) -> None:
    assert names_of(TASKS[task].build().model(0)) == hidden


def test_of_the_transformer_not_its_embeddings_and_head() -> None:
    names = names_of(TASKS["text-transformer"].build().model(0))
    assert len(names) == 8
    assert all(name.startswith("blocks.") for name in names)


@needs_muon
class TestMuonAndAdamW:
    def test_steps_as_the_two_do_alone(self) -> None:
        torch.manual_seed(0)
        ours, theirs = Everything(), Everything()
        theirs.load_state_dict(ours.state_dict())
        flat = nn.Parameter(theirs.second.weight.detach().flatten(1))
        rest = [p for n, p in theirs.named_parameters() if n not in names_of(theirs)]
        muon = torch_muon([flat, theirs.hidden.weight], lr=0.01, adjust_lr_fn="match_rms_adamw")
        adamw = AdamW(rest, lr=0.01, fused=True)
        optimizer = MuonAndAdamW(ours, lr=0.01)
        take(ours, optimizer, range(3))
        for step in range(3):
            theirs.zero_grad()
            loss_of(theirs, step).backward()
            flat.grad = theirs.second.weight.grad.flatten(1)
            muon.step()
            adamw.step()
        for one, other in zip(ours.parameters(), theirs.parameters()):
            assert torch.equal(one, other)

    def test_state_resumes_bit_for_bit(self) -> None:
        torch.manual_seed(0)
        model, again = Everything(), Everything()
        optimizer = MuonAndAdamW(model, lr=0.01)
        take(model, optimizer, range(2))
        saved = io.BytesIO()
        torch.save((model.state_dict(), optimizer.state_dict()), saved)
        saved.seek(0)
        weights, state = torch.load(saved)
        again.load_state_dict(weights)
        resumed = MuonAndAdamW(again, lr=1.0)
        resumed.load_state_dict(state)
        assert [group["lr"] for group in resumed.param_groups] == [0.01, 0.01]
        take(model, optimizer, range(2, 4))
        take(again, resumed, range(2, 4))
        for one, other in zip(model.parameters(), again.parameters()):
            assert torch.equal(one, other)

    def test_a_schedule_drives_both(self) -> None:
        model = Everything()
        optimizer = MuonAndAdamW(model, lr=0.01)
        schedule = LambdaLR(optimizer, lambda taken: 0.0 if taken else 1.0)
        take(model, optimizer, range(1))
        schedule.step()
        before = [param.clone() for param in model.parameters()]
        take(model, optimizer, range(1, 2))
        assert all(torch.equal(one, two) for one, two in zip(before, model.parameters()))

    def test_a_closure_is_called_once(self) -> None:
        model = Everything()
        optimizer = MuonAndAdamW(model, lr=0.01)
        calls = []

        def closure() -> Tensor:
            calls.append(1)
            optimizer.zero_grad()
            loss = loss_of(model, 0)
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0.0
        assert len(calls) == 1

    @pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.LayerNorm(4)])
    def test_without_hidden_matrices_it_is_adamw(self, model: nn.Module) -> None:
        assert len(MuonAndAdamW(model, lr=0.01).param_groups) == 1


class Asking(torch.optim.SGD):
    """Wants the loss as ScheduleFree+ does."""

    def step_func(self, function_value: float | None = None) -> None:
        heard.append(function_value)


heard: list[float | None] = []


@pytest.mark.usefixtures("tiny")
class TestTold:
    def test_each_step_hears_the_loss_of_its_batch(self) -> None:
        heard.clear()
        task = TASKS["tiny"].build()
        model = task.model(0)
        optimizer = with_told_loss(Asking)(model.parameters(), lr=0.1)
        records = list(training.train(telling(task, optimizer), model, optimizer, steps=5, seed=0))
        assert heard == [record.loss for record in records]

    def test_others_train_on_the_task_itself(self) -> None:
        task = TASKS["tiny"].build()
        assert telling(task, AdamW(task.model(0).parameters())) is task


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    "contestant",
    ["muon", "ademamix", "soap", "schedulefree-plus", "prodigy-plus"],
)
def test_trains_digits(contestant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (why := CONTESTANTS[contestant].why_absent) is not None:
        pytest.skip(why)
    monkeypatch.setitem(TASKS, "digits-mlp", replace(TASKS["digits-mlp"], steps=200))
    campaign = Campaign({"digits-mlp": ""}, [contestant], [0])
    trained = training.run(campaign.cell("digits-mlp", contestant, {}, 0))
    assert trained.final_loss < 0.6
    assert trained.test_accuracy > 0.85
