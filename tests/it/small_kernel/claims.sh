# What the small kernel is said to run, in the image tools: a function for each claim, in which every command must
# succeed. Prints "NAME ok" or "NAME failed" for each of $CLAIMS, and before the latter what it said.

# fails COMMAND...: it must not succeed. (A plain "!" would be passed over by set -e.)
fails() {
	if "$@"; then return 1; fi
}

claim_dpkg() {
	mkdir -p package/DEBIAN package/usr/share/claim
	echo packed >package/usr/share/claim/file
	printf '%s\n' 'Package: claim' 'Version: 1' 'Architecture: all' 'Maintainer: nobody <n@n>' 'Description: test' \
		>package/DEBIAN/control
	printf '#!/bin/sh\necho configured >/usr/share/claim/state\n' >package/DEBIAN/postinst
	chmod 755 package/DEBIAN/postinst
	dpkg-deb --build package claim.deb
	dpkg --install claim.deb
	grep -x packed /usr/share/claim/file
	grep -x configured /usr/share/claim/state
	dpkg --purge claim
	[ ! -e /usr/share/claim/file ]
}

# From a repository of files: update, install as apt's own user fetches it, remove.
claim_apt() {
	mkdir -p /srv/repository package/DEBIAN
	printf '%s\n' 'Package: fetched' 'Version: 1' 'Architecture: all' 'Maintainer: nobody <n@n>' 'Description: test' \
		>package/DEBIAN/control
	dpkg-deb --build package /srv/repository/fetched.deb
	cd /srv/repository
	{
		dpkg-deb --field fetched.deb
		echo 'Filename: ./fetched.deb'
		echo "Size: $(stat -c %s fetched.deb)"
		echo "SHA256: $(sha256sum fetched.deb | cut -d' ' -f1)"
	} >Packages
	echo 'deb [trusted=yes] file:/srv/repository ./' >/etc/apt/sources.list
	apt-get update
	apt-get install --yes fetched
	dpkg-query --status fetched | grep -x 'Status: install ok installed'
	apt-get purge --yes fetched
}

claim_gcc() {
	printf '%s\n' '#include <pthread.h>' '#include <stdio.h>' \
		'static void *answer(void *to) { *(int *)to = 42; return 0; }' \
		'int main(void) { pthread_t t; int n = 0; pthread_create(&t, 0, answer, &n); pthread_join(t, 0);' \
		'return printf("%d\n", n) != 3; }' >answer.c
	gcc -O1 -Wall -Werror -o answer answer.c
	[ "$(./answer)" = 42 ]
}

claim_make() {
	printf 'all: a b\na b: c\n\tcp c $@\nc:\n\techo made >$@\n' >Makefile
	make -j4
	[ "$(cat a b)" = "$(printf 'made\nmade')" ]
	make | grep 'Nothing to be done'
}

claim_git() {
	export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=n@n GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=n@n
	git init --quiet origin
	echo one >origin/file
	git -C origin add file
	git -C origin commit --quiet -m first
	git clone --quiet "file://$PWD/origin" copy
	[ "$(git -C copy log --format=%s)" = first ]
	git -C copy fsck --strict
}

# Threads, processes, a named semaphore, which is a file in /dev/shm.
claim_python() {
	python3 -S - <<-'PYTHON'
		import multiprocessing, threading
		def send(queue): queue.put(42)
		queue = multiprocessing.Queue()
		child = multiprocessing.Process(target=send, args=(queue,))
		child.start()
		assert queue.get() == 42
		child.join()
		assert child.exitcode == 0
		thread = threading.Thread(target=lambda: None)
		thread.start()
		thread.join()
	PYTHON
}

# Its event loop: a timer, a file by its thread pool, a child, a socket.
claim_node() {
	node -e '
		const net = require("net"), fs = require("fs"), { exec } = require("child_process");
		const done = new Set();
		const say = (what) => { done.add(what); if (done.size == 4) { console.log("all"); process.exit(0); } };
		setTimeout(() => say("timer"), 1);
		fs.readFile("/etc/passwd", (error) => error || say("file"));
		exec("exit 3", (error) => error.code == 3 && say("child"));
		const server = net.createServer((s) => s.end("x")).listen(0, "127.0.0.1", () =>
			net.connect(server.address().port, "127.0.0.1").on("data", () => say("socket")));
	' | grep -x all
}

# A daemon without systemd: started, asked on loopback, stopped.
claim_service() {
	echo served >page
	start-stop-daemon --start --background --make-pidfile --pidfile "$PWD/pid" --chdir "$PWD" \
		--exec /usr/bin/python3 -- -m http.server --bind 127.0.0.1 8001
	python3 -S - <<-'PYTHON'
		import socket, time
		for attempt in range(600):
		    try:
		        peer = socket.create_connection(("127.0.0.1", 8001))
		        break
		    except ConnectionRefusedError:
		        time.sleep(0.1)
		peer.sendall(b"GET /page HTTP/1.0\r\n\r\n")
		assert peer.makefile("rb").read().endswith(b"\r\n\r\nserved\n")
	PYTHON
	kill -0 "$(cat pid)"
	start-stop-daemon --stop --retry TERM/30 --pidfile "$PWD/pid"
	fails start-stop-daemon --status --pidfile "$PWD/pid"
}

# By a user who is nobody: root in a namespace of its own, with a file system of its own.
claim_user_namespaces() {
	chmod 755 .
	# shellcheck disable=SC2016
	setpriv --reuid 65534 --regid 65534 --clear-groups unshare --user --map-root-user --mount --pid --fork sh -ec '
		[ "$(id -u)" = 0 ]
		mount -t tmpfs none /mnt
		echo inside >/mnt/file
	'
	[ ! -e /mnt/file ]
}

claim_overlayfs() {
	mkdir lower upper work merged
	echo low >lower/kept
	echo low >lower/changed
	echo low >lower/removed
	mount -t tmpfs none upper
	mkdir upper/data upper/work
	mount -t overlay -o "lowerdir=lower,upperdir=upper/data,workdir=upper/work" none merged
	echo high >merged/changed
	rm merged/removed
	[ "$(cat merged/kept merged/changed)" = "$(printf 'low\nhigh')" ]
	[ "$(cat lower/changed)" = low ]
	[ -c upper/data/removed ]
	[ ! -e merged/removed ]
	umount merged upper
}

# group NAME: a control group with all controllers.
group() {
	echo '+memory +pids +cpu' >/sys/fs/cgroup/cgroup.subtree_control
	mkdir "/sys/fs/cgroup/$1"
	cd "/sys/fs/cgroup/$1"
}

# A program that needs more than its group has is killed, and nobody else.
claim_cgroup_memory() {
	group memory-claim
	echo 16M >memory.max
	fails sh -c 'echo 0 >cgroup.procs; exec python3 -S -c "print(len(bytearray(64 << 20)))"'
	grep -x 'oom_kill 1' memory.events
}

claim_cgroup_pids() {
	group pids-claim
	echo 2 >pids.max
	fails sh -c 'echo 0 >cgroup.procs; sleep 1 & sleep 1 & wait'
	grep -x 'max [1-9][0-9]*' pids.events
}

claim_cgroup_cpu() {
	group cpu-claim
	echo '10000 100000' >cpu.max
	# A quarter of a second of an emulated CPU, which takes ten times as long here.
	sh -c 'echo 0 >cgroup.procs; i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done'
	grep -x 'nr_throttled [1-9][0-9]*' cpu.stat
}

# loop FILE: mounts it, writes to it where that can be, and finds what was written after it has been mounted again.
claim_loop_ext4() {
	mkdir tree mounted
	echo before >tree/file
	truncate -s 8M image
	mkfs.ext4 -q -d tree image
	mount -o loop image mounted
	[ "$(cat mounted/file)" = before ]
	echo after >mounted/file
	setcap_like mounted/file
	umount mounted
	mount -o loop,ro image mounted
	[ "$(cat mounted/file)" = after ]
	umount mounted
	e2fsck -f -n image
}

# setcap_like FILE: a file capability, which is an extended attribute (cap_net_raw+ep).
setcap_like() {
	python3 -S -c 'import os, sys
value = bytes.fromhex("0100000200200000000000000000000000000000")
os.setxattr(sys.argv[1], "security.capability", value)
assert os.getxattr(sys.argv[1], "security.capability") == value' "$1"
}

claim_loop_squashfs() {
	mkdir tree mounted
	echo inside >tree/file
	head -c 300000 /dev/urandom >tree/random
	for compression in gzip xz zstd; do
		mksquashfs tree "image.$compression" -comp "$compression" -no-progress -quiet
		mount -o loop "image.$compression" mounted
		cmp tree/random mounted/random
		[ "$(cat mounted/file)" = inside ]
		umount mounted
	done
}

claim_fuse() {
	mkdir tree mounted
	echo inside >tree/file
	mksquashfs tree image -no-progress -quiet
	squashfuse image mounted
	[ "$(cat mounted/file)" = inside ]
	grep ' fuse.squashfuse ' /proc/mounts
	fusermount3 -u mounted || fusermount -u mounted
}

# speak ADDRESS: a server and a client over TCP and UDP.
speak() {
	python3 -S - "$1" <<-'PYTHON'
		import socket, sys
		family, _, _, _, address = socket.getaddrinfo(sys.argv[1], 0)[0]
		server = socket.create_server(address, family=family)
		client = socket.create_connection(server.getsockname()[:2])
		peer, _ = server.accept()
		peer.sendall(b"tcp")
		assert client.recv(3) == b"tcp"
		receiver = socket.socket(family, socket.SOCK_DGRAM)
		receiver.bind(address)
		socket.socket(family, socket.SOCK_DGRAM).sendto(b"udp", receiver.getsockname())
		assert receiver.recv(3) == b"udp"
	PYTHON
}

claim_ipv4() {
	ip address show dev lo | grep 'inet 127.0.0.1/8'
	speak 127.0.0.1
}

claim_ipv6() {
	ip address show dev lo | grep 'inet6 ::1/128'
	speak ::1
}

for claim in $CLAIMS; do
	mkdir -p "/work/$claim"
	# Not in a condition, where the shell would pass over set -e.
	(
		set -ex
		cd "/work/$claim"
		"claim_$claim"
	) >"/work/$claim.log" 2>&1 </dev/null
	if [ $? = 0 ]; then
		echo "$claim ok"
	else
		sed "s/^/$claim: /" "/work/$claim.log"
		echo "$claim failed"
	fi
done
