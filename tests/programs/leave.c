/* Leaves two orphans behind: one that writes, then waits to write again, and one with a session of its own.
 *
 * In C, since a shell wants /dev/null for what it puts into the background, and a user namespace may not make one. */
#include <unistd.h>

int main(void)
{
	if (!fork()) {
		usleep(100000);
		write(1, "early\n", 6);
		sleep(1000);
		write(1, "late\n", 5);
		return 0;
	}
	if (!fork()) {
		setsid();
		if (!fork())
			sleep(1000);
		return 0;
	}
	usleep(300000);
	return 1;
}
