/* Fills the file system that the working directory is on: with one file ("file"), with files of so many bytes each
   ("files N"), or with directories ("directories"). Prints the error that ended it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char block[1 << 20];

/* Writes up to `size` bytes; the number of bytes that it came to. */
static size_t fill(int fd, size_t size)
{
	size_t step = sizeof block, done = 0;

	while (done < size) {
		ssize_t count = write(fd, block, step < size - done ? step : size - done);

		if (count < 0 && step == 1)
			break;
		if (count < 0)
			step = step > 4096 ? step / 2 : 1;
		else
			done += count;
	}
	return done;
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "file";
	size_t size = count > 2 ? strtoull(words[2], 0, 0) : 0;
	char name[64];
	long made = 0;
	int fd, error;

	memset(block, 0x5a, sizeof block);
	if (!strcmp(what, "file")) {
		fd = open("file", O_WRONLY | O_CREAT | O_APPEND, 0600);
		if (fd >= 0)
			fill(fd, ~(size_t)0 >> 1);
	} else {
		for (;; made++) {
			/* Not all in one directory, and names as long as people give them. */
			snprintf(name, sizeof name, "d%ld", made / 1000);
			if (made % 1000 == 0 && mkdir(name, 0700))
				break;
			snprintf(name, sizeof name, "d%ld/a-name-of-usual-length-%ld.txt", made / 1000, made);
			if (!strcmp(what, "directories")) {
				if (mkdir(name, 0700))
					break;
				continue;
			}
			fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
			if (fd < 0)
				break;
			if (fill(fd, size) < size) {
				close(fd);
				break;
			}
			close(fd);
		}
	}
	error = errno;
	printf("%s: %s\n", what, strerror(error));
	return error != ENOSPC;
}
