# redo primes: built in a machine of its own, and again only when a source, the image's recipe or rdvm has changed.
project=../../untrusted-build/project
redo-ifchange "$project"/* ../../toolchain.sh "$(command -v rdvm)"
rdvm run -q --timeout 5m --copy-in "$project":/src --copy-out /src/primes:"$3" "$IMAGE" -- make -C /src >&2
