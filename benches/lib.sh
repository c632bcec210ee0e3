# shellcheck shell=bash
# What benches/duel and benches/knobs share: servers that are started and stopped by process id, runs of the load generator, the
# kernel's counters, statistics. To be sourced, by bash with `set -euo pipefail`.
#
# The server has one core and the load generator another. Whatever is started is stopped, and whatever is written is deleted, when the
# script ends, however it ends.
export LC_ALL=C

me=${0##*/}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
server_cpu=${SERVER_CPU:-0}
client_cpu=${CLIENT_CPU:-1}
nginx=${NGINX:-$(PATH=$PATH:/usr/sbin type -P nginx || true)}

readonly START_SECONDS=20
# Above these, somebody else is working: at the start, and in a turn, where server and client make two.
readonly QUIET_BEFORE=0.5 QUIET_DURING=3

# Process ids by name, so that only what was started here is ever stopped.
declare -A pids=()
declare -A url=() cpu_pid=()
work=
device=
# What AmberBlob is started with: a command that runs another (env, prlimit), its cores, its address.
with=()
cores=1
listen_on=127.0.0.1

die() {
    printf '%s: %s\n' "$me" "$*" >&2
    exit 1
}

say() {
    printf '%s\n' "$*" >&2
}

stop() {
    local pid=${pids[$1]:-} i
    unset "pids[$1]"
    [[ -n $pid ]] || return 0
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

cleanup() {
    local name
    for name in "${!pids[@]}"; do stop "$name"; done
    [[ -z $work ]] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# begin GIB TOOL...: checks the machine, builds, makes the scratch directory $work with so much room.
begin() {
    local needed=$1 tool cpu scratch free_kib
    shift
    for tool in jq awk taskset findmnt "$@"; do
        type -P "$tool" >/dev/null || die "$tool is not installed"
    done
    for cpu in "$server_cpu" "$client_cpu"; do
        taskset -c "$cpu" true 2>/dev/null || die "CPU $cpu cannot be used here: choose with SERVER_CPU= and CLIENT_CPU="
    done
    read -r load_before _ </proc/loadavg
    if [[ -z ${AMBERBLOB:-} || -z ${LOADGEN:-} ]]; then
        say "building"
        (cd "$root" && cargo build --quiet --release --workspace --bins)
    fi
    amberblob=${AMBERBLOB:-$target/release/amberblob}
    loadgen=${LOADGEN:-$target/release/loadgen}
    scratch=${SCRATCH:-$target}
    mkdir -p "$scratch"
    free_kib=$(df --output=avail -k "$scratch" | awk 'NR == 2 { print $1 }')
    ((free_kib >= needed << 20)) || die "$scratch has $((free_kib >> 20)) GiB free, $needed are needed: choose another with SCRATCH="
    work=$(mktemp -d "$(cd "$scratch" && pwd)/$me.XXXXXX")
    read -r device < <(findmnt -no MAJ:MIN -T "$work")
    touch "$work/turns"
}

# Whether GET of a path at host:port answers with this status.
answers() {
    local address=$1 path=$2 status=$3 line='' http
    {
        exec {http}<>"/dev/tcp/${address%:*}/${address##*:}"
    } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$path" "$address" >&"$http"
    IFS= read -r -t 2 -u "$http" line || true
    exec {http}>&-
    [[ $line == "HTTP/1.1 $status "* ]]
}

# Waits until a condition holds; dies if the server's process ends before, or it takes too long.
await() {
    local name=$1 log=$2 i
    shift 2
    for ((i = 0; i < START_SECONDS * 20; i++)); do
        if "$@"; then return; fi
        kill -0 "${pids[$name]}" 2>/dev/null || die "$name ended while starting: $(tail -n 3 "$log")"
        sleep 0.05
    done
    die "$name was not ready in $START_SECONDS s: $(tail -n 3 "$log")"
}

# start SERVER DIR: sets url[SERVER] and cpu_pid[SERVER].
start() {
    mkdir -p "$2"
    "start_$1" "$2"
}

start_amberblob() {
    local dir=$1 log=$1/log line
    : >"$dir/out"
    "${with[@]}" taskset -c "$server_cpu" "$amberblob" serve --cores "$cores" --data "$dir/data" \
        --listen "$listen_on:0" --admin 127.0.0.1:0 >"$dir/out" 2>"$log" &
    pids[amberblob]=$!
    await amberblob "$log" grep -q '^amberblob: serving ' "$dir/out"
    line=$(grep -m1 '^amberblob: serving ' "$dir/out")
    [[ $line =~ \ public=http://([^ ]+) ]] || die "amberblob does not say where it serves: $line"
    url[amberblob]=http://${BASH_REMATCH[1]}/objects
    [[ $line =~ \ admin=http://([^ ]+) ]] || die "amberblob does not say where its admin listener is: $line"
    await amberblob "$log" answers "${BASH_REMATCH[1]}" /readyz 200
    cpu_pid[amberblob]=${pids[amberblob]}
}

start_nginx() {
    local dir=$1 log=$1/log port user='' body_buffer='' worker
    port=$(free_port)
    # The worker must be allowed to write where the master was started.
    ((EUID != 0)) || user='user root;'
    [[ -z ${NGINX_BODY_BUFFER:-} ]] || body_buffer="client_body_buffer_size $NGINX_BODY_BUFFER;"
    mkdir -p "$dir/data/objects" "$dir/temp"
    cat >"$dir/nginx.conf" <<END
daemon off;
$user
worker_processes 1;
pid $dir/pid;
error_log $log warn;
events { worker_connections 16384; }
http {
    access_log off;
    sendfile on;
    # No tcp_nopush: on loopback the tail of a 64 KiB answer would wait 40 ms for a delayed acknowledgement.
    open_file_cache max=4096 inactive=1h;
    open_file_cache_valid 1h;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    default_type application/octet-stream;
    client_max_body_size 0;
    $body_buffer
    client_body_temp_path $dir/temp;
    proxy_temp_path $dir/unused-proxy;
    fastcgi_temp_path $dir/unused-fastcgi;
    uwsgi_temp_path $dir/unused-uwsgi;
    scgi_temp_path $dir/unused-scgi;
    server {
        listen 127.0.0.1:$port;
        root $dir/data;
        location = /ready { return 204; }
        location /objects/ { dav_methods PUT; create_full_put_path on; }
    }
}
END
    # shellcheck disable=SC2094
    taskset -c "$server_cpu" "$nginx" -c "$dir/nginx.conf" -e "$log" 2>>"$log" &
    pids[nginx]=$!
    await nginx "$log" answers "127.0.0.1:$port" /ready 204
    read -r worker <"/proc/${pids[nginx]}/task/${pids[nginx]}/children" || true
    [[ $worker =~ ^([0-9]+)\ *$ ]] || die "nginx has not one worker but: $worker"
    cpu_pid[nginx]=${BASH_REMATCH[1]}
    # shellcheck disable=SC2034
    url[nginx]=http://127.0.0.1:$port/objects
}

free_port() {
    local port i
    for ((i = 0; i < 50; i++)); do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no free port found between 20000 and 32000"
}

# load SERVER FILE ARGUMENTS...: one run of the load generator, its report in FILE.
load() {
    local server=$1 file=$2
    shift 2
    "$loadgen" "$@" ${client_cpu:+--pin "$client_cpu"} --server-pid "${cpu_pid[$server]}" --json "$file" >/dev/null ||
        die "$server failed under loadgen $*: $(jq -c .errors "$file" 2>/dev/null)"
}

# Bytes and requests that were read from the device under $work since the system was started.
device_reads() {
    [[ -r /sys/dev/block/$device/stat ]] || die "$work is on no block device: choose another directory with SCRATCH="
    awk '{ print $3 * 512, $1 }' "/sys/dev/block/$device/stat"
}

rss_mib() {
    awk '/^VmRSS:/ { printf "%.1f", $2 / 1024 }' "/proc/$1/status"
}

# keep KEYS REPORT: adds a turn to those made. KEYS is an object that says which; a report with the program's name at the top.
keep() {
    local load
    # Whoever else works on the machine shows here.
    read -r load _ </proc/loadavg
    jq -c --arg me "$me" --argjson keys "$1" --argjson load "$load" \
        '{($me): ($keys + {load_average: $load})} + .' "$2" >>"$work/turns"
    say "$(jq -r --argjson keys "$1" --arg load "$load" \
        '"\($keys | [.workload, .client, .knob, .value, .server, "round \(.round)"] | map(values) | join(" ")): \(.gb_per_s * 1000 | round / 1000) GB/s, \(.requests) requests, CPU \(.server_cpu.seconds) s, load average \($load)"' "$2")"
}

# Whether the machine was quiet, in words, if it was not.
quiet() {
    jq -s -r --arg me "$me" --argjson before "$load_before" --argjson quiet "$QUIET_BEFORE" --argjson during "$QUIET_DURING" '
        (map(.[$me].load_average) | max) as $most
        | if $before > $quiet or $most > $during
          then "**Not quiet**: load average \($before) before, up to \($most) during the turns: somebody else was working. These figures only show that the script does.", ""
          else empty end' "$work/turns"
}

# finish: what all turns were, to RESULTS.
finish() {
    [[ -z ${RESULTS:-} ]] || jq -s . "$work/turns" >"$RESULTS"
}

# For jq programs.
# shellcheck disable=SC2034,SC2016
readonly STATISTICS='
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    def digits($n): . * pow(10; $n) | round / pow(10; $n) | tostring;
    def spread($n): "\(median | digits($n)) (\(min | digits($n))..\(max | digits($n)))";
    def ratios($a; $b): [range([$a, $b] | map(length) | min) | $a[.] / $b[.]];
    def rates: map(.gb_per_s);
    def costs: map(.server_cpu.seconds_per_gb);
    def p99s: map(.latency_us.p99 / 1000);
    def row: "| " + join(" | ") + " |";
    def heading: row, (map("---") | "|" + join("|") + "|");
'
