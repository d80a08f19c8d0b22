#!/usr/bin/env python3
"""Records what PyTorch's optimizers, and textbook forms of those it lacks, do in 100 steps.

    python tests/parity/record_optimizers.py [CASE...]     writes tests/golden/optimizers/<optimizer>.json

It needs PyTorch; the tests, which read the files, do not. tests/optim/golden_test.cpp has the same problem: two
parameters in two groups, each element with the gradient

    a x + b cos(b x) + 0.3 cos(step + i),     a = 0.5 + 0.1 i,     b = 1 + 0.05 i

where i numbers the elements of a parameter. The second parameter has no gradient in the steps 0, 3, 6, ...; LBFGS, which
has one group and evaluates the loss a x^2 / 2 + sin(b x), always has one and no term of the step.
"""

import json
import math
import pathlib
import sys

import torch

OUT = pathlib.Path(__file__).resolve().parent.parent / "golden" / "optimizers"
RECORDED = (1, 2, 3, 10, 30, 100)


def initial(shape, dtype):
    n = math.prod(shape)
    return (torch.sin(torch.arange(1, n + 1, dtype=torch.float64)) + 0.5).reshape(shape).to(dtype)


def coefficients(x):
    i = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
    return i, 0.5 + 0.1 * i, 1 + 0.05 * i


def gradient(x, step):
    i, a, b = coefficients(x)
    value = x.detach().double()
    return (a * value + b * torch.cos(b * value) + 0.3 * torch.cos(step + i)).to(x.dtype)


class Textbook(torch.optim.Optimizer):
    """Groups for the textbook optimizers below; `update` gets one parameter, its state and its group."""

    options = {}

    def __init__(self, groups, **options):
        super().__init__(groups, {**type(self).options, **options})

    def begin_group(self, group):
        pass

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            self.begin_group(group)
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)


class LAMB(Textbook):
    """You et al. 2020, arXiv:1904.00962, algorithm 2 with phi(z) = z."""

    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}

    def update(self, p, g, s, o):
        (b1, b2), s["t"] = o["betas"], s.get("t", 0) + 1
        s["m"] = b1 * s.get("m", torch.zeros_like(p)) + (1 - b1) * g
        s["v"] = b2 * s.get("v", torch.zeros_like(p)) + (1 - b2) * g * g
        r = (s["m"] / (1 - b1 ** s["t"])) / ((s["v"] / (1 - b2 ** s["t"])).sqrt() + o["eps"])
        u = r + o["weight_decay"] * p
        p_norm, u_norm = p.norm().item(), u.norm().item()
        ratio = p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0
        p.copy_(p - o["lr"] * ratio * u)


class Lion(Textbook):
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2."""

    options = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}

    def update(self, p, g, s, o):
        b1, b2 = o["betas"]
        m = s.get("m", torch.zeros_like(p))
        c = b1 * m + (1 - b1) * g
        p.copy_(p - o["lr"] * (c.sign() + o["weight_decay"] * p))
        s["m"] = b2 * m + (1 - b2) * g


class ScheduleFreeAdamW(Textbook):
    """Defazio et al. 2024, arXiv:2405.15682, algorithm 1 with x, y and z kept apart; learning rate, bias correction and
    the weights of the average as in the authors' https://github.com/facebookresearch/schedule_free."""

    options = {"lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 0, "r": 0.0,
                "weight_lr_power": 2.0}

    def begin_group(self, o):
        o["t"] = o.get("t", 0) + 1
        o["gamma"] = o["lr"] * (min(1.0, o["t"] / o["warmup_steps"]) if o["warmup_steps"] > 0 else 1.0)
        o["max"] = max(o.get("max", 0.0), o["gamma"])
        weight = o["t"] ** o["r"] * o["max"] ** o["weight_lr_power"]
        o["sum"] = o.get("sum", 0.0) + weight
        o["c"] = weight / o["sum"]

    def update(self, p, g, s, o):  # p is y
        b1, b2 = o["betas"]
        z, x = s.get("z", p.clone()), s.get("x", p.clone())
        s["v"] = b2 * s.get("v", torch.zeros_like(p)) + (1 - b2) * g * g
        direction = g / ((s["v"] / (1 - b2 ** o["t"])).sqrt() + o["eps"]) + o["weight_decay"] * p
        s["z"] = z - o["gamma"] * direction
        s["x"] = (1 - o["c"]) * x + o["c"] * s["z"]
        p.copy_((1 - b1) * s["z"] + b1 * s["x"])


VECTOR_AND_MATRIX = ([3, 4], [5])
MATRICES = ([3, 4], [5, 2])

# Optimizer, case, options of the first group, what the second has instead.
CASES = (
    (torch.optim.AdamW, "plain", dict(lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (torch.optim.AdamW, "amsgrad", dict(lr=0.02, weight_decay=0.1, amsgrad=True), dict(lr=0.05, weight_decay=0.3)),
    (torch.optim.AdamW, "float32", dict(lr=0.02, weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (torch.optim.Adam, "plain", dict(lr=0.02, betas=(0.8, 0.95), eps=1e-6), dict(lr=0.05)),
    (torch.optim.Adam, "amsgrad", dict(lr=0.02, weight_decay=0.1, amsgrad=True), dict(lr=0.05, weight_decay=0.3)),
    (torch.optim.SGD, "plain", dict(lr=0.02), dict(lr=0.05)),
    (torch.optim.SGD, "momentum", dict(lr=0.02, momentum=0.9, weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (torch.optim.SGD, "dampening", dict(lr=0.02, momentum=0.9, dampening=0.3, weight_decay=0.1), dict(lr=0.05, weight_decay=0.3)),
    (torch.optim.SGD, "nesterov", dict(lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1), dict(lr=0.05, weight_decay=0.3)),
    (torch.optim.SGD, "float32", dict(lr=0.02, momentum=0.9, weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (torch.optim.Adagrad, "plain", dict(lr=0.1), dict(lr=0.2)),
    (torch.optim.Adagrad, "decay", dict(lr=0.1, lr_decay=0.05, weight_decay=0.1, initial_accumulator_value=0.2), dict(lr=0.2, weight_decay=0.0)),
    (torch.optim.RMSprop, "plain", dict(lr=0.02, alpha=0.9), dict(lr=0.05, weight_decay=0.1)),
    (torch.optim.RMSprop, "centered_momentum", dict(lr=0.02, alpha=0.9, momentum=0.7, centered=True, weight_decay=0.1), dict(lr=0.01, weight_decay=0.0)),
    (torch.optim.Muon, "original", dict(lr=0.02, weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (torch.optim.Muon, "match_rms_adamw", dict(lr=0.02, momentum=0.8, nesterov=False, ns_steps=3, adjust_lr_fn="match_rms_adamw"), dict(lr=0.05)),
    (torch.optim.LBFGS, "fixed_step", dict(lr=0.1, max_iter=4, history_size=3), {}),
    (torch.optim.LBFGS, "strong_wolfe", dict(lr=1.0, max_iter=4, history_size=3, line_search_fn="strong_wolfe"), {}),
    (LAMB, "plain", dict(lr=0.02, betas=(0.8, 0.95), weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (Lion, "plain", dict(lr=0.002, betas=(0.9, 0.98), weight_decay=0.1), dict(lr=0.005, weight_decay=0.0)),
    (ScheduleFreeAdamW, "plain", dict(lr=0.02, betas=(0.9, 0.95), weight_decay=0.1), dict(lr=0.05, weight_decay=0.0)),
    (ScheduleFreeAdamW, "warmup", dict(lr=0.02, betas=(0.8, 0.99), warmup_steps=15, r=0.5, weight_lr_power=1.0), dict(lr=0.05)),
)  # fmt: skip


def evaluate(parameters):
    """Sets the gradients of the loss and returns it; the closure of LBFGS."""
    loss = 0.0
    for x in parameters:
        _, a, b = coefficients(x)
        x.grad = a * x.detach() + b * torch.cos(b * x.detach())
        loss += (0.5 * a * x.detach() ** 2 + torch.sin(b * x.detach())).sum()
    return loss


def options_of(group):
    """The options of a group under their names, without those that C++ has not."""
    without = ("params", "foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay", "t", "gamma",
               "max", "sum", "c")  # fmt: skip
    options = {k: v for k, v in group.items() if k not in without}
    if "adjust_lr_fn" in options:
        options["adjust_lr_fn"] = options["adjust_lr_fn"] or "original"
    return options


def record(make, case, first, second):
    dtype = torch.float32 if case == "float32" else torch.float64
    shapes = MATRICES if make is torch.optim.Muon else VECTOR_AND_MATRIX
    parameters = [initial(shape, dtype).requires_grad_() for shape in shapes]
    one_group = make is torch.optim.LBFGS
    if one_group:
        optimizer = make(parameters, **first)
    else:
        optimizer = make([{"params": [parameters[0]]}, {"params": [parameters[1]], **second}], **first)
    result = {"case": case, "dtype": str(dtype).removeprefix("torch."), "shapes": shapes,
              "groups": [options_of(g) for g in optimizer.param_groups], "parameters": {}}  # fmt: skip
    for step in range(100):
        if one_group:
            optimizer.step(lambda: evaluate(parameters))
        else:
            for i, p in enumerate(parameters):
                p.grad = None if i == 1 and step % 3 == 0 else gradient(p, step)
            optimizer.step()
        if step + 1 in RECORDED:
            result["parameters"][str(step + 1)] = [p.detach().double().flatten().tolist() for p in parameters]
    if make is ScheduleFreeAdamW:
        result["average"] = [optimizer.state[p]["x"].flatten().tolist() for p in parameters]
    return result


def main():
    wanted = sys.argv[1:]
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for make in dict.fromkeys(case[0] for case in CASES):
        name = make.__name__
        if wanted and name not in wanted:
            continue
        results = [record(*case) for case in CASES if case[0] is make]
        content = {"source": f"torch {torch.__version__.split('+')[0]}" if make.__module__.startswith("torch") else make.__doc__,
                   "cases": results}  # fmt: skip
        (OUT / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
