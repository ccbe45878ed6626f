#!/bin/sh
# Brings the drawings and names the model is made from into ./node_modules (licences: MODEL_CARD.md).
set -eu
cd "${1:-.}"
npm init -y >/dev/null
npm install --no-audit --no-fund --ignore-scripts \
  @iconify-json/twemoji@1.2.5 @iconify-json/noto@1.2.9 @iconify-json/noto-v1@1.2.5 \
  @iconify-json/emojione@1.2.3 @iconify-json/emojione-v1@1.2.3 @iconify-json/emojione-monotone@1.2.1 \
  @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji-high-contrast@1.2.6 \
  @lobehub/fluent-emoji-3d@1.1.0 openmoji@17.0.0 unicode-emoji-json@0.9.0 emojilib@4.0.3
