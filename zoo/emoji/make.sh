#!/bin/sh
# Makes the embedded model again, from nothing to src/efface/models/emoji (about four hours on two cores).
# Every training script resumes from its last checkpoint, so this may be killed and run again.
#   pip install -e '.[zoo]';  pip download --no-deps open_clip_torch==3.3.0  (for CLIP's merges)
#   zoo/emoji/make.sh RUN path/to/bpe_simple_vocab_16e6.txt.gz
set -eu
run=$1 bpe=$2
here=$(dirname "$0")
export OMP_WAIT_POLICY=PASSIVE EMOJI_PACKAGES="$run/node_modules"
mkdir -p "$run"
[ -d "$run/node_modules" ] || sh "$here/fetch.sh" "$run"
[ -f "$run/pictures.npy" ] || python "$here/pictures.py" "$run" --views 72
[ -d "$run/tokenizer" ] || python "$here/make_tokenizer.py" "$run" "$bpe"
python "$here/train_text.py" "$run"
python "$here/train_vae.py" "$run"
python "$here/train_judge.py" "$run"
python "$here/train_unet.py" "$run"
python "$here/train_decoder.py" "$run"
python "$here/train_clip.py" "$run"
python "$here/export.py" "$run"
python "$here/check_judge.py" "$run"
python "$here/check_model.py" "$run"
