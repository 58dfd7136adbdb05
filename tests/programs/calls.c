/*
 * System calls that need the kernel's consent, one a run: `calls seccomp`, `calls io_uring`, `calls hangup`;
 * `calls nobody` needs none, and is for images without a shell. Prints "ok", or what failed and exits with 1.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void check(int holds, const char *what)
{
	if (!holds) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

/* A filter after which getppid fails with an error that it never has. */
static void seccomp(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };
	check(syscall(SYS_getppid) >= 0, "getppid before");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
	check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "seccomp");
	check(syscall(SYS_getppid) == -1 && errno == EXDEV, "getppid behind the filter");
	check(getuid() == 0, "getuid behind the filter");
}

/* One write through the rings, and its result. */
static void io_uring(void)
{
	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	check(ring >= 0, "io_uring_setup");
	size_t bytes = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	check(params.features & IORING_FEAT_SINGLE_MMAP, "one mapping");
	int both = PROT_READ | PROT_WRITE;
	char *rings = mmap(0, bytes, both, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	check(rings != MAP_FAILED, "the rings");
	struct io_uring_sqe *entry = mmap(0, 4096, both, MAP_SHARED, ring, IORING_OFF_SQES);
	check(entry != MAP_FAILED, "the entries");
	int file = open("/written", O_RDWR | O_CREAT, 0600);
	check(file >= 0, "/written");
	entry->opcode = IORING_OP_WRITE;
	entry->fd = file;
	entry->addr = (unsigned long)"uring";
	entry->len = 5;
	((unsigned *)(rings + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(rings + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	check(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) == 1, "io_uring_enter");
	struct io_uring_cqe *end = (void *)(rings + params.cq_off.cqes);
	check(end->res == 5, "the result");
	char read_back[5];
	check(pread(file, read_back, 5, 0) == 5 && !memcmp(read_back, "uring", 5), "what was written");
}

/* Not root, and the directory of a process can be read. */
static void nobody(void)
{
	check(getuid() == 65532 && getgid() == 65532, "the user");
	check(access("/proc/self/status", R_OK) == 0, "/proc");
	check(access("/bin/sh", F_OK) == -1, "there is a shell");
}

/* Takes the terminal away from all that have it open. */
static void hangup(void)
{
	check(vhangup() == 0, "vhangup");
}

int main(int argc, char **argv)
{
	(void)argc;
	if (!strcmp(argv[1], "seccomp"))
		seccomp();
	else if (!strcmp(argv[1], "nobody"))
		nobody();
	else if (!strcmp(argv[1], "hangup"))
		hangup();
	else
		io_uring();
	puts("ok");
	return 0;
}
