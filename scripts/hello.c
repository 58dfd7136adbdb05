/* The command of the `libs` image: small, dynamically linked, and with an output that is the same wherever the
 * image runs, since it tells only what the image itself holds. */
#include <gnu/libc-version.h>
#include <stdio.h>

int main(void)
{
	printf("hello from C, linked with glibc %s\n", gnu_get_libc_version());
	return fflush(stdout) ? 1 : 0;
}
