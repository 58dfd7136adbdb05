/* Prints "on", then the number of each signal that comes; SIGTERM ends it with 7, as does a child that gets one. */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	sigset_t all;
	int signal;

	sigfillset(&all);
	sigdelset(&all, SIGCHLD);
	sigprocmask(SIG_BLOCK, &all, NULL);
	if (!fork()) {
		while (!sigwait(&all, &signal))
			if (signal == SIGTERM)
				return 5;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("on");
	while (!sigwait(&all, &signal)) {
		int status = 0;

		printf("%d\n", signal);
		if (signal == SIGTERM) {
			wait(&status);
			return WEXITSTATUS(status) + 2;
		}
	}
	return 1;
}
