#!/usr/bin/env bash
# Builds kaldifeat from its source package into an environment: utils/setup_kaldifeat.sh .venv
# Its build fetches pybind11 from elsewhere and asks for C++14, which today's torch headers refuse;
# so pybind11 comes from its own source package, and the C++14 switch is made to mean C++20.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
venv=$(cd "$1" && pwd)
version=1.24
"$venv/bin/python" -c "import kaldifeat" 2>/dev/null && { echo "kaldifeat is there" >&2; exit 0; }
command -v g++ >/dev/null || { echo "$0: error: kaldifeat needs g++ (apt-get install g++)" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet cmake setuptools wheel
"${pip[@]}" download --quiet --no-deps --no-binary :all: -d "$work" pybind11
"${pip[@]}" download --quiet --no-deps --no-binary :all: --no-build-isolation -d "$work" "kaldifeat==$version"
for archive in "$work"/*.tar.gz; do tar -xzf "$archive" -C "$work"; done
sources=("$work"/pybind11-*/)
cat >"$work/standard.cmake" <<'CMAKE'
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CXX14_EXTENSION_COMPILE_OPTION "-std=gnu++20")
CMAKE
echo "building kaldifeat $version (about 12 CPU-minutes)" >&2
PATH=$venv/bin:$PATH KALDIFEAT_MAKE_ARGS="-j$(nproc)" \
  KALDIFEAT_CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DCMAKE_PROJECT_INCLUDE=$work/standard.cmake -DFETCHCONTENT_SOURCE_DIR_PYBIND11=${sources[0]}" \
  "${pip[@]}" install --quiet --no-deps --no-build-isolation "$work/kaldifeat-$version"
(cd / && "$venv/bin/python" -c "import kaldifeat; print('kaldifeat', kaldifeat.__version__)")
