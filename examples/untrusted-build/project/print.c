#include <stdio.h>

#include "primes.h"

void print(const char *prime, int limit)
{
	const char *between = "";

	for (int n = 0; n <= limit; n++)
		if (prime[n]) {
			printf("%s%d", between, n);
			between = " ";
		}
	putchar('\n');
}
