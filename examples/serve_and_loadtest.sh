#!/usr/bin/env bash
# Serve a model on a free port, put it under rising load, and end with a table of what clients saw.
#
#   examples/serve_and_loadtest.sh [MODEL] [QUERIES_PER_SECOND …]
#
# MODEL is a folder that `tailrank train` wrote, or preset:NAME. Sizes and seconds may be shortened:
#   SCALE=0.001 SECONDS_EACH=2 SIZES=fixed:20 examples/serve_and_loadtest.sh preset:ncf 50 100
set -euo pipefail

model=${1:-preset:dlrm-rmc1}
shift || true
loads=("$@")
[ $# -gt 0 ] || loads=(100 200 400)
sla=p99=20ms
folder=$(mktemp -d)
flags=()
case $model in preset:*) flags=(--scale "${SCALE:-0.05}") ;; esac

tailrank serve "$model" "${flags[@]}" --sla "$sla" --port 0 >"$folder/server.log" 2>&1 &
server=$!
trap 'kill -TERM $server 2>/dev/null || true; wait $server || true; rm -rf "$folder"' EXIT

# Its first line says where it is.
url=
until [ -n "$url" ]; do
  kill -0 $server 2>/dev/null || { cat "$folder/server.log" >&2; exit 1; }
  url=$(sed -n 's/^\(http[^ ]*\) serves .*/\1/p' "$folder/server.log")
  [ -n "$url" ] || sleep 0.1
done

for load in "${loads[@]}"; do
  # Exit codes 3 and 4 say that the SLA was missed, or that the run proves nothing: shown below.
  tailrank loadtest --url "$url" --qps "$load" --duration "${SECONDS_EACH:-10}s" --sla "$sla" \
    --sizes "${SIZES:-production}" --json --quiet >"$folder/$load.json" || [ $? -ge 3 ]
done

python - "$folder" "${loads[@]}" <<'PYTHON'
import json, pathlib, sys

folder, *loads = sys.argv[1:]
print(f"{'queries/s':>10} {'in time/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'shed':>6} {'failed':>7}  valid")
for load in loads:
    result = json.loads(pathlib.Path(folder, f"{load}.json").read_text())
    seen, valid = result["metrics"], result["validity"]["valid"]
    p50, p99 = (seen[f"latency_ms_{name}"] or float("inf") for name in ("p50", "p99"))
    print(
        f"{seen['offered_qps']:10,.0f} {seen['goodput_qps']:10,.0f} {p50:8.2f} {p99:8.2f} "
        f"{seen['num_shed']:6.0f} {seen['num_failed']:7.0f}  {'yes' if valid else 'no'}"
    )
PYTHON
