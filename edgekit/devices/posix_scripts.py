"""The shell scripts that `posix.PosixDevice` runs on a device, written for dash, bash, busybox, and mksh with toybox.

Constants only: every value comes as an argument, the first of them edgekit's folder. A script that fails exits with 1
and says why on stderr.

What they keep below the folder, which is their current one::

    files/NAME              pushed files, read-only and executable
    partial/NAME/SHA256/    pieces that have arrived of one that is not whole yet
    jobs/NAME/work/         current folder of a job
             claimed/       made by the one runner that carries the job out
             pid            of that runner: process, start time of it, boot of the device
             command  stdout  stderr  exit

mksh calculates with 32 bits: sizes are compared as text, and offsets arrive ready to use.
"""

from __future__ import annotations

_ENTER = r"""
umask 077
fail() { echo "$*" >&2; exit 1; }
case $1 in "~/"*) folder=$HOME/${1#"~/"} ;; *) folder=$1 ;; esac
shift
[ -d "$folder/files" ] && [ -d "$folder/partial" ] && [ -d "$folder/jobs" ] ||
    mkdir -p "$folder/files" "$folder/partial" "$folder/jobs" || fail "$folder cannot be made"
cd "$folder" && folder=$(pwd -P) || fail "$folder cannot be entered"
size_of() { set -- $(ls -lnL "$1"); size=$5; }
# Twenty rounds are a second; a sleep that knows whole seconds only counts for as many.
rounds=0
pause() {
    rounds=$((rounds + 1))
    sleep 0.05 2>/dev/null || { sleep 1 && rounds=$((rounds + 19)); }
}
"""

FACTS = (
    _ENTER
    + r"""
{ read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || fail "/proc cannot be read there"
bits=$(getconf LONG_BIT 2>/dev/null)
if [ -z "$bits" ]; then
    # The fifth byte of a program file is its class: 1 for 32 bits, 2 for 64.
    set -- $(head -c 5 "$(command -v sh)" | od -An -tu1)
    if [ "$5" = 2 ]; then bits=64; else bits=32; fi
fi
echo "folder=$folder"
echo "boot_id=$boot"
echo "user_bits=$bits"
echo "architecture=$(uname -m)"
echo "kernel=$(uname -r)"
echo "cores=$(nproc 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
echo "python=$(python3 --version 2>/dev/null)"
if command -v getprop >/dev/null; then
    echo "model=$(getprop ro.product.model)"
    echo "chip=$(getprop ro.soc.model)"
else
    # Where the first of them is, it is a link to the second, which emulators and containers have alone.
    echo "model=$(cat /proc/device-tree/model 2>/dev/null || cat /sys/firmware/devicetree/base/model 2>/dev/null ||
        cat /sys/class/dmi/id/product_name 2>/dev/null)"
fi
echo "cpuinfo="
head -c 65536 /proc/cpuinfo
"""
)
"""Lines of ``key=value``, then those of /proc/cpuinfo."""

_SUM = r"""
command -v sha256sum >/dev/null || fail "the program sha256sum is not installed there"
has_sum() {
    [ -f "$1" ] || return 1
    wanted=$2
    set -- $(sha256sum <"$1")
    [ "$1" = "$wanted" ]
}
"""

CHECK_FILE = (
    _ENTER
    + _SUM
    + r"""
if has_sum "files/$1" "$2"; then echo same; exit 0; fi
[ ! -d "partial/$1/$2" ] || ls "partial/$1/$2"
"""
)
"""NAME SHA256: says ``same``, or which pieces of the file have arrived already."""

_RECEIVE = (
    _SUM
    + r"""
name=$1 sum=$2
pieces=partial/$name/$sum
# Somebody else may have pushed the same content meanwhile, and have taken the pieces away.
stop() {
    rm -f "$pieces/arriving.$$"
    has_sum "files/$name" "$sum" && exit 0
    fail "$*"
}
mkdir -p "$pieces" || stop "a folder for $name cannot be made"
"""
)

WRITE_PIECE = (
    _ENTER
    + _RECEIVE
    + r"""
cat >"$pieces/arriving.$$" || {
    rm -rf "$pieces"
    stop "$name cannot be written"
}
size_of "$pieces/arriving.$$"
[ "$size" = "$4" ] || stop "$name arrived cut"
mv -f "$pieces/arriving.$$" "$pieces/$3" || stop "$name cannot be put into place"
"""
)
"""NAME SHA256 INDEX SIZE: keeps stdin as that piece of the file."""

WRITE_LAST_PIECE = (
    _ENTER
    + _RECEIVE
    + r"""
write_all() {
    index=0
    while [ "$index" != "$1" ]; do
        cat "$pieces/$index" || return 1
        index=$((index + 1))
    done
    cat
}
write_all "$3" >"$pieces/arriving.$$" || {
    rm -rf "$pieces"
    stop "$name cannot be written"
}
size_of "$pieces/arriving.$$"
[ "$size" = "$4" ] || stop "$name arrived cut"
has_sum "$pieces/arriving.$$" "$sum" || {
    rm -rf "$pieces"
    stop "$name arrived damaged"
}
chmod 500 "$pieces/arriving.$$" && mv -f "$pieces/arriving.$$" "files/$name" && rm -rf "partial/$name" ||
    stop "$name cannot be put into place"
"""
)
"""NAME SHA256 INDEX SIZE: makes the file of the pieces before INDEX and of stdin, if its size and sum are right."""

CHECK_FILES = (
    _ENTER
    + _SUM
    + r"""
if command -v tar >/dev/null; then echo tar; else echo none; fi
cd files && sha256sum "$@" 2>/dev/null
exit 0
"""
)
"""NAME...: says ``tar`` if WRITE_FILES can be used, then a line as sha256sum writes it for each file that is there."""

WRITE_FILES = (
    _ENTER
    + _SUM
    + r"""
sums=$1
shift
batch=partial/.batch.$$
trap 'cd "$folder" && rm -rf "$batch"' EXIT
trap 'exit 1' HUP INT TERM
rm -rf "$batch" && mkdir "$batch" || fail "a folder for files cannot be made"
tar -xf - -C "$batch" || fail "files cannot be written"
cd "$batch"
[ "$(sha256sum "$@")" = "$sums" ] || fail "files arrived damaged"
chmod 500 "$@" && mv -f "$@" "$folder/files" && cd "$folder/partial" && rm -rf "$@" ||
    fail "files cannot be put into place"
"""
)
"""SUMS NAME...: puts the files that a tar archive on stdin holds into place, if SUMS is what sha256sum says of them."""

REMOVE_FILES = (
    _ENTER
    + r"""
cd files && rm -f "$@" && cd ../partial && rm -rf "$@" || fail "files cannot be removed"
"""
)
"""NAME...: removes files and what has arrived of them."""

READ_PIECE = (
    _ENTER
    + r"""
[ -f "$1" ] || fail "there is no file $1"
size_of "$1"
echo "$size"
tail -c "+$2" "$1" | head -c "$3"
"""
)
"""PATH START PIECE_BYTES: a line with the file's size, then the bytes from START on, which counts from 1."""

CHECK_SUM = (
    _ENTER
    + _SUM
    + r"""
has_sum "$1" "$2" || fail "$1 changed while it was read"
"""
)
"""PATH SHA256: fails where the file's sum is another one."""

_IDENTITY = r"""
read -r boot </proc/sys/kernel/random/boot_id
# A process is known by its number and the time when it started: numbers come again.
started_at() {
    started=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    set -- ${stat##*) }
    case $1 in Z | X) return 0 ;; esac
    shift 19
    started=$1
}
"""

_STATE = (
    _IDENTITY
    + r"""
runner_lives() {
    [ -s "$job/pid" ] && read -r pid start pid_boot <"$job/pid" || return 1
    [ "$boot" = "$pid_boot" ] || return 1
    started_at "$pid"
    [ -n "$started" ] && [ "$started" = "$start" ]
}
find_state() {
    code=-
    if [ -s "$job/exit" ]; then state=ended
    elif runner_lives; then state=running
    elif [ -s "$job/exit" ]; then state=ended
    else state=lost
    fi
    [ "$state" != ended ] || read -r code <"$job/exit"
}
"""
)

RUN_JOB = (
    _IDENTITY
    + r"""
# The program gets what ends it; this shell stays to write down how it ended.
trap : HUP INT TERM
cd "$1" && mkdir claimed 2>/dev/null || exit 0
# In a subshell: of its own process an emulator (qemu-user) tells another time than all others read.
started=$(started_at $$; echo "$started")
echo "$$ $started $boot" >pid.new && mv pid.new pid || exit 1
variables=$2
shift 2
cd work || exit 1
(
    while [ "$variables" != 0 ]; do
        export "$1"
        shift
        variables=$((variables - 1))
    done
    exec "$@"
) </dev/null >../stdout 2>../stderr
code=$?
cd ..
echo "$code" >exit.new && mv exit.new exit
"""
)
"""JOB_FOLDER VARIABLE_COUNT VARIABLE=VALUE... ARGV...: what START_JOB leaves behind; the first one of a job does it."""

_PREPARE = r"""
prepare_job() {
    files=$(cat)
    echo "$files" | while read -r key file; do
        [ -z "$key" ] || [ -f "files/$file" ] || fail "the file $file was not pushed"
    done || exit 1
    mkdir -p "$job/work" || fail "a folder for the job $name cannot be made"
    # Android refuses hard links.
    echo "$files" | while read -r key file; do
        [ -z "$key" ] || ln -f "files/$file" "$job/work/$key" 2>/dev/null ||
            { cp "files/$file" "$job/copy.$$" && mv -f "$job/copy.$$" "$job/work/$key"; } || exit 1
    done || fail "the files of the job $name cannot be put into its folder"
}
"""

PREPARE_JOB = (
    _ENTER
    + _PREPARE
    + r"""
name=$1
job=jobs/$name
[ -d "$job/claimed" ] || prepare_job
"""
)
"""NAME: stdin holds lines ``KEY FILE`` of pushed files that the job will find in its current folder."""

START_JOB = (
    _ENTER
    + _PREPARE
    + r"""
name=$1 runner=$2
shift 2
job=jobs/$name
if [ ! -d "$job/claimed" ]; then
    prepare_job
    printf '%s\n' "$@" >"$job/command" || fail "the job $name cannot be written down"
    if command -v setsid >/dev/null; then detach=setsid; else detach=nohup; fi
    EDGEKIT_JOB="$folder/$job/" $detach sh -c "$runner" sh "$folder/$job" "$@" \
        </dev/null >/dev/null 2>"$job/start_error" &
fi
while [ ! -s "$job/pid" ]; do
    [ "$rounds" -lt 200 ] || fail "the job $name did not start: $(cat "$job/start_error")"
    pause
done
"""
)
"""NAME RUN_JOB VARIABLE_COUNT VARIABLE=VALUE... ARGV...: with stdin as for PREPARE_JOB. Returns once the job runs; one
that is known is left alone."""

POLL_JOB = (
    _ENTER
    + _STATE
    + r"""
job=jobs/$1
[ -d "$job" ] || fail "there is no job $1"
[ -d "$job/claimed" ] || fail "the job $1 was not started"
[ -s "$job/pid" ] || sleep 1
find_state
size=0 errors=0
[ ! -f "$job/stdout" ] || size_of "$job/stdout"
[ "$state" = running ] || [ ! -f "$job/stderr" ] || errors=$(($(tail -c "$4" "$job/stderr" | wc -c) + 0))
echo "$state $code $size $errors"
[ "$errors" = 0 ] || tail -c "$4" "$job/stderr"
[ "$size" = 0 ] || tail -c "+$2" "$job/stdout" | head -c "$3"
"""
)
"""NAME START PIECE_BYTES ERROR_BYTES: a line ``STATE EXIT_CODE STDOUT_SIZE ERROR_SIZE``, the end of stderr, and stdout
from START on, which counts from 1."""

CANCEL_JOB = (
    _ENTER
    + _STATE
    + r"""
name=$1
job=jobs/$name
mark=EDGEKIT_JOB=$folder/$job/
find_marked() {
    if printf 'a\0b\n' | grep -qF b; then
        grep -lsF "$mark" /proc/[0-9]*/environ
        return
    fi
    # The grep of busybox does not look behind a NUL.
    head -c 131072 /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | grep -F -e "==> /proc/" -e "$mark" |
        while read -r line; do
            case $line in
            "==> "*) entry=${line#"==> "} entry=${entry%" <=="} ;;
            "$mark") echo "$entry" ;;
            esac
        done
}
find_session() {
    [ -z "$leader" ] || grep -lsE "\) [^ZX] [0-9]+ [0-9]+ $leader " /proc/[0-9]*/stat
}
# Of the job's session, or with its mark in the environment: a program can change either.
find_processes() {
    processes=
    for entry in $(find_session) $(find_marked); do
        entry=${entry#/proc/}
        processes="$processes ${entry%/*}"
    done
}
# Looking through all processes takes long on a busy device: before KILL, only when the known ones are gone.
look_again() {
    living=
    for process in $processes; do
        started_at "$process"
        [ -z "$started" ] || living="$living $process"
    done
    processes=$living
    [ -n "$living" ] && [ "$rounds" -lt 20 ] || find_processes
}
if [ -d "$job" ]; then
    leader=
    ! runner_lives || leader=$pid
    find_processes
    while [ -n "$processes" ]; do
        case $rounds in
        0) kill -TERM $processes 2>/dev/null ;;
        [1-9] | 1[0-9]) ;;
        *) kill -KILL $processes 2>/dev/null ;;
        esac
        [ "$rounds" -lt 120 ] || fail "processes of the job $name did not end:$processes"
        pause
        look_again
    done
    mv "$job" "jobs/.removed.$name.$$" || fail "the job $name cannot be removed"
fi
rm -rf jobs/.removed.*
"""
)
"""NAME: TERM to all processes of the job, after a second KILL, and its folder is removed; nothing if there is none."""

LIST_JOBS = (
    _ENTER
    + r"""
for job in jobs/*; do
    [ ! -d "$job" ] || echo "${job#jobs/}"
done
"""
)
