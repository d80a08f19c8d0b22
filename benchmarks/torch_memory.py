"""The blocks of sharded_memory.cpp by PyTorch over gloo, for peak_memory.py.

torch_memory.py ddp|fsdp --ranks N        each rank prints base_mb
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn

from peak_memory import proportional_mb

DIM, HIDDEN, BLOCKS, STEPS = 1024, 1536, 8, 6


def train(rank, mode, ranks):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ.get("MASTER_PORT", "29511")}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    print(f"base_mb={proportional_mb("self")}", flush=True)
    model = nn.Sequential(*[
        nn.Sequential(nn.Linear(DIM, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, DIM)) for _ in range(BLOCKS)])
    if mode == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (ranks,))
        for block in model:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(STEPS):
        model(torch.randn(4, DIM)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["ddp", "fsdp"])
    parser.add_argument("--ranks", type=int, required=True)
    options = parser.parse_args()
    torch.multiprocessing.spawn(train, (options.mode, options.ranks), options.ranks)


if __name__ == "__main__":
    main()
