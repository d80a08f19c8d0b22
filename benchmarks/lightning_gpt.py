"""A GPT of the same shape as examples/gpt on Lightning DDP or FSDP2 over gloo, on random tokens.

lightning_gpt.py [--fsdp] --ranks N --layers L --dim D --heads H --block B --batch N --steps S      rank 0 prints us_per_step
"""

import argparse
import logging
import os
import time
import warnings

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

VOCAB = 256


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc, self.out = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def attention(self, x):
        batch, seq, dim = x.shape
        parts = self.qkv(x).view(batch, seq, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, seq, dim))

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, options.dim), nn.Embedding(options.block, options.dim)
        self.blocks = nn.ModuleList(Block(options.dim, options.heads) for _ in range(options.layers))
        self.ln_f = nn.LayerNorm(options.dim)
        self.lm_head = nn.Linear(options.dim, VOCAB, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1)))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class GPT(lightning.LightningModule):
    def __init__(self, options):
        super().__init__()
        self.steps, self.is_sharded = options.steps, options.fsdp
        self.model = Model(options)

    def configure_model(self):
        if self.is_sharded:
            from torch.distributed.fsdp import fully_shard
            mesh = self.device_mesh["data_parallel"]
            for block in self.model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)

    def training_step(self, batch, batch_idx):
        if batch_idx == self.steps // 5:
            self.begin = time.perf_counter()
        tokens, targets = batch
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())
        self.log("train_loss", loss)
        return loss

    def on_train_end(self):
        if self.global_rank == 0:
            print(f"us_per_step={1e6 * (time.perf_counter() - self.begin) / (self.steps - self.steps // 5):.6g}", flush=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=not self.is_sharded)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fsdp", action="store_true")
    for name in ("ranks", "layers", "dim", "heads", "block", "batch", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(42)
    tokens = torch.randint(0, VOCAB, (options.ranks * options.batch * options.steps, options.block + 1))
    strategy = "auto"
    if options.fsdp:
        strategy = ModelParallelStrategy(
            data_parallel_size=options.ranks, tensor_parallel_size=1, process_group_backend="gloo")
    elif options.ranks > 1:
        strategy = DDPStrategy(process_group_backend="gloo")
    trainer = lightning.Trainer(
        max_steps=options.steps, accelerator="cpu", devices=options.ranks,
        strategy=strategy,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    if "LOCAL_RANK" in os.environ:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"]) % os.cpu_count()]})
    trainer.fit(GPT(options), DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=options.batch))


main()
