"""`torchrun --nproc-per-node 2 examples/fsdp_checkpoint.py` saves a sharded model and resumes."""

import os
import shutil
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard  # torch >= 2.6
from torch.optim import Optimizer

import yfkernels


def build(device: torch.device) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)).to(device)
    fully_shard(model)  # of a large model, each of its blocks before it
    return model, yfkernels.YellowFin(model.parameters())


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    """Each process has batches of its own; the losses are means over all processes."""
    device = next(model.parameters()).device
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step * dist.get_world_size() + dist.get_rank())
        inputs = torch.randn(64, 20, generator=generator).to(device)
        targets = inputs[:, :5].argmax(dim=1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        losses.append(mean.item())
    return losses


def main() -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group()  # NCCL for GPUs, gloo for CPUs
    is_first = dist.get_rank() == 0
    folder = [tempfile.mkdtemp() if is_first else None]
    dist.broadcast_object_list(folder)

    model, optimizer = build(device)
    losses = train(model, optimizer, range(50))
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder[0])
    losses += train(model, optimizer, range(50, 100))

    model, optimizer = build(device)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder[0])
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
    resumed = train(model, optimizer, range(50, 100))

    if is_first:
        shutil.rmtree(folder[0])
        print(f"loss: {losses[0]:.4f} -> {losses[-1]:.4f}")
        print("resumed with the same losses:", resumed == losses[50:])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
