/* Prints one line for everything below the current directory, in the order of paths: path, mode, owner, device numbers,
 * size, number of the first name of the same file, number of names, link target, checksum of the contents. Mount points
 * at the top are passed over. With an argument everything belongs to 0:0. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

typedef int compare(const struct dirent **, const struct dirent **);

static struct {
	ino_t ino;
	int number;
} seen[100000];
static int count, root_owner;

static unsigned long long checksum(const char *path)
{
	static unsigned char block[65536];
	unsigned long long sum = 0;
	int fd = open(path, O_RDONLY);
	long length;

	while ((length = read(fd, block, sizeof block)) > 0)
		for (long at = 0; at < length; at++)
			sum = (sum ^ block[at]) * 1099511628211ull;
	close(fd);
	return sum;
}

/* The number of the first name of this file. */
static int first_name(ino_t ino)
{
	int first = count;

	for (int i = 0; i < count; i++)
		if (seen[i].ino == ino)
			first = seen[i].number;
	seen[count].ino = ino, seen[count].number = first, count++;
	return first;
}

static void print(const char *path, const struct stat *s)
{
	int directory = S_ISDIR(s->st_mode), device = S_ISCHR(s->st_mode) || S_ISBLK(s->st_mode);
	int plain = S_ISREG(s->st_mode) || S_ISLNK(s->st_mode);
	char target[8192] = "";

	if (S_ISLNK(s->st_mode) && readlink(path, target, sizeof target - 1) < 0)
		perror(path);
	printf("%s %o %d:%d %d,%d %lld #%d nlink %d -> %s %llx\n", path + 1, s->st_mode, root_owner ? 0 : s->st_uid,
	       root_owner ? 0 : s->st_gid, device ? major(s->st_rdev) : 0, device ? minor(s->st_rdev) : 0,
	       plain ? (long long)s->st_size : 0, first_name(s->st_ino), directory ? 0 : (int)s->st_nlink, target,
	       S_ISREG(s->st_mode) ? checksum(path) : 0);
}

static void walk(const char *path, int top)
{
	struct dirent **names;
	int n = scandir(path, &names, 0, (compare *)alphasort);

	for (int i = 0; i < n; i++) {
		const char *name = names[i]->d_name;
		char child[8192];
		struct stat s;

		if (!strcmp(name, ".") || !strcmp(name, ".."))
			continue;
		if (top && strstr("|dev|proc|sys|run|tmp|root|", name) && strlen(name) > 2)
			continue;
		snprintf(child, sizeof child, "%s/%s", path, name);
		if (lstat(child, &s)) {
			perror(child);
			exit(1);
		}
		print(child, &s);
		if (S_ISDIR(s.st_mode))
			walk(child, 0);
	}
}

int main(int argc, char **argv)
{
	(void)argv;
	root_owner = argc > 1;
	walk(".", 1);
	return 0;
}
