#!/bin/sh
# Stands in for the program in tests of the supervisor: makes an empty device, or runs until it is stopped. A pool with
# a file `broken` beside its device does not start.
case "$1 $2" in
"pool create")
    # pool create --name NAME --device PATH,size=SIZE
    : >"${6%,size=*}"
    ;;
"pool serve")
    # pool serve --name NAME --device PATH --listen ENDPOINT
    if [ -e "${6%/*}/broken" ]; then
        echo "the device is broken" >&2
        exit 3
    fi
    exec sleep 100000
    ;;
*)
    exec sleep 100000
    ;;
esac
