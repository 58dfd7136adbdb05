/* PID 1 of the machines that benches/boot.rs measures. Needs no library, so that its own start costs nothing.
 *
 * Its first act that can be seen is the mark \1U\2 on the second serial port, written to the port itself: the moment at which user space
 * runs, told without a driver in between. Then, with `bytes=N` on the kernel's command line, N bytes through the driver
 * of that port, of which the last three are the mark \1E\2. Then a line on the console, an exit code for rdvm on the
 * third port, and a reset. */
#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/reboot.h>

#define COM2 0x2f8
#define COM3 0x3e8
#define NODE 0020600 /* a character device, for its owner */

/* Set when the first port was refused. */
static int through_driver;

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}

static void put(int port, const char *text)
{
	for (; *text; text++)
		__asm__ volatile("outb %0, %w1" : : "a"(*text), "d"(port));
}

/* The second serial port as a file. The image has no device nodes, so it is made. */
static int stdout_port(void)
{
	struct termios settings;
	int fd;

	call(__NR_mknod, (long)"/port", NODE, 4 << 8 | 65, 0);
	fd = call(__NR_open, (long)"/port", O_WRONLY | O_NOCTTY, 0, 0);
	call(__NR_ioctl, fd, TCGETS, (long)&settings, 0);
	settings.c_oflag = 0;
	call(__NR_ioctl, fd, TCSETS, (long)&settings, 0);
	return fd;
}

static void send(long rest)
{
	static char block[4096];
	int fd = stdout_port();

	for (unsigned at = 0; at < sizeof block; at++)
		block[at] = 'x';
	while (rest > 0) {
		long length = rest < (long)sizeof block ? rest : (long)sizeof block;

		if (length == rest)
			block[length - 3] = 1, block[length - 2] = 'E', block[length - 1] = 2;
		length = call(__NR_write, fd, (long)block, length, 0);
		if (length <= 0)
			break;
		rest -= length;
	}
	call(__NR_ioctl, fd, TCSBRK, 1, 0); /* tcdrain */
}

static long number(const char *digits)
{
	long value = 0;

	while (*digits >= '0' && *digits <= '9')
		value = value * 10 + *digits++ - '0';
	return value;
}

/* After `bytes=`, which the kernel does not know and hands to PID 1 as a variable. */
static long wished(char **environment)
{
	for (; *environment; environment++) {
		const char *name = "bytes=", *at = *environment;

		while (*name && *name == *at)
			name++, at++;
		if (!*name)
			return number(at);
	}
	return 0;
}

static long count;

/* From the mark on. */
__attribute__((noreturn)) static void go_on(void)
{
	if (count)
		send(count);
	call(__NR_write, 1, (long)"HELLO\n", 6, 0);
	if (!through_driver)
		put(COM3, "0\n");
	call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
	for (;;)
		call(__NR_pause, 0, 0, 0, 0);
}

/* Where the ports themselves are out of reach: emulated SVM refuses them to user space once somebody has written all
 * segment registers through KVM, as QEMU does for its BIOS. */
static void refused(int signal)
{
	(void)signal;
	through_driver = 1;
	call(__NR_write, stdout_port(), (long)"\1U\2", 3, 0);
	go_on();
}

__attribute__((used, noreturn)) static void begin(long *stack)
{
	struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		unsigned long mask;
	} action = { .handler = refused, .flags = SA_RESTORER };

	count = wished((char **)(stack + 1 + stack[0] + 1));
	call(__NR_rt_sigaction, SIGSEGV, (long)&action, 0, sizeof action.mask);
	call(__NR_iopl, 3, 0, 0, 0);
	put(COM2, "\1U\2");
	go_on();
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
