/* Sends itself the signal whose number is its argument. Not a shell's kill: shells ignore some signals. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	kill(getpid(), argc > 1 ? atoi(argv[1]) : 0);
	sleep(5);
	return 0;
}
