#!/usr/bin/env bash
# Prints the archive that apt uses on this machine for Debian itself; MIRROR=URL overrules it. Nothing is assumed where apt
# names none, which is so on Ubuntu.
set -euo pipefail
if [ -z "${MIRROR:-}" ]; then
	# shellcheck disable=SC2016 # apt's own placeholders
	MIRROR=$(apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk -F'|' '$1 == "Debian" && $2 == "main" && $3 !~ /[-\/]/ && $4 ~ /^https?:/ { print $4; exit }')
fi
# Without package lists apt knows no origin; its sources name the archive all the same, first the one of the release.
if [ -z "$MIRROR" ]; then
	MIRROR=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
		sed -n -E 's/^(deb|URIs:)[^#]* ?(https?:[^ ]*\/debian\/?)( .*)?$/\2/p' | head -n 1)
fi
[ -n "$MIRROR" ] || {
	echo "mirror: apt's sources name no archive of Debian; name one with MIRROR=URL" >&2
	exit 1
}
echo "$MIRROR"
