#!/usr/bin/env python3
"""Records what PyTorch's learning-rate schedulers do, for tests/optim/lr_scheduler_factory_test.cpp.

    record_schedulers.py > tests/golden/lr_schedulers.json

Run it by hand where PyTorch is installed; the tests read only what it wrote. Each line is one setting: the arguments as
YAML takes them, the learning rate of group 0 before each of 100 steps, that of group 1 before every tenth, and the
momentum of group 0 where the scheduler changes it.
"""

import json
import math
import warnings

import torch
from torch.optim import lr_scheduler as L

STEPS = 100
LRS = (0.1, 0.03)

warnings.simplefilter("ignore")


def optimizer(kind):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in LRS]
    return torch.optim.AdamW(groups) if kind == "AdamW" else torch.optim.SGD(groups, momentum=0.9)


def make(opt, name, args):
    if name == "SequentialLR":
        parts = [make(opt, part["class_path"], part["init_args"]) for part in args["schedulers"]]
        return L.SequentialLR(opt, parts, args["milestones"])
    if name == "ChainedScheduler":
        return L.ChainedScheduler([make(opt, part["class_path"], part["init_args"]) for part in args["schedulers"]])
    if name == "OneCycleLR" and "max_lr" not in args:
        args = {**args, "max_lr": list(LRS)}
    return getattr(L, name)(opt, **args)


def metric(step):
    """Falls, stalls, is NaN once, falls again; exact in every language."""
    if step == 47:
        return math.nan
    return 1 / (1 + min(step, 20)) if step < 60 else 1 / (step - 20)


def part(name, **args):
    return {"class_path": name, "init_args": args}


def record(name, kind="SGD", **args):
    opt = optimizer(kind)
    scheduler = make(opt, name, args)
    lrs, others, momentum = [], [], []
    for step in range(STEPS):
        group = opt.param_groups[0]
        lrs.append(group["lr"])
        momentum.append(group["betas"][0] if kind == "AdamW" else group["momentum"])
        if step % 10 == 0:
            others.append(opt.param_groups[1]["lr"])
        opt.step()
        if step < STEPS - 1:
            sign = -1 if args.get("mode") == "max" else 1
            scheduler.step(sign * metric(step)) if name == "ReduceLROnPlateau" else scheduler.step()
    line = {"class_path": name, "init_args": args, "optimizer": kind, "lrs": lrs, "others": others}
    if name == "OneCycleLR" and args.get("cycle_momentum", True):
        line["momentum"] = momentum
    return line


SETTINGS = (
    part("ConstantLR"), part("ConstantLR", factor=0.5, total_iters=40),
    part("LinearLR"), part("LinearLR", start_factor=0.001, end_factor=0.75, total_iters=99),
    part("LinearLR", start_factor=1.0, end_factor=0.0, total_iters=60),
    part("StepLR", step_size=30), part("StepLR", step_size=1, gamma=0.97),
    part("MultiStepLR", milestones=[10, 10, 35, 80]), part("MultiStepLR", milestones=[50], gamma=1.5),
    part("ExponentialLR", gamma=0.95), part("ExponentialLR", gamma=1.0),
    part("PolynomialLR", total_iters=100), part("PolynomialLR", total_iters=70, power=2.5),
    part("CosineAnnealingLR", T_max=100), part("CosineAnnealingLR", T_max=30, eta_min=0.002),
    part("CosineAnnealingWarmRestarts", T_0=10), part("CosineAnnealingWarmRestarts", T_0=7, T_mult=2, eta_min=0.001),
    part("OneCycleLR", total_steps=100), part("OneCycleLR", total_steps=100, kind="AdamW", max_lr=0.2, pct_start=0.45),
    part("OneCycleLR", total_steps=100, anneal_strategy="linear", three_phase=True, div_factor=10.0,
         final_div_factor=100.0, base_momentum=0.8, max_momentum=0.9),
    part("OneCycleLR", total_steps=100, cycle_momentum=False, pct_start=0.0),
    part("ReduceLROnPlateau", patience=3), part("ReduceLROnPlateau", mode="max", factor=0.5, patience=0, cooldown=4),
    part("ReduceLROnPlateau", factor=0.5, patience=1, threshold=0.01, threshold_mode="abs", min_lr=0.004, eps=0.001),
    part("ReduceLROnPlateau", mode="max", factor=0.9, patience=2, threshold=0.1),
    part("ChainedScheduler", schedulers=[part("LinearLR", total_iters=20), part("ExponentialLR", gamma=0.98)]),
    part("ChainedScheduler", schedulers=[part("ConstantLR"), part("StepLR", step_size=25),
                                         part("CosineAnnealingLR", T_max=99)]),
    part("SequentialLR", milestones=[10], schedulers=[part("LinearLR", start_factor=0.1, total_iters=10),
                                                      part("CosineAnnealingLR", T_max=90, eta_min=0.001)]),
    part("SequentialLR", milestones=[20, 60], schedulers=[part("ConstantLR", factor=0.1, total_iters=20),
                                                          part("ExponentialLR", gamma=0.9),
                                                          part("PolynomialLR", total_iters=30)]),
)

if __name__ == "__main__":
    lines = [json.dumps(record(setting["class_path"], **setting["init_args"])) for setting in SETTINGS]
    print("[\n" + ",\n".join(lines) + "\n]")
