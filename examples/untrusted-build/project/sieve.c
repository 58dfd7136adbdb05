#include "primes.h"

void sieve(char *prime, int limit)
{
	for (int n = 0; n <= limit; n++)
		prime[n] = n > 1;
	for (int n = 2; n <= limit / n; n++)
		for (int multiple = n * n; prime[n] && multiple <= limit; multiple += n)
			prime[multiple] = 0;
}
