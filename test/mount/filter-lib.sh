# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the tests of filters share; they source it after lib.sh.
#
#   $FILTERS                              a folder of filters: the shipped ones, and those of src/filter/test
#   attach PATH NAME [KEY=VALUE...], detach PATH NAME
#   filter_is PATH NAME JQ                one value of `vdisk --json filter ls PATH`
#   status WHAT WANTED COMMAND...         the exit status of COMMAND; its output is in $T/out, its errors in $T/err
#   refused WHAT PATH WORDS COMMAND...    `vdisk COMMAND` fails about PATH with WORDS, as a sentence and as a document
#   eio WHAT COMMAND...                   COMMAND fails with "Input/output error"
#   logs MOUNTPOINT WORDS                 has its daemon said so? Waits for it

FILTERS=$T/filters
mkdir "$FILTERS"
ln -s "$VD_BUILD"/filters/*.so "$VD_BUILD"/src/filter/test/*.so "$FILTERS/"

attach() {
    vdisk filter attach "$@" || fail "attach ${*:2}"
}

detach() {
    vdisk filter detach "$@" || fail "detach ${*:2}"
}

filter_is() {
    vdisk --json filter ls "$1" 2>/dev/null | jq -r --arg name "$2" ".filters[] | select(.name == \$name) | $3"
}

status() {
    local what=$1 wanted=$2 found=0
    shift 2
    "$@" >"$T/out" 2>"$T/err" || found=$?
    [ "$found" = "$wanted" ] || fail "$what: exit $found, wanted $wanted: $(cat "$T/out" "$T/err")"
}

refused() {
    local what=$1 path=$2 words=$3
    shift 3
    status "$what" 1 vdisk --json "$@"
    assert_eq "$what: path of the error" "$(jq -r .error.path "$T/out")" "$path"
    grep -q "^vdisk: $path: .*$words" "$T/err" || fail "$what: stderr is: $(cat "$T/err")"
    jq -r .error.what "$T/out" | grep -q "$words" || fail "$what: document is: $(cat "$T/out")"
}

eio() {
    local what=$1
    shift
    assert_fails "$what" "$@"
    grep -q 'Input/output error' "$T/fails.out" || fail "$what: failed otherwise: $(cat "$T/fails.out")"
}

logs() {
    wait_for "grep -q -- '$2' '$(vd_log "$1")'" 5
}

# fio_on NAME FILE ARGS...: fio writes FILE (which exists) at random, reads it all back and compares. Its output is in
# $T/fio-NAME.log
fio_on() {
    local name=$1 file=$2
    shift 2
    # fio leaves its state files where it runs
    (cd "$T" && exec fio --name="$name" --filename="$file" --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --randrepeat=1 --fallocate=none \
        --allow_file_create=0 --output="$T/fio-$name.log" "$@")
}

# fio_begin NAME FILE ARGS...: does so again and again, until fio_end NAME, which fails unless all is well; one whole
# round at least is done. fio_goes_on NAME: none has failed so far
declare -A FIO_PIDS=()
fio_begin() {
    local name=$1
    (
        trap - EXIT
        exec 5>&- 6>&- 7>&- # of the test
        until [ -e "$T/fio-$name.stop" ]; do
            fio_on "$@" >"$T/fio-$name.err" 2>&1 || exit 1
            echo . >>"$T/fio-$name.rounds"
        done
    ) &
    FIO_PIDS[$name]=$!
    later $!
}

fio_goes_on() {
    alive "${FIO_PIDS[$1]}" || fail "fio $1: $(cat "$T/fio-$1.log" "$T/fio-$1.err")"
}

fio_end() {
    local name=$1
    fio_goes_on "$name"
    touch "$T/fio-$name.stop"
    wait_for "! alive ${FIO_PIDS[$name]}" 60
    wait "${FIO_PIDS[$name]}" || fail "fio $name: $(cat "$T/fio-$name.log" "$T/fio-$name.err")"
    [ -s "$T/fio-$name.rounds" ] || fail "fio $name: no round was done"
    rm "$T/fio-$name.stop" "$T/fio-$name.rounds"
}
