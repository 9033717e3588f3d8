#!/usr/bin/env bash
# The whole path, small, into the folder given: what `make demo` runs. Seven to eleven minutes on two cores.
set -euo pipefail

demo="${1:-demo}"
scenes=16

step() { printf '\n\033[1m== %s\033[0m\n' "$1"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

# The data beside the project, where they are at hand: weights for LPIPS, real raw photographs.
data="${SRRAW_SHARED:-../shared}/data"

rm -rf "$demo"
mkdir -p "$demo"

step "1 of 7: zoom sequences of made-up scenes (physically based, with the true geometry beside them)"
run srraw simulate --count "$scenes" --seed 1 --out "$demo/scenes" --jobs 2

step "2 of 7: shoot each scene through libgphoto2's virtual camera"
for scene in "$demo"/scenes/*/; do
    run srraw capture --virtual "$scene" --out "$demo/sequences"
done

step "3 of 7: register the pairs"
run srraw align "$demo/sequences" --jobs 2

step "4 of 7: pack raw mosaics and their targets"
{
    echo "sequence,split"
    for i in $(seq -f %05g 1 "$scenes"); do
        case $i in
            00013) echo "$i,val" ;;
            00014 | 00015 | 00016) echo "$i,test" ;;
            *) echo "$i,train" ;;
        esac
    done
} > "$demo/split.csv"
run srraw pack "$demo/sequences" --out "$demo/srraw.h5" --zoom 4 --split-file "$demo/split.csv"

step "5 of 7: train the small network: aligned L1 first, then CoBi"
run srraw-train "$demo/srraw.h5" --preset demo --out "$demo/run"

step "6 of 7: evaluate on scenes that it has not seen, beside bicubic"
lpips=()
if [ -d "$data/weights" ]; then
    lpips=(--lpips-backbone "$data/weights/squeezenet1_1_fp16_torchvision_layout.pth"
        --lpips-linear "$data/weights/lpips_v0.1_squeeze.pth")
fi
run srraw-eval "$demo/srraw.h5" --models "$demo/run/model.pt" --out "$demo/eval" ${lpips[@]+"${lpips[@]}"}

step "7 of 7: zoom a raw photograph"
run srraw-zoom "$demo/sequences/00014/00006.dng" --checkpoint "$demo/run/model.pt" -o "$demo/zoomed.png"

step "Done. Look at:"
echo "  $demo/zoomed.png            a raw at 35 mm, zoomed 4X"
echo "  $demo/run/samples/          input | bicubic | output | target, as the training went"
echo "  $demo/eval/metrics.html     the table above, and every pair under a slider"
echo "  $demo/sequences/00001/      a captured sequence: raws, sequence.json, alignment.json"
echo "  $demo/srraw.h5              the packed pairs: srraw inspect $demo/srraw.h5"
