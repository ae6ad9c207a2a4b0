#!/usr/bin/env bash
# The image and the compose file, really built and run: put through one container, stop it, read from
# another, bring it back; then faults from outside, judged by clients inside. Says "skipped: ..." and succeeds where there is nothing to run it with.
#
# The base image is made here from Debian's own packages; like any company's base image it carries this
# machine's pip settings and certificates, so that the build installs from wherever this machine does.
set -eu
cd "$(dirname "$0")/../.."

BASE=esker-test-base:bookworm
PROJECT=esker-test-$$
HEALTHY_SECONDS=120

skip() {
    echo "skipped: $1"
    exit 0
}

docker info >/dev/null 2>&1 || skip "no Docker engine"
if docker compose version >/dev/null 2>&1; then
    compose() { docker compose -p "$PROJECT" "$@"; }
elif command -v docker-compose >/dev/null; then
    compose() { docker-compose -p "$PROJECT" "$@"; }
else
    skip "no docker-compose"
fi

make_base() {
    local root=$1
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" >"$root.log" 2>&1 ||
        { tail -n 5 "$root.log"; return 1; }
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    if [ -f /etc/pip.conf ]; then cp /etc/pip.conf "$root/etc/pip.conf"; fi
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | docker import - "$BASE" >/dev/null
}

if ! docker image inspect "$BASE" >/dev/null 2>&1; then
    command -v debootstrap >/dev/null || skip "no debootstrap to make a base image with"
    [ "$(id -u)" = 0 ] || skip "debootstrap needs root"
    scratch=$(mktemp -d)
    make_base "$scratch/root" || { rm -rf "$scratch"; exit 1; }
    rm -rf "$scratch"
fi

export BASE_IMAGE=$BASE ESKER_IMAGE=esker-test BUILD_NETWORK=host
# Port 0: whichever is free. The checks run inside the containers.
export N1_PORT=127.0.0.1:0 N2_PORT=127.0.0.1:0 N3_PORT=127.0.0.1:0

end() {
    status=$?
    [ "$status" -eq 0 ] || compose logs --tail=40 || true
    compose down -v --remove-orphans >/dev/null 2>&1 || true
    docker image rm -f "$ESKER_IMAGE" >/dev/null 2>&1 || true
    exit "$status"
}
trap end EXIT

ctl() { # ctl MEMBER ARGUMENTS...: eskerctl inside a member's container
    local member=$1
    shift
    compose exec -T "$member" eskerctl "$@"
}

expect() { # expect TEXT COMMAND...: what a command must print
    local expected=$1 got
    shift
    got=$("$@")
    if [ "$got" != "$expected" ]; then
        echo "expected '$expected', got '$got' from: $*"
        return 1
    fi
}

health() { docker inspect --format '{{.State.Health.Status}}' "$(compose ps -q "$1")"; }

wait_healthy() {
    local deadline=$((SECONDS + HEALTHY_SECONDS)) member
    for member in "$@"; do
        until [ "$(health "$member")" = healthy ]; do
            if [ "$SECONDS" -ge "$deadline" ]; then
                echo "$member is not healthy after $HEALTHY_SECONDS s"
                return 1
            fi
            sleep 1
        done
    done
}

echo "building the image"
compose build --quiet n1
compose up -d --no-build
wait_healthy n1 n2 n3
echo "three members are healthy"

expect OK ctl n1 put color red
expect red ctl n3 get color --print-value-only
compose stop n1
expect red ctl n2 get color --print-value-only
expect OK ctl n3 put color blue
echo "n1 is stopped; n2 reads, n3 writes"

compose start n1
wait_healthy n1
expect blue ctl n1 get color --print-value-only
compose restart
wait_healthy n1 n2 n3
expect blue ctl n2 get color --print-value-only
expect "esker" compose exec -T n1 id -un
echo "n1 is back; all were restarted; nothing is lost"

# -- faults from outside, on a new cluster: members are paused, killed, disconnected while clients
# inside the network write down what they see, and judge it.

container() { compose ps -q "$1"; }

compose down -v >/dev/null 2>&1
compose up -d --no-build n1 n2 n3
wait_healthy n1 n2 n3
export CHAOS_SECONDS=50
compose --profile fault-injection up -d --no-build --no-deps chaos
clients=$(compose --profile fault-injection ps -q chaos)
network=$(docker inspect --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "$(container n1)")

sleep 4
echo "n1 is paused"
docker pause "$(container n1)" >/dev/null
sleep 5
docker unpause "$(container n1)" >/dev/null
sleep 2
echo "n2 is killed"
docker kill "$(container n2)" >/dev/null
sleep 3
docker start "$(container n2)" >/dev/null
sleep 4
echo "n3 is disconnected"
docker network disconnect "$network" "$(container n3)"
sleep 5
docker network connect --alias n3 "$network" "$(container n3)"
sleep 4
echo "all are killed"
docker kill "$(container n1)" "$(container n2)" "$(container n3)" >/dev/null
docker start "$(container n1)" "$(container n2)" "$(container n3)" >/dev/null

verdict=$(timeout 180 docker wait "$clients")
docker logs "$clients" 2>&1 | tail -n 25
[ "$verdict" = 0 ] || { echo "the clients' verdict is $verdict"; exit 1; }
echo "paused, killed, disconnected: every promise was kept"
