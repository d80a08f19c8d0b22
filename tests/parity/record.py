"""Trains DigitsMLP and a GPT of 0.1 M parameters with PyTorch Lightning and writes what parity_test.cpp compares with.

    record.py DIGITS_CSV_GZ FOLDER

FOLDER gets mlp.safetensors and gpt.safetensors, the weights that both sides start from (bfloat16, so that they are
small and exact in float32), and curves.json: for each scenario the loss of the batch that ended each of 200 steps. The
scenarios are written down a second time in parity_test.cpp.
"""

import gzip
import json
import math
import pathlib
import sys
import warnings

import lightning as L
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules

STEPS = 200
NUM_BATCHES = 36


class MLP(nn.Module):
    """examples/digits, DigitsMLP with hidden = 128."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.fc2 = nn.Linear(128, 10)

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.fc2(torch.relu(self.fc1(x.flatten(1)))), y)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.ln2 = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, 4 * dim)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x):
        batch, seq, dim = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(batch, seq, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, seq, dim))
        return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class GPT(nn.Module):
    """examples/gpt with vocab_size = 17, block_size = 64, num_layers = 2, num_heads = 2, dim = 64."""

    def __init__(self, vocab_size=17, block_size=64, num_layers=2, heads=2, dim=64):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, dim)
        self.wpe = nn.Embedding(block_size, dim)
        self.h = nn.ModuleList(Block(dim, heads) for _ in range(num_layers))
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                is_residual = name.endswith(("proj.weight", "out.weight"))
                nn.init.normal_(parameter, 0, 0.02 / (math.sqrt(2 * num_layers) if is_residual else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def loss(self, batch):
        x, y = batch
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.h:
            h = block(h)
        return F.cross_entropy(self.lm_head(self.ln_f(h)).flatten(0, 1), y.flatten())


def batches_of(table, name):
    """In the file's order: images of 32 for the MLP; for the GPT the pixels as one long text, 8 windows of 64 a batch."""
    if name == "mlp":
        x = torch.tensor(table[:, :64] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
        y = torch.tensor(table[:, 64], dtype=torch.int64)
        return [(x[i * 32:(i + 1) * 32], y[i * 32:(i + 1) * 32]) for i in range(NUM_BATCHES)]
    text = torch.tensor(table[:, :64].reshape(-1), dtype=torch.int64)
    windows = torch.stack([text[i * 64:i * 64 + 65] for i in range(8 * NUM_BATCHES)])
    return [(w[:, :-1], w[:, 1:]) for w in windows.reshape(NUM_BATCHES, 8, 65)]


def adamw(model):
    # fused: the kernel that optim::AdamW calls too. At twice this rate the GPT's curve is chaotic: noise of 1e-7 in the
    # gradients, which any other order of operations is, grows to 1e-3 in 200 steps.
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


def warmup_cosine(optimizer, warmup, total):
    return schedules.SequentialLR(
        optimizer,
        [schedules.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup),
         schedules.CosineAnnealingLR(optimizer, T_max=total - warmup)],
        milestones=[warmup])


def scheduled(model):
    optimizer = adamw(model)
    return {"optimizer": optimizer,
            "lr_scheduler": {"scheduler": warmup_cosine(optimizer, 20, 200), "interval": "step"}}


def two_groups(model):
    is_vector = [(p, p.dim() < 2) for p in model.parameters()]
    return torch.optim.AdamW([{"params": [p for p, v in is_vector if v], "weight_decay": 0.0},
                              {"params": [p for p, v in is_vector if not v]}], lr=1e-3, weight_decay=0.1, fused=True)


# Name, optimizers, arguments of the Trainer.
SCENARIOS = (
    ("adamw", adamw, {}),
    ("sgd", lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), {}),
    ("accumulate", adamw, {"accumulate_grad_batches": 4, "gradient_clip_val": 1.0}),
    ("warmup_cosine", scheduled, {}),
    ("two_groups", two_groups, {}),
    ("bf16", adamw, {"precision": "bf16-mixed"}),
)


class Module(L.LightningModule):
    def __init__(self, model, configure):
        super().__init__()
        self.model = model
        self.configure = configure
        self.batch_losses = []

    def training_step(self, batch, _):
        loss = self.model.loss(batch)
        self.batch_losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return self.configure(self.model)


def curve(model, batches, configure, arguments):
    module = Module(model, configure)
    trainer = L.Trainer(max_steps=STEPS, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, **arguments)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    window = arguments.get("accumulate_grad_batches", 1)
    return module.batch_losses[window - 1::window]


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(sys.argv[1], "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=0, ndmin=2)
    curves = {"torch": torch.__version__, "lightning": L.__version__}
    for name, kind in (("mlp", MLP), ("gpt", GPT)):
        torch.manual_seed(0)
        start = {key: value.detach().to(torch.bfloat16) for key, value in kind().state_dict().items()}
        save_file(start, folder / f"{name}.safetensors", metadata={"format": "pt"})
        batches = batches_of(table, name)
        for scenario, configure, arguments in SCENARIOS:
            model = kind()
            model.load_state_dict({key: value.float() for key, value in start.items()})
            losses = curve(model, batches, configure, arguments)
            assert len(losses) == STEPS, len(losses)
            curves[f"{name}/{scenario}"] = losses
            print(f"{name}/{scenario}: {losses[0]:.4f} to {losses[-1]:.4f}")
    (folder / "curves.json").write_text(json.dumps(curves, indent=0) + "\n")


if __name__ == "__main__":
    main()
