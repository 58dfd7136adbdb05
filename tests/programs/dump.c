/* Prints its arguments and its environment, each followed by a NUL. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv, char **envp)
{
	(void)argc;
	for (; *argv; argv++)
		fwrite(*argv, 1, strlen(*argv) + 1, stdout);
	for (; *envp; envp++)
		fwrite(*envp, 1, strlen(*envp) + 1, stdout);
	return 0;
}
