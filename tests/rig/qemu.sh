#!/bin/sh
# The QEMU of the rig: rdvm's arguments, changed as the environment says. `RDVM_QEMU` leads here.
#
#   RIG_ICOUNT=1     time in the machine is the number of its instructions, one nanosecond each
#   RIG_SHELL=PATH   a fourth serial port on the fifos PATH.in and PATH.out; RIG_PULSE=PATH the same
#   RIG_MONITOR=PATH QEMU's monitor on that socket, to look into a machine that hangs
for word do
	shift
	case $word in
		max,-erms,-fsrm) word=EPYC-Milan,-erms,-fsrm ;; # what benches/results were measured on
		tcg,thread=multi) [ -z "${RIG_ICOUNT:-}" ] || word=tcg,thread=single ;;
	esac
	set -- "$@" "$word"
done
[ -z "${RIG_ICOUNT:-}" ] ||
	set -- "$@" -icount shift=0,sleep=off,align=off -rtc base=2026-01-01T00:00:00,clock=vm -seed 1
port=${RIG_SHELL:-${RIG_PULSE:-}}
[ -z "$port" ] || set -- "$@" -chardev "pipe,id=port,path=$port" -device isa-serial,chardev=port,index=3
[ -z "${RIG_MONITOR:-}" ] ||
	set -- "$@" -chardev "socket,id=monitor,path=$RIG_MONITOR,server=on,wait=off" -mon chardev=monitor
exec qemu-system-x86_64 "$@"
