/* Writes and checks files of so many MiB each: "write NAME MIB" and "check NAME MIB". No two pages of a file are the same, and none is
   empty. Prints the first error. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 1 << 20 };

static uint64_t block[BLOCK / 8], seen[BLOCK / 8];

static void make(uint64_t number)
{
	for (uint64_t i = 0; i < BLOCK / 8; i++)
		block[i] = (number * (BLOCK / 8) + i) * 0x9e3779b97f4a7c15u;
}

/* Moves a whole block, however often that has to be said. */
static int whole(int fd, char *bytes, int writes)
{
	for (size_t done = 0; done < BLOCK;) {
		ssize_t count = writes ? write(fd, bytes + done, BLOCK - done) : read(fd, bytes + done, BLOCK - done);

		if (count <= 0)
			return -1;
		done += count;
	}
	return 0;
}

int main(int count, char **words)
{
	int writes = count > 3 && !strcmp(words[1], "write");
	uint64_t size = count > 3 ? strtoull(words[3], 0, 0) : 0;
	int fd = count > 3 ? open(words[2], writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0600) : -1;

	for (uint64_t number = 0; number < size; number++) {
		make(number);
		errno = 0;
		if (whole(fd, writes ? (char *)block : (char *)seen, writes)) {
			printf("%s: MiB %lu: %s\n", words[1], (unsigned long)number, strerror(errno));
			return 1;
		}
		if (!writes && memcmp(block, seen, BLOCK)) {
			printf("%s: MiB %lu is not what was written\n", words[1], (unsigned long)number);
			return 1;
		}
	}
	printf("%s: %lu MiB\n", count > 1 ? words[1] : "?", (unsigned long)size);
	return 0;
}
