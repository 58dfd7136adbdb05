/* Tells of extended attributes: `attributes FILE NAME...` prints each value in hexadecimal or the errno of asking for it, and
 * `attributes -n FILE` how many there are. `attributes -b PORT` tries to listen on a port, for which those below 1024 take
 * a capability. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/xattr.h>

static char value[65536];

int main(int argc, char **argv)
{
	int i;
	if (argc == 3 && !strcmp(argv[1], "-b")) {
		struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		errno = 0;
		bind(fd, (struct sockaddr *)&at, sizeof at);
		printf("errno %d\n", errno);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "-n")) {
		ssize_t length = llistxattr(argv[2], value, sizeof value);
		ssize_t at, count = 0;
		for (at = 0; at < length; at++)
			count += !value[at];
		printf("%zd\n", count);
		return 0;
	}
	for (i = 2; i < argc; i++) {
		ssize_t length = lgetxattr(argv[1], argv[i], value, sizeof value);
		ssize_t at;
		if (length < 0)
			printf("errno %d", errno);
		for (at = 0; at < length; at++)
			printf("%02x", (unsigned char)value[at]);
		putchar('\n');
	}
	return 0;
}
