/* The primes up to a limit. */

/* Sets prime[n] for each n up to limit, where prime has room for limit + 1. */
void sieve(char *prime, int limit);

/* Prints them on one line. */
void print(const char *prime, int limit);
