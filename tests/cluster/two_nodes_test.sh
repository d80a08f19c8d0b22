#!/usr/bin/env bash
# Trains on two nodes that share nothing but a folder and a network cable, which is pulled in the end: two network
# namespaces with a host name each, into which mpirun gets by an agent in the place of ssh. Takes root.
#
#   two_nodes_test.sh TRAINER_PROGRAM        exit code 77 where the system lets nobody make such nodes

set -euo pipefail
trainer=$1
work=$(mktemp -d)
tag=trainer$$

fail() {
  echo "two_nodes_test.sh: $*" >&2
  exit 1
}
take_down() {
  for n in 1 2; do
    ip netns pids "$tag$n" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$tag$n" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap take_down EXIT

# The nodes n1 and n2.
if [ "$(id -u)" != 0 ] || ! ip netns add "${tag}1" 2>/dev/null; then
  echo "needs root, ip, and network namespaces" && exit 77
fi
ip netns add "${tag}2"
ip link add "v$$" netns "${tag}1" type veth peer name "v$$" netns "${tag}2"
for n in 1 2; do
  mkdir "$work/tmp$n"
  ip -n "$tag$n" addr add "10.77.0.$n/24" dev "v$$"
  ip -n "$tag$n" link set lo up
  ip -n "$tag$n" link set "v$$" up
done
printf '127.0.0.1 localhost\n10.77.0.1 n1\n10.77.0.2 n2\n' >"$work/hosts"
cat >"$work/on" <<END
#!/usr/bin/env bash
# on HOST COMMAND...: as ssh does, with options before that mean nothing here
while [[ \$1 == -* ]]; do shift; done
n=\${1#n} && shift
exec ip netns exec "$tag\$n" unshare --uts --mount bash -c '
  mount --bind "$work/hosts" /etc/hosts && hostname "n\$1" && export TMPDIR="$work/tmp\$1" && shift && exec bash -c "\$*"
' bash "\$n" "\$@"
END
chmod +x "$work/on"
export OMPI_MCA_plm_rsh_agent=$work/on OMPI_MCA_pml=ob1 OMP_NUM_THREADS=1

# fit RUNS [ARGUMENT...]: one rank on each node
fit() {
  "$work/on" n1 "$trainer" launch --hosts n1,n2 -n 2 -- fit --config "$work/run.yaml" --trainer.default_root_dir="$1" "${@:2}"
}
{
  for sample in $(seq 50); do
    for column in $(seq 64); do printf '%d,' $(((sample * 7 + column * 3) % 17)); done
    echo $((sample % 10))
  done
} >"$work/digits.csv"
cat >"$work/run.yaml" <<END
plugins: [digits]
trainer: {log_every_n_steps: 1, logger: [CSVLogger], enable_progress_bar: false, enable_model_summary: false,
  callbacks: [{class_path: ModelCheckpoint, init_args: {every_n_train_steps: 1, monitor: train_loss_step}}]}
model: {class_path: DigitsMLP, init_args: {hidden: 64}}
data: {class_path: DigitsData, init_args: {path: $work/digits.csv, batch_size: 5}}
END

for strategy in ddp fsdp; do
  fit "$work/whole_$strategy" --trainer.strategy=$strategy --trainer.max_epochs=4 >"$work/out" 2>&1 || fail "$strategy: $(cat "$work/out")"
  fit "$work/parts_$strategy" --trainer.strategy=$strategy --trainer.max_epochs=2 >"$work/out" 2>&1 || fail "$strategy: $(cat "$work/out")"
  fit "$work/parts_$strategy" --trainer.strategy=$strategy --trainer.max_epochs=4 --ckpt_path=last >"$work/out" 2>&1 ||
    fail "$strategy, resumed: $(cat "$work/out")"
  whole=$work/whole_$strategy/version_0/checkpoints parts=$work/parts_$strategy/version_0/checkpoints
  last=$(cat "$whole/last")
  [ "$last" = "$(cat "$parts/last")" ] || fail "$strategy: $last, resumed $(cat "$parts/last")"
  # The configuration names another folder.
  diff -r --exclude=config.yaml --exclude=manifest.json "$whole/$last" "$parts/$last" || fail "$strategy: resumed is not whole"
done

# The cable is pulled.
fit "$work/lost" --trainer.strategy=fsdp --trainer.max_epochs=1000000 >"$work/out" 2>&1 &
job=$!
for _ in $(seq 600); do
  [ -e "$work/lost/version_0/checkpoints/last" ] && break
  kill -0 $job 2>/dev/null || fail "ended: $(cat "$work/out")"
  sleep 0.1
done
begin=$(date +%s)
ip -n "${tag}2" link set "v$$" down
code=0
wait $job || code=$?
seconds=$(($(date +%s) - begin))
[ $code = 75 ] || fail "exit code $code: $(cat "$work/out")"
[ $seconds -lt 60 ] || fail "noticed after $seconds s"  # Open MPI by itself: after eight minutes
grep -q '^  lost  *n2$' "$work/out" || fail "n2 is not named: $(cat "$work/out")"
for _ in $(seq 100); do
  left=$(ip netns pids "${tag}1" && ip netns pids "${tag}2")
  [ -z "$left" ] && break
  sleep 0.1
done
[ -z "$left" ] || fail "processes are left: $left"
ip -n "${tag}2" link set "v$$" up
steps=$(sed 's/.*step=\([0-9]*\).*/\1/' "$work/lost/version_0/checkpoints/last")
fit "$work/lost" --trainer.strategy=fsdp --trainer.max_epochs=-1 --trainer.max_steps=$((steps + 2)) --ckpt_path=last >"$work/out" 2>&1 ||
  fail "resumed: $(cat "$work/out")"
echo "two nodes: the same by ddp and fsdp, whole and resumed; the loss of one noticed after $seconds s"
