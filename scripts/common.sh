# What the scripts share. Source it; it changes to the repository's root.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Programs that are built once and outlive `cargo clean`.
TOOLS=${TENANTRY_TOOLS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/tenantry-tools}
PATH=$TOOLS/bin:$PATH
# A login that has not read rustup's profile yet still finds cargo.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi
export PATH

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# True if version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
