#!/bin/sh
# Inside the outer machine: a shell on the fourth serial port, in a session of its own, as job control wants it.
stty -F /dev/ttyS3 sane
setsid -c sh -i </dev/ttyS3 >/dev/ttyS3 2>&1
