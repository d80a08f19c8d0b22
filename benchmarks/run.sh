#!/usr/bin/env bash
# Builds the release preset with the benchmarks and runs one of them; the last line is its result. Needs tools/setup.sh.
#
#   benchmarks/run.sh NAME [--runs N]
#
#   NAME            ours                              theirs                            goal
#   step_overhead   Trainer::fit, small MLP           hand-written LibTorch loop        ratio <= 1.05
#   log_cost        one log() call in a fit                                             ns_per_log < 1000
#   cold_start      start to first training step                                        start_s <= 0.8
#   loader          DataLoader on the digits          PyTorch's DataLoader              ratio <= 0.1
#   vs_lightning    Trainer::fit, small MLP           the same on Lightning             ratio < 1
#
# ratio is ours by theirs: time a step or sample, for vs_lightning also start-up and resident memory. loader and
# vs_lightning install Lightning into .deps/venv-lightning first (5 GB).

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
  step_overhead | log_cost | cold_start | loader | vs_lightning) ;;
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

compare() {
  python3 benchmarks/compare.py "$name" "$1" --runs "$runs" --ours "$2" ${3:+--theirs "$3"}
}
case $name in
  step_overhead) compare us_per_step "$programs/step_overhead ours" "$programs/step_overhead bare" ;;
  log_cost) compare ns_per_log "$programs/log_cost" ;;
  cold_start)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    compare start_s "$programs/cold_start fit --config configs/digits.yaml \
      --trainer.callbacks=[StopAtFirstStep] --trainer.default_root_dir=$folder"
    ;;
  loader)
    install_lightning
    compare us_per_sample "$programs/loader" "$venv/bin/python benchmarks/loader.py"
    ;;
  vs_lightning)
    install_lightning
    compare us_per_step,start_s,rss_mb "$programs/step_overhead ours 3500" \
      "$venv/bin/python benchmarks/lightning_mlp.py 3500"
    ;;
esac
