#pragma once
// Everything research code needs: `#include <trainer/api.h>`.

#include <torch/torch.h>

#include <callbacks/early_stopping.h>
#include <callbacks/learning_rate_monitor.h>
#include <callbacks/model_checkpoint.h>
#include <callbacks/model_summary.h>
#include <callbacks/progress_bar.h>
#include <loggers/csv_logger.h>
#include <loggers/jsonl_logger.h>
#include <loggers/tensorboard_logger.h>

#include <trainer/cli/cli.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/hash.h>
#include <trainer/core/registry.h>
#include <trainer/core/seed.h>
#include <trainer/data/combined_loader.h>
#include <trainer/data/data_module.h>
#include <trainer/data/readers/csv.h>
#include <trainer/data/readers/idx.h>
#include <trainer/data/readers/npy.h>
#include <trainer/data/readers/token_file.h>
#include <trainer/load_from_checkpoint.h>
#include <trainer/metrics/accuracy.h>
#include <trainer/metrics/mean.h>
#include <trainer/metrics/perplexity.h>
#include <trainer/module.h>
#include <trainer/optim/adagrad.h>
#include <trainer/optim/adam.h>
#include <trainer/optim/adamw.h>
#include <trainer/optim/clip.h>
#include <trainer/optim/grad_scaler.h>
#include <trainer/optim/lamb.h>
#include <trainer/optim/lbfgs.h>
#include <trainer/optim/lion.h>
#include <trainer/optim/lr_scheduler_factory.h>
#include <trainer/optim/lr_schedules.h>
#include <trainer/optim/muon.h>
#include <trainer/optim/optimizer_factory.h>
#include <trainer/optim/reduce_lr_on_plateau.h>
#include <trainer/optim/rmsprop.h>
#include <trainer/optim/schedule_free_adamw.h>
#include <trainer/optim/sgd.h>
#include <trainer/trainer.h>
