#!/usr/bin/env bash
# Measure everything that a GPU machine can tell, in under 25 minutes, and pack it into one folder.
#
#   bash tests/bench/gpu_day.sh [--dry-run | --small] [FOLDER]
#
#   --dry-run   list the steps, their limits and commands, and run nothing
#   --small     tiny stand-ins for every step, which run on a CPU, too
#
# A step that fails, or that reaches its limit, does not keep the others from running. It gets SIGTERM then, by which
# benchmark.py keeps what it has measured. PYTHON names the interpreter; FOLDER is gpu-day-<time> if it is left out.
# The exit code is 1 if a step was not ok.

set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2

mode=full
case "${1-}" in
    --dry-run | --small) mode=${1#--} && shift ;;
    -*) echo "usage: bash tests/bench/gpu_day.sh [--dry-run | --small] [FOLDER]" >&2 && exit 2 ;;
esac
folder=${1:-gpu-day-$(date +%Y%m%d-%H%M%S)}
python=${PYTHON:-python}
[ -z "${PYTHON-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python

TO_END=20      # seconds of each limit that a step has for its end after SIGTERM, before it is killed
LIMIT=1500     # of all steps together
FIGURE=0.50    # validation accuracy that the best epoch of train.py --demo must have; 0.56 on a CPU
total=0
bad=0

present=$("$python" -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null) || present=0
case $present in
    0) gpus=0 ;;
    1) gpus=1 ;;
    2 | 3) gpus=1,2 ;;
    *) gpus=1,2,4 ;;
esac
rounds=2
[ "$present" -gt 1 ] && rounds=1  # of five times the cases

# step NAME SECONDS COMMAND...: run it with its output in NAME.log, and note how it went in summary.txt.
step() {
    local name=$1 limit=$2 code start state
    shift 2
    total=$((total + limit))
    if [ "$mode" = dry-run ]; then
        printf '%-12s %4d s  %s\n' "$name" "$limit" "$(tr -s '\n ' ' ' <<<"$*")"
        return
    fi
    start=$SECONDS
    echo "$name: at most $limit s"
    timeout --signal=TERM --kill-after=$TO_END $((limit - TO_END)) "$@" >"$folder/$name.log" 2>&1 </dev/null
    code=$?
    case $code in
        0) state=ok ;;
        124 | 137) state="out of time" ;;
        *) state="failed ($code)" ;;
    esac
    [ $code -eq 0 ] || bad=1
    printf '%-12s %4d s  %s\n' "$name" $((SECONDS - start)) "$state" | tee -a "$folder/summary.txt"
}

# bench NAME SECONDS OPTIONS...: a step of benchmark.py with its JSON, CSV and plot in the folder.
bench() {
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" benchmark.py "$@" --json "$folder/$name.json" --csv "$folder/$name.csv" \
        --plot "$folder/$name.png"
}

how=(--gpus "$gpus" --rounds "$rounds" --steps 30 --warmup 10)
models=(efficientnet_b3 efficientnet_b0 efficientnet_b4)
train=(--demo)
answers=(--rounds 2)
most=(--amp on --batch-size 128)  # where the search for the largest batch begins
if [ "$mode" = small ]; then
    # The set of the training, so that nothing is drawn twice.
    how=(--gpus "$gpus" --rounds 1 --warmup 1 --amp off --image-size 64 --batch-size 4 --steps 2
        --data "$folder/run/demo")
    most=(--batch-size 4096 --image-size 32)  # the search begins with all images, and ends there
    models=(efficientnet_b0 efficientnet_b0 efficientnet_b0)
    train=(--demo --epochs 1 --image-size 32)
    answers=(--rounds 1 --amp off --steps 2 --batch-size 2)
    FIGURE=0
fi

[ "$mode" = dry-run ] || mkdir -p "$folder" || exit 2

# shellcheck disable=SC2016  # the commands in quotes are for the inner shell
step machine 40 bash -c 'nvidia-smi; "$0" -m pip list; "$0" -c "import torch; print(torch.__version__)"' "$python"
step training 180 "$python" train.py "${train[@]}" --out "$folder/run"
# shellcheck disable=SC2016
step figure 30 awk -F, -v least="$FIGURE" '
    NR == 1 { for (i = 1; i <= NF; i++) if ($i == "val_accuracy") column = i; next }
    $column > best { best = $column }
    END { print "validation accuracy", best, "of at least", least; exit !(NR > 1 && best >= least) }
' "$folder/run/metrics.csv"
step tests 250 "$python" -m pytest -m gpu tests/test_gpu.py tests/test_gpu_training.py --numprocesses=0
for number in 0 1 2; do
    limits=(240 190 190)
    bench "matrix-$((number + 1))-${models[$number]#efficientnet_}" "${limits[$number]}" --model "${models[$number]}" \
        --recipes ours,plain "${how[@]}"
done
# Beside the step that is not compiled, with AMP alone: compiling takes a minute for each case.
bench compile 130 --model "${models[0]}" --recipes ours,ours-compiled --amp on "${how[@]}" --rounds 1
bench find-batch 160 --model "${models[0]}" --recipes ours --find-batch "${how[@]}" --rounds 1 "${most[@]}"
bench infer 90 --infer --checkpoint "$folder/run/best.pt" --data "$folder/run/demo" "${answers[@]}"

if [ $total -gt $LIMIT ]; then
    echo "the limits add up to $total s, more than $LIMIT" >&2
    bad=1
fi
if [ "$mode" = dry-run ]; then
    echo "in total at most $total s on GPUs $gpus"
else
    find "$folder/run" -name '*.pt' -delete 2>/dev/null  # weights are large, and nobody compares them
    rm -rf "$folder/run/demo"
    tar -czf "$folder.tar.gz" -C "$(dirname "$folder")" "$(basename "$folder")" && echo "everything is in $folder and $folder.tar.gz"
fi
exit $bad
