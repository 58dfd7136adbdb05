#include <stdio.h>

int main(void)
{
	for (;;)
		puts("maybe it is this number: 42");
}
