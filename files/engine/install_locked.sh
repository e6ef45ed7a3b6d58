# Install packages of the CUDA lock into the image's environment.
#   sh install_locked.sh 'PREFIX …'    those whose names begin with one of these
#   sh install_locked.sh               all that are not there yet
set -eu
pattern=$(echo "${1:-}" | tr ' ' '|')
# A package of the lock is a line with its name and version, and a line for each hash.
sed -n -E "/^($pattern)/,/[^\\]\$/p" /build/requirements-cuda.txt > /build/wanted.txt
# --no-deps: the lock is complete, and what it leaves out is left out on purpose.
python -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --progress-bar off \
  --requirement /build/wanted.txt
# On all cores, which pip would not. Some packages have templates that are no Python and fail here.
python -m compileall -q -j 0 /opt/engine/lib > /dev/null || true
