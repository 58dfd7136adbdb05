/* A line, and an exit code that is not zero. */
#include <stdio.h>

int main(void)
{
	puts("hello");
	return 7;
}
