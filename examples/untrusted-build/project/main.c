#include <stdio.h>
#include <stdlib.h>

#include "primes.h"

int main(int argc, char **argv)
{
	int limit = argc == 2 ? atoi(argv[1]) : 0;
	char *prime = limit > 0 && limit < 1 << 28 ? malloc(limit + 1) : NULL;

	if (!prime) {
		fprintf(stderr, "usage: primes LIMIT\n");
		return 2;
	}
	sieve(prime, limit);
	print(prime, limit);
	free(prime);
	return 0;
}
