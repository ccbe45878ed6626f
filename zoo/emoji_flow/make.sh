#!/bin/sh
# Trains emoji-flow and writes it into the package: RUN/tokenizer_2, RUN/text_encoder_2, RUN/transformer.pt (about two and
# a half hours on two idle cores), then src/efface/models/emoji_flow/weights.
# Every training script resumes from its last checkpoint, so this may be killed and run again.
#   pip install -e '.[zoo]'
#   zoo/emoji_flow/make.sh RUN
set -eu
run=$1
here=$(dirname "$0")
export OMP_WAIT_POLICY=PASSIVE EMOJI_PACKAGES="$run/node_modules" PYTHONPATH="$here/../emoji${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$run"
[ -d "$run/node_modules" ] || sh "$here/../emoji/fetch.sh" "$run"
[ -f "$run/pictures.npy" ] || python "$here/../emoji/pictures.py" "$run" --views 72
[ -d "$run/tokenizer_2" ] || python "$here/make_pieces.py" "$run"
[ -d "$run/text_encoder_2" ] || python "$here/train_t5.py" "$run"
python "$here/train_transformer.py" "$run"
python "$here/export_flow.py" "$run" --out "$here/../../src/efface/models/emoji_flow/weights"
python "$here/../emoji/check_model.py" "$run" -n 2 --model emoji-flow --results "$here/results"
