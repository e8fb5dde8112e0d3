#!/usr/bin/env bash
# Ballast beside tgt and the raw disk: same run, same disk, same durability. What is compared: benches/README.md.
#
#   benches/compare.sh                       everything: three rounds, a table at the end, rows in target/bench/compare.tsv
#   ROUNDS=5 RUN_SECONDS=10 benches/compare.sh
#   CONTENDERS="raw ballast-1 tgt-wt" PATTERNS="w4k-q1 w4k-q32" benches/compare.sh
#
# Settings: ROUNDS (3), RUN_SECONDS (5) per pattern and contender, SPAN (1G) of each unit, WORK (a new directory below the
# temporary one; it must lie on the disk that is to be measured), OUT (target/bench/compare.tsv), BALLAST_BIN.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ROUNDS=${ROUNDS:-3} RUN_SECONDS=${RUN_SECONDS:-5} SPAN=${SPAN:-1G}
readonly OUT=${OUT:-target/bench/compare.tsv}
readonly CONTENDERS=${CONTENDERS:-"raw tgt-wt tgt-flush ballast-1 ballast-3"}
readonly PATTERNS=${PATTERNS:-"w4k-q1 w4k-q32 r4k-q1 r4k-q32 r128k-q16 w128k-q16"}

pattern_of() { # name -> rw bs depth
  case $1 in
    w4k-q1) echo randwrite 4k 1 ;;
    w4k-q32) echo randwrite 4k 32 ;;
    r4k-q1) echo randread 4k 1 ;;
    r4k-q32) echo randread 4k 32 ;;
    r128k-q16) echo read 128k 16 ;;
    w128k-q16) echo write 128k 16 ;;
    *) echo "unknown pattern $1" >&2; exit 2 ;;
  esac
}

./scripts/install-tools.sh --for bench
if [ -z "${BALLAST_BIN:-}" ]; then
  cargo build --release -p ballast
  BALLAST_BIN=target/release/ballast
fi
mkdir -p target/tools "$(dirname "$OUT")"
gcc -std=gnu11 -O2 -o target/tools/iobench tests/tools/iobench.c tests/tools/initiator.c -liscsi

work=${WORK:-$(mktemp -d "${TMPDIR:-/tmp}/ballast-bench.XXXXXX")}
mkdir -p "$work"
declare -A url pids sync # by contender
started=()               # pids of what this script has started
cleanup() {
  local pid
  for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do # tgtd ignores SIGTERM
    for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    { wait "$pid" || true; } 2>/dev/null
  done
  [ -z "${tgt_control:-}" ] || rm -f "/var/run/tgtd/socket.$tgt_control" "/var/run/tgtd/socket.$tgt_control.lock"
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# An address of the loopback net that only this process uses, so that runs side by side do not meet.
readonly ADDRESS=127.$((($$ >> 16 & 63) + 1)).$(($$ >> 8 & 255)).$(($$ & 255))
wait_for() { # seconds command...
  local tries=$(($1 * 10)); shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "gave up waiting for: $*" >&2; return 1; }
    sleep 0.1
  done
}

start_raw() {
  fio --name=prefill --filename="$work/raw.img" --rw=write --bs=1M --size="$SPAN" --end_fsync=1 --output=/dev/null
}

# One tgtd, two units on the same kind of file. LUN 1: O_SYNC and WCE=0 (each write is durable when it is answered).
# LUN 2: page cache, and the initiator sends SYNCHRONIZE CACHE after each write.
start_tgt() {
  [ -z "${tgt_control:-}" ] || return 0
  tgt_control=$((1024 + $$ % 30000))
  tgtd -f -C $tgt_control --iscsi "portal=$ADDRESS:3270" >"$work/tgtd.log" 2>&1 &
  local pid=$! unit
  admin() { tgtadm -C "$tgt_control" --lld iscsi "$@"; }
  started+=("$pid")
  wait_for 30 admin --mode target --op show
  admin --mode target --op new --tid 1 --targetname iqn.2026-01.io.ballast.bench:tgt
  for unit in 1 2; do truncate -s "$SPAN" "$work/tgt-$unit.img"; done
  admin --mode logicalunit --op new --tid 1 --lun 1 --backing-store "$work/tgt-1.img" --bsoflags sync
  # the caching mode page (08h) with WCE=0
  admin --mode logicalunit --op update --tid 1 --lun 1 \
    --params mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0
  admin --mode logicalunit --op new --tid 1 --lun 2 --backing-store "$work/tgt-2.img"
  admin --mode target --op bind --tid 1 --initiator-address ALL
  url[tgt-wt]=iscsi://$ADDRESS:3270/iqn.2026-01.io.ballast.bench:tgt/1
  url[tgt-flush]=iscsi://$ADDRESS:3270/iqn.2026-01.io.ballast.bench:tgt/2
  pids[tgt-wt]=$pid pids[tgt-flush]=$pid
  sync[tgt-flush]=each
}

start_ballast() { # number of replicas (= pools)
  local count=$1 portal=$ADDRESS:$((3280 + $1)) data="$work/b$1" pid
  "$BALLAST_BIN" up --data-dir "$data" --pools "$count" --replicas "$count" --pool-size 8Gi --volume "bench=${SPAN}i" \
    --portal "$portal" >"$work/ballast-$count.log" 2>&1 &
  pid=$!
  started+=("$pid")
  ballast_ready() {
    kill -0 "$pid" && "$BALLAST_BIN" status --data-dir "$data" --output json |
      jq -e 'all(.processes[]; .state == "running") and all(.volumes[]; any(.replicas[]; .role == "leader"))'
  }
  wait_for 120 ballast_ready || { tail -n 30 "$work/ballast-$count.log" >&2; return 1; }
  url[ballast-$count]=iscsi://$portal/iqn.2016-09.com.openebs.cstor:bench/0
  pids[ballast-$count]=$pid,$("$BALLAST_BIN" status --data-dir "$data" --output json | jq -r '[.processes[].pid] | join(",")')
}

# What the pools themselves count as written to their devices, without the space that they prepare once for later use.
device_bytes() { # contender
  case $1 in
    ballast-*) "$BALLAST_BIN" pool list --data-dir "$work/b${1#ballast-}" --output json |
      jq '[.[] | .device_bytes_written - .prepare_bytes_written] | add' ;;
    *) echo 0 ;;
  esac
}

# What the whole disk below $work was given, by us and by everybody else.
disk_bytes() {
  local device
  device=$(stat -c '%Hd:%Ld' "$work")
  awk -v device="$device" '$1 ":" $2 == device { printf "%.0f\n", $10 * 512; found = 1 } END { if (!found) print 0 }' /proc/diskstats
}

run_raw() { # rw bs depth -> the same JSON as iobench
  fio --name=raw --filename="$work/raw.img" --rw="$1" --bs="$2" --iodepth="$3" --size="$SPAN" --direct=1 --sync=dsync \
    --ioengine=io_uring --thread --norandommap --randrepeat=0 --refill_buffers --time_based --ramp_time=0.5 \
    --runtime="$RUN_SECONDS" --percentile_list=50:99:99.9 --output-format=json | jq -c '.jobs[0] |
      (if .read.total_ios > 0 then .read else .write end) as $io | ($io.clat_ns.percentile) as $p |
      {iops: $io.iops, mb_per_s: ($io.bw_bytes / 1e6), mean_us: ($io.clat_ns.mean / 1e3), p50_us: ($p["50.000000"] / 1e3),
       p99_us: ($p["99.000000"] / 1e3), p999_us: ($p["99.900000"] / 1e3),
       client_cpu_us: ((.usr_cpu + .sys_cpu) / 100 * .job_runtime * 1000 / $io.total_ios), server_cpu_us: 0,
       server_bytes_written: .write.io_bytes, bytes: $io.io_bytes, errors: .error}'
}

run_iscsi() { # contender rw bs depth
  target/tools/iobench --url "${url[$1]}" --rw "$2" --bs "$3" --depth "$4" --span "$SPAN" --seconds "$RUN_SECONDS" \
    --sync "${sync[$1]:-none}" --pids "${pids[$1]}" --seed $((RANDOM + 1))
}

echo "load when starting: $(cut -d' ' -f1-3 /proc/loadavg); $(nproc) processors; $ROUNDS rounds of $RUN_SECONDS s; $SPAN per unit"
for contender in $CONTENDERS; do
  case $contender in
    raw) start_raw ;;
    tgt-*) start_tgt ;;
    ballast-*) start_ballast "${contender#ballast-}" ;;
    *) echo "unknown contender $contender" >&2; exit 2 ;;
  esac
  [ "$contender" = raw ] || target/tools/iobench --url "${url[$contender]}" --prefill --span "$SPAN" >/dev/null
done

printf 'pattern\tcontender\tround\tiops\tMB/s\tmean_us\tp50_us\tp99_us\tp99.9_us\tclient_cpu_us\tserver_cpu_us\twritten_per_byte\tdevice_per_byte\tdisk_per_byte\terrors\n' >"$OUT"
for pattern in $PATTERNS; do
  read -r rw bs depth <<<"$(pattern_of "$pattern")"
  for round in $(seq "$ROUNDS"); do
    for contender in $CONTENDERS; do
      before=$(device_bytes "$contender") disk_before=$(disk_bytes)
      if [ "$contender" = raw ]; then result=$(run_raw "$rw" "$bs" "$depth"); else result=$(run_iscsi "$contender" "$rw" "$bs" "$depth"); fi
      after=$(device_bytes "$contender") disk_after=$(disk_bytes)
      jq -r --arg p "$pattern" --arg c "$contender" --arg r "$round" --arg rw "$rw" --argjson device $((after - before)) \
        --argjson disk $((disk_after - disk_before)) \
        'def ratio(x): if ($rw | test("write")) and .bytes > 0 then (x / .bytes * 1000 | round / 1000) else 0 end;
         [$p, $c, $r, (.iops | round), (.mb_per_s * 10 | round / 10), (.mean_us | round), (.p50_us | round), (.p99_us | round),
          (.p999_us | round), (.client_cpu_us * 10 | round / 10), (.server_cpu_us * 10 | round / 10),
          ratio(.server_bytes_written), ratio($device), ratio($disk), .errors] | @tsv' <<<"$result" | tee -a "$OUT"
    done
  done
done

# Medians over the rounds; the ratio is that of each round (neighbours in time see the same neighbours), then its median.
echo
awk -F'\t' '
  function median(list,    v, n, i, j, t) {
    n = split(list, v, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n == 0 ? "-" : n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
  }
  NR == 1 { next }
  {
    if (!($1 in patterns)) { patterns[$1]; order[++np] = $1 }
    if (!($2 in contenders)) { contenders[$2]; who[++nc] = $2 }
    for (f = 4; f <= 15; f++) values[$1, $2, f] = values[$1, $2, f] " " $f
    iops[$1, $2, $3] = $4
    if ($3 > rounds) rounds = $3
  }
  END {
    printf "%-10s %-10s %9s %9s %8s %8s %8s %8s %8s %8s %8s %8s %8s %9s\n", "pattern", "contender", "IOPS", "MB/s", "p50 us", "p99 us", \
      "p99.9 us", "cpu/io", "client", "written", "device", "disk", "of raw", "of tgt-wt"
    for (p = 1; p <= np; p++) for (c = 1; c <= nc; c++) {
      a = order[p]; b = who[c]; raw = ""; tgt = ""
      for (r = 1; r <= rounds; r++) {
        if (iops[a, "raw", r] > 0) raw = raw " " iops[a, b, r] / iops[a, "raw", r]
        if (iops[a, "tgt-wt", r] > 0) tgt = tgt " " iops[a, b, r] / iops[a, "tgt-wt", r]
      }
      printf "%-10s %-10s %9d %9.1f %8d %8d %8d %8.1f %8.1f %8.2f %8.2f %8.2f %8s %9s\n", a, b, median(values[a, b, 4]), \
        median(values[a, b, 5]), median(values[a, b, 7]), median(values[a, b, 8]), median(values[a, b, 9]), \
        median(values[a, b, 11]), median(values[a, b, 10]), median(values[a, b, 12]), median(values[a, b, 13]), \
        median(values[a, b, 14]), \
        raw == "" ? "-" : sprintf("%.3f", median(raw)), tgt == "" ? "-" : sprintf("%.2f", median(tgt))
    }
  }' "$OUT"
echo
echo "load at the end: $(cut -d' ' -f1-3 /proc/loadavg); every row is in $OUT"
if awk -F'\t' 'NR > 1 && $15 != 0 { bad = 1 } END { exit !bad }' "$OUT"; then echo "some commands FAILED; see the last column" >&2; exit 1; fi
