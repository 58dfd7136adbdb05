#include <stdio.h>

int main(void)
{
	puts("Hello from a program with libraries.");
	return 0;
}
