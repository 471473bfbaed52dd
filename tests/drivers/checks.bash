# What the shell's checks share. Sourced by scripts that set `driver` first and are given the demo's demo.json and
# what documented.py wrote for it.

set -uo pipefail

# value KEYS…: a value of demo.json, such as `value urls service`.
value() {
    python3 -c 'import json, sys
with open(sys.argv[1]) as file:
    found = json.load(file)
for key in sys.argv[2:]:
    found = found[int(key) if key.isdigit() else key]
print(found)' "$demo" "$@"
}

demo=$1
[ -r "$demo" ] || { echo "$driver: $demo cannot be read" >&2; exit 1; }
url=$(value urls service)
a=$(value tenants 0 id)
# A tenant on another shard: one connection of the client is served by two servers.
b=$(python3 -c 'import json, sys
with open(sys.argv[1]) as file:
    tenants = json.load(file)["tenants"]
print(next(t["id"] for t in tenants if t["shard"] != tenants[0]["shard"]))' "$demo")
# What docs/drivers.md tells the users of libpq: the first URL names no tenant, the others name b.
mapfile -t documented < <(python3 -c 'import json, sys
with open(sys.argv[1]) as file:
    print(*json.load(file)["psql and pgbench"]["urls"], sep="\n")' "$2")
run=$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

report() { # NAME [WHY IT FAILED]
    if [ $# -eq 1 ]; then
        printf 'ok      %s: %s\n' "$driver" "$1"
    else
        printf 'FAILED  %s: %s: %s\n' "$driver" "$1" "$(tr -s '[:space:]' ' ' <<<"$2")"
    fi
}

# is NAME ACTUAL WANTED
is() {
    if [ "$2" = "$3" ]; then report "$1"; else report "$1" "got <$2>, wanted <$3>"; fi
}

# contains NAME TEXT PART…
contains() {
    local name=$1 text=$2 part
    shift 2
    for part; do
        if [[ $text != *"$part"* ]]; then
            report "$name" "<$part> is not in <$text>"
            return
        fi
    done
    report "$name"
}
