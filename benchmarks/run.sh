#!/usr/bin/env bash
# Builds the release preset with the benchmarks and runs one of them. The last line is its result,
# `NAME ratio=<median> min=<min> max=<max>`: time, ours by theirs. Needs tools/setup.sh.
#
#   benchmarks/run.sh NAME [--runs N]
#
#   NAME            ours                              theirs                            goal
#   step_overhead   Trainer::fit, small MLP           hand-written LibTorch loop        ratio <= 1.05
#   five_logs       the same, 5 logged values         the same loop                     ratio <= 1.10
#   log_cost        a step with 11 log() calls        a step with one                   ns_per_log < 1000
#   cold_start      start to first training step      a bare LibTorch program's         start_s <= 0.8
#   loader          DataLoader on the digits          PyTorch's DataLoader              ratio <= 0.1
#   vs_lightning    Trainer::fit, small MLP           the same on Lightning             ratio <= 0.1
#   ddp             DDP on 2 ranks, GPT 0.1 M         our own step on 1 rank            ratio <= 1.12
#   fsdp            FSDP on 2 ranks, GPT 0.1 M        our own step on 1 rank            ratio <= 1.2
#   sharded_memory  FSDP on 2 ranks, 100 MB, AdamW    DDP                               ratio <= 0.6
#   allreduce       all_reduce between 2 ranks        MPI_Allreduce                     speed_26m >= 1.2
#   soak            an hour of ranks that fail        the same run, left alone          share >= 0.85
#
# The lines before the last: log_cost says what a call costs (ns_per_log), vs_lightning has the ratio of start-up (at
# most 0.2) and of resident memory (ours at most 180 MB), and loader how much of the time of a step the examples wait
# for their data (wait_share, at most 0.05).
# ddp also has the same step by that of Lightning DDP over gloo (at most 0.263), and of GPT 10.9 M the throughput by that
# of two copies on one rank each, running at the same time (throughput, at least 0.985; Lightning's beside it). Each rank
# has one core. allreduce has what a small one adds (added_us, at most 0.3) and the worst speed from 16 KB to 1 MB (0.95).
# fsdp has the same by Lightning's FSDP2 (at most 0.083), of GPT 10.9 M the throughput (at least 0.96) beside that of our DDP
# and Lightning's FSDP2, and what meeting operators costs one rank (intercepted, at most 1.1). sharded_memory has peaks in
# MB over what a rank holds before it builds the model (sharded at most 4 x 100 / 2 + 3 x 12.6 = 239), and PyTorch's.
# soak is two hours: benchmarks/soak.py has options for less, and for ranks that are stopped (share at least 0.65).
# ddp, fsdp, sharded_memory, loader and vs_lightning install Lightning into .deps/venv-lightning first (5 GB).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}
name="" runs=5
while (($# > 0)); do
  case $1 in
    -h | --help) usage && exit ;;
    --runs) [ $# -gt 1 ] || { usage >&2 && exit 2; }
      runs=$2 && shift 2 ;;
    -*) usage >&2 && exit 2 ;;
    *) name=$1 && shift ;;
  esac
done
case $name in
  step_overhead | five_logs | log_cost | cold_start | loader | vs_lightning | ddp | fsdp | sharded_memory | allreduce | soak) ;;
  *) usage >&2 && exit 2 ;;
esac

cmake --preset release -DTRAINER_BUILD_BENCHMARKS=ON >&2
cmake --build --preset release >&2
programs=build/bin/benchmarks

venv=.deps/venv-lightning
lightning=(lightning==2.6.6 torch==2.15.0 safetensors==0.8.0)
install_lightning() {
  if [ "$(cat "$venv/installed.txt" 2>/dev/null)" != "${lightning[*]}" ]; then
    echo "Lightning: installing ${lightning[*]} into $venv" >&2
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${lightning[@]}" >&2
    echo "${lightning[*]}" >"$venv/installed.txt"
  fi
}

# compare TITLE FIGURES OURS [THEIRS]
compare() {
  python3 benchmarks/compare.py "$1" "$2" --runs "$runs" --ours "$3" ${4:+--theirs "$4"}
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fit() {
  echo "$programs/$1 fit --config configs/$2.yaml --trainer.callbacks=[$3] --trainer.default_root_dir=$folder"
}
# A GPT by our step_time, on one rank or under $ranks; by Lightning; STEPS LAYERS DIM HEADS BLOCK BATCH.
ranks="mpirun --allow-run-as-root --bind-to core --map-by core -n 2"
gpt() {
  echo "$programs/step_time fit --config configs/gpt_bytes.yaml --trainer.callbacks=[StepTime] --trainer.logger=[]" \
    "--trainer.enable_checkpointing=false --trainer.enable_progress_bar=false --trainer.enable_model_summary=false" \
    "--trainer.limit_val_batches=0 --trainer.gradient_clip_val=null --trainer.default_root_dir=$folder" \
    "--trainer.max_steps=$1 --model.init_args.sample_tokens=1 --model.init_args.num_layers=$2 --model.init_args.dim=$3" \
    "--model.init_args.num_heads=$4 --model.init_args.block_size=$5 --data.init_args.block_size=$5" \
    "--data.init_args.batch_size=$6"
}
lightning_gpt() {
  echo "$venv/bin/python benchmarks/lightning_gpt.py --ranks 2 --steps $1 --layers $2 --dim $3 --heads $4 --block $5 --batch $6"
}
copies="python3 benchmarks/copies.py 2 us_per_step"
case $name in
  step_overhead) compare "$name" us_per_step "$programs/step_overhead ours" "$programs/step_overhead bare" ;;
  five_logs) compare "$name" us_per_step "$programs/step_overhead ours 20000 5" "$programs/step_overhead bare" ;;
  log_cost) compare "$name" ratio,ns_per_log "$programs/log_cost" ;;
  cold_start) compare "$name" start_s "$(fit cold_start digits StopAtFirstStep)" "$programs/cold_start bare" ;;
  loader)
    install_lightning
    quiet="--trainer.logger=[] --trainer.enable_progress_bar=false"  # what else lies between two batches
    compare "$name/digits" wait_share "$(fit loader_wait digits LoaderWait) $quiet --trainer.max_epochs=10"
    compare "$name/gpt_bytes" wait_share "$(fit loader_wait gpt_bytes LoaderWait) $quiet --trainer.max_steps=100"
    compare "$name" us_per_sample "$programs/loader" "$venv/bin/python benchmarks/loader.py"
    ;;
  ddp)
    install_lightning
    # The time of two copies by that of two ranks is how much of their throughput is left.
    big="6 384 6 128 8"
    compare "$name/throughput" us_per_step "$copies $(gpt 20 $big)" "$ranks $(gpt 20 $big)"
    compare "$name/throughput_of_lightning" us_per_step "$copies $(gpt 20 $big)" "$(lightning_gpt 20 $big)"
    small="2 64 2 32 4"
    compare "$name/by_lightning" us_per_step "$ranks $(gpt 1000 $small)" "$(lightning_gpt 200 $small)"
    compare "$name" us_per_step "$ranks $(gpt 1000 $small)" "$(gpt 1000 $small)"
    ;;
  fsdp)
    install_lightning
    big="6 384 6 128 8" small="2 64 2 32 4"
    sharded="--trainer.strategy=fsdp"
    compare "$name/throughput_of_ddp" us_per_step "$copies $(gpt 20 $big)" "$ranks $(gpt 20 $big)"
    compare "$name/throughput_of_lightning" us_per_step "$copies $(gpt 20 $big)" "$(lightning_gpt 20 $big) --fsdp"
    compare "$name/throughput" us_per_step "$copies $(gpt 20 $big)" "$ranks $(gpt 20 $big) $sharded"
    compare "$name/by_lightning" us_per_step "$ranks $(gpt 1000 $small) $sharded" "$(lightning_gpt 100 $small) --fsdp"
    compare "$name/intercepted" us_per_step \
      "$(gpt 1000 $small) '--trainer.strategy={class_path: fsdp, init_args: {intercept: dispatch_key}}'" "$(gpt 1000 $small)"
    compare "$name" us_per_step "$ranks $(gpt 1000 $small) $sharded" "$(gpt 1000 $small)"
    ;;
  sharded_memory)
    install_lightning
    peak="python3 benchmarks/peak_memory.py"
    for mode in ddp fsdp; do
      compare "$name/${mode}_of_pytorch" peak_mb "$peak $venv/bin/python benchmarks/torch_memory.py $mode --ranks 2"
    done
    compare "$name/ddp" peak_mb "$peak $ranks $programs/sharded_memory ddp"
    compare "$name/sharded" peak_mb "$peak $ranks $programs/sharded_memory fsdp"
    compare "$name" peak_mb "$peak $ranks $programs/sharded_memory fsdp" "$peak $ranks $programs/sharded_memory ddp"
    ;;
  allreduce) compare "$name" speed_26m,speed_16k_to_1m,added_us "$ranks $programs/allreduce" ;;
  soak) python3 benchmarks/soak.py build/bin/trainer ;;
  vs_lightning)
    install_lightning
    compare "$name" us_per_step,start_s,rss_mb "$programs/step_overhead ours 3500" \
      "$venv/bin/python benchmarks/lightning_mlp.py 3500"
    ;;
esac
